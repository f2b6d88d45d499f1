"""Nodes that name a model and its adapters. The weights are read when a later node first needs them."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from smalti.common.checks import check_real
from smalti.errors import SmaltiError
from smalti.integrations.comfyui import folders
from smalti.integrations.comfyui.models import Source, open_model, stamp
from smalti.integrations.comfyui.types import ADAPTERS, MODEL, check_type
from smalti.runtime.memory import parse_memory
from smalti.runtime.quantization import QUANTIZATIONS
from smalti.storage.adapters import read_adapters
from smalti.storage.folder import OFFLOADS
from smalti.storage.loading import load_outline
from smalti.storage.precision import DTYPES

AUTO = "auto"
_STRONGEST = 100.0


class SmaltiAdapter(io.ComfyNode):
    """A LoRA adapter for the loader; several form a chain."""

    @classmethod
    def define_schema(cls) -> Any:
        """Return the node's inputs and outputs."""
        return io.Schema(
            node_id="SmaltiAdapter",
            display_name="Smalti Adapter",
            category="smalti",
            description="Adds a LoRA adapter from models/smalti to the model that is loaded.",
            inputs=[
                io.Combo.Input(
                    "adapter",
                    options=folders.adapter_names(),
                    tooltip="Adapter folder in models/smalti, in peft's layout.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-_STRONGEST,
                    max=_STRONGEST,
                    step=0.05,
                    tooltip="Factor of what the adapter changes.",
                ),
                ADAPTERS.Input(
                    "adapters", optional=True, tooltip="Adapters before this one; their changes add up."
                ),
            ],
            outputs=[ADAPTERS.Output("adapters", display_name="adapters")],
        )

    @classmethod
    def execute(cls, adapter: str, strength: float, adapters: Any = None) -> Any:
        """Return the chain with this adapter at its end."""
        chain = _chain(adapters)
        folder = folders.find_adapter(adapter)
        read_adapters(folder)  # raises for a folder that is broken
        scale = check_real("strength", strength, -_STRONGEST, _STRONGEST)
        return io.NodeOutput((*chain, (folder, float(scale))))


class SmaltiLoad(io.ComfyNode):
    """A model: bundled, in a folder, or on the Hugging Face hub."""

    @classmethod
    def define_schema(cls) -> Any:
        """Return the node's inputs and outputs."""
        names = folders.model_names()
        return io.Schema(
            node_id="SmaltiLoad",
            display_name="Smalti Load",
            category="smalti",
            description="Names a model. Its weights are read at the first use; ComfyUI moves and frees them.",
            inputs=[
                io.Combo.Input(
                    "model",
                    options=names,
                    default=names[0],
                    tooltip="A bundled model, a folder in models/smalti, or hub for the name below.",
                ),
                io.String.Input(
                    "hub_id",
                    default="",
                    optional=True,
                    tooltip="With hub: name on the Hugging Face hub, such as nvidia/NL-Diffusion-Image.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=[AUTO, *DTYPES],
                    default=AUTO,
                    optional=True,
                    tooltip="Precision of the denoiser; auto chooses by device.",
                ),
                io.Combo.Input(
                    "quantize",
                    options=[folders.NONE, *QUANTIZATIONS],
                    default=folders.NONE,
                    optional=True,
                    tooltip="Store the layers in fewer bits. A quantized folder needs no option.",
                ),
                io.Combo.Input(
                    "offload",
                    options=[folders.NONE, *OFFLOADS],
                    default=folders.NONE,
                    optional=True,
                    tooltip="layers streams each layer from the host's memory to the GPU when its turn comes.",
                ),
                io.String.Input(
                    "memory",
                    default="",
                    optional=True,
                    tooltip="Such as 8GB: take the first loading mode that fits. Empty lets ComfyUI decide.",
                ),
                *_rare_inputs(names),
            ],
            outputs=[MODEL.Output("model", display_name="model")],
        )

    @classmethod
    def validate_inputs(cls, memory: str = "") -> bool | str:
        """Return True, or what is wrong, before anything runs."""
        try:
            _memory(memory)
        except SmaltiError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> Any:
        """Return what changes when the model's files change, so that ComfyUI reads them again."""
        try:
            source = _source(**inputs)
            # ComfyUI asks before it runs anything. A model on the hub is fetched when its node runs.
            return repr(source if inputs.get("model") == folders.HUB else stamp(source))
        except SmaltiError as error:
            return str(error)

    @classmethod
    def execute(cls, **inputs: Any) -> Any:
        """Return the model, whose weights are not read yet."""
        source = _source(**inputs)
        load_outline(  # raises for a model or an adapter that is missing or broken
            source.model,
            revision=source.revision,
            local_files_only=source.local_files_only,
            adapter=[folder for folder, _ in source.adapters] or None,
        )
        return io.NodeOutput(open_model(source))


def _rare_inputs(names: list[str]) -> list[Any]:
    """Return the inputs that most users leave alone."""
    return [
        io.String.Input(
            "revision",
            default="",
            optional=True,
            advanced=True,
            tooltip="With hub: a branch, a tag or a commit.",
        ),
        io.Boolean.Input(
            "local_files_only",
            default=False,
            optional=True,
            advanced=True,
            tooltip="With hub: use the cache alone, without the network.",
        ),
        io.Combo.Input(
            "verifier",
            options=[folders.NONE, *names[:-1]],
            default=folders.NONE,
            optional=True,
            advanced=True,
            tooltip="A smaller model with the same image tokenizer, for the budget verified.",
        ),
        ADAPTERS.Input("adapters", optional=True, tooltip="LoRA adapters, from Smalti Adapter."),
    ]


def _source(
    model: str = "",
    hub_id: str = "",
    dtype: str = AUTO,
    quantize: str = folders.NONE,
    offload: str = folders.NONE,
    memory: str = "",
    revision: str = "",
    local_files_only: bool = False,
    verifier: str = folders.NONE,
    adapters: Any = None,
) -> Source:
    """Return what the loader's inputs ask for.

    Raises:
        SmaltiError: an input that is wrong, by name.
    """
    if model == folders.HUB and not hub_id.strip():
        raise SmaltiError("hub_id must be a name such as nvidia/NL-Diffusion-Image, not empty", "hub_id")
    return Source(
        model=hub_id.strip() if model == folders.HUB else folders.find_model_folder(model),
        revision=revision.strip() or None,
        local_files_only=local_files_only,
        dtype=None if dtype == AUTO else dtype,
        quantize=None if quantize == folders.NONE else quantize,
        offload=None if offload == folders.NONE else offload,
        memory=_memory(memory),
        adapters=_chain(adapters),
        verifier=None if verifier == folders.NONE else folders.find_model_folder(verifier),
    )


def _memory(text: str | None) -> str | None:
    """Return a text such as "8GB", or None for an empty one."""
    if text is None or not text.strip():
        return None
    parse_memory(text.strip())
    return text.strip()


def _chain(adapters: Any) -> tuple[Any, ...]:
    """Return the adapters of a link; none where there is none."""
    if adapters is None:
        return ()
    check_type("adapters", adapters, tuple, "Smalti Adapter")
    return tuple(adapters)
