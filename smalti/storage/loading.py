"""From the name of a model to its `Components`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from torch import nn

from smalti.common.checks import check_flag, quoted
from smalti.common.devices import find_device, has_bf16
from smalti.components import Components
from smalti.errors import SmaltiError
from smalti.model.classifier import TokenClassifier
from smalti.model.denoiser import Denoiser
from smalti.runtime.compiling import check_compiler, compile_decoder, compile_layers
from smalti.runtime.memory import Mode, parse_memory
from smalti.runtime.quantization import round_activations
from smalti.storage.adapters import StoredAdapter, check_scales, load_adapters, read_adapters
from smalti.storage.classifiers import with_classifier
from smalti.storage.entries import layers_kind
from smalti.storage.folder import (
    check_stored,
    existing,
    load_codebook,
    load_denoiser,
    load_image_tokenizer,
    load_text_tokenizer,
    load_words,
)
from smalti.storage.gguf_file import gguf_folder
from smalti.storage.headers import read_denoisers
from smalti.storage.modes import check_choices, check_flags, choose_mode
from smalti.storage.precision import DTYPES, default_dtype, known_dtype
from smalti.storage.verifier import verifier_bytes, with_verifier

_MODELS = Path(__file__).parents[1] / "models"
BUNDLED_MODELS = {name: _MODELS / name for name in ("objects", "scenes")}
"""Folder of each model that is in the package, by its name."""

DEFAULT_MODEL = "objects"
"""Name of the bundled model that is read where none is named."""


def load_components(
    model: str | Path | None = None,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    quantize: str | None = None,
    quantize_activations: bool = False,
    offload: str | None = None,
    memory: str | None = None,
    image_dtype: str | None = None,
    compile: bool = False,
    revision: str | None = None,
    local_files_only: bool = False,
    adapter: str | Path | Sequence[str | Path] | None = None,
    adapter_scale: float | Sequence[float] | None = None,
    verifier: str | Path | None = None,
    classifier: str | Path | TokenClassifier | None = None,
) -> Components:
    """Read a model.

    Weights go straight to the device in the dtype wanted, one tensor at a time, and only those that sampling needs are
    read. A large text embedding stays in its file, which must stay where it is: a prompt reads a few rows of it.

    Args:
        model: the name of a bundled model ("objects" or "scenes"), a folder, the GGUF file in a folder, or a name on
            the Hugging Face hub (organisation/name). A folder called "scenes" is "./scenes". None is "objects".
        device: "cpu", "cuda", "cuda:1", ...
        dtype: dtype of the denoiser: "float32", "bfloat16" or "float16", or PyTorch's. None is float32 on a CPU and
            bfloat16 elsewhere, or float16 where the device lacks bfloat16; with `memory` a CPU with bfloat16
            instructions takes it, too. A CPU without them is several times as slow in bfloat16.
        quantize: "int8", "int4" or "fp8" stores the layers' matrices in fewer bits; int8 and int4 need torchao. A
            folder of `smalti quantize` or a GGUF file is so already, and needs no option.
        quantize_activations: whether products of these matrices run in 8 bits, too, where the device can; not for int4.
        offload: "layers" streams the layers from the host's memory to the GPU; on a CPU it changes nothing.
        memory: such as "8GB" (10⁹ bytes) or "8GiB": takes the first combination of these options, and smaller savings,
            whose computed need fits; `Components.mode` names it. `quantize` and `offload`, if given, are kept.
        image_dtype: dtype of the image tokenizer, "float32" or "bfloat16". None is float32, or what `memory` decides.
        compile: whether the layers are compiled when they are first used; on a GPU with CUDA graphs, and so is the
            image tokenizer's decoder. The arithmetic then has another order. Needs a C++ compiler.
        revision: git revision of a model on the hub: a branch, a tag or a commit.
        local_files_only: whether a model on the hub is taken from the cache, without the network.
        adapter: adapter folder in peft's layout, or several, whose changes add up.
        adapter_scale: factor of what each adapter changes: one number for all, or one an adapter; None is 1.
        verifier: a smaller model with the same image tokenizer, named like `model`, for `budget="verified"`.
        classifier: file of `smalti train-classifier`, or a `TokenClassifier`, for `steering="classifier:LABEL"`.

    Raises:
        SmaltiError: a model or an adapter that is missing or broken, an adapter of another base; a wrong argument, by
            name; too little memory, before reading.

    Example:
        >>> load_components("scenes").denoiser.config.image_size
        256
    """
    check_choices(quantize=quantize, offload=offload, image_dtype=image_dtype)
    check_flags(compile=compile, local_files_only=local_files_only, quantize_activations=quantize_activations)
    budget = None if memory is None else parse_memory(memory)
    place = find_device(device)
    float32_first = dtype is None and place.type == "cpu" and not has_bf16(place)
    precision = default_dtype(place, budget is not None) if dtype is None else known_dtype(dtype, place)
    adapters = read_adapters(adapter)
    scales = check_scales(adapter_scale, len(adapters))
    folder = find_model(model, revision=revision, local_files_only=local_files_only)
    stored = layers_kind(read_denoisers(existing(folder)))
    check_stored(quantize, stored, folder)
    if compile:
        check_compiler(place, quantize or stored)
    second = None if verifier is None else find_model(verifier, local_files_only=local_files_only)
    reserved = sum(one.bytes for one in adapters) + verifier_bytes(folder, second, precision)
    mode = choose_mode(
        folder, place, precision, quantize or stored, offload, budget, compile, float32_first, reserved
    )
    mode = dataclasses.replace(
        mode,
        rounds_activations=quantize_activations,
        image_tokenizer_dtype=image_dtype or mode.image_tokenizer_dtype,
    )
    denoiser = _read_denoiser(folder, place, mode, None if stored else mode.quantize, adapters, scales)
    parts = _components(folder, denoiser, place, mode, _name(model, folder, adapters, scales), adapters)
    return with_classifier(with_verifier(parts, second, DTYPES[mode.dtype]), classifier)


def _read_denoiser(
    folder: Path,
    place: torch.device,
    mode: Mode,
    quantize: str | None,
    adapters: Sequence[StoredAdapter],
    scales: Sequence[float],
) -> Denoiser:
    """Read the denoiser with its adapters in a loading mode, and quantize its layers while reading."""
    denoiser = load_denoiser(
        folder,
        device=place,
        dtype=DTYPES[mode.dtype],
        mapped=mode.mapped,
        quantize=quantize,
        offload=mode.offload,
        adapt=(lambda denoiser: load_adapters(denoiser, folder, adapters, scales)) if adapters else None,
    )
    if mode.rounds_activations:
        round_activations(denoiser)
    if mode.compiled:
        compile_layers(denoiser)
    return denoiser


def load_outline(
    model: str | Path | None = None,
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    adapter: str | Path | Sequence[str | Path] | None = None,
    adapter_scale: float | Sequence[float] | None = None,
) -> Components:
    """Read what a model is like without its weights: enough to check requests and to name what was drawn.

    Configurations, the text tokenizer and the codebook are read. The networks are on the meta device, so a model of any
    size takes no more memory than its codebook. It cannot draw.

    Args:
        model, revision, local_files_only, adapter, adapter_scale: as for `load_components`, whose names it gives.

    Raises:
        SmaltiError: as for `load_components`.

    Example:
        >>> load_outline("scenes").grid(256, 256)
        (16, 16)
    """
    check_flag("local_files_only", local_files_only)
    adapters = read_adapters(adapter)
    scales = check_scales(adapter_scale, len(adapters))
    folder = find_model(model, revision=revision, local_files_only=local_files_only)
    image_tokenizer = load_image_tokenizer(folder, device="meta")
    image_tokenizer.quantize.embedding.weight = nn.Parameter(load_codebook(folder), requires_grad=False)
    return Components(
        load_denoiser(folder, device="meta"),
        image_tokenizer,
        load_text_tokenizer(folder),
        name=_name(model, folder, adapters, scales),
        words=_known_words(folder, adapters),
        folder=folder,
    )


def _components(
    folder: Path,
    denoiser: Denoiser,
    place: torch.device,
    mode: Mode,
    name: str,
    adapters: Sequence[StoredAdapter],
) -> Components:
    """Read the tokenizers beside a denoiser."""
    image_tokenizer = load_image_tokenizer(
        folder,
        device="cpu" if mode.image_tokenizer_on_cpu else place,
        dtype=DTYPES[mode.image_tokenizer_dtype],
    )
    if mode.compiled and image_tokenizer.device.type == "cuda":
        compile_decoder(image_tokenizer)
    return Components(
        denoiser,
        image_tokenizer,
        load_text_tokenizer(folder),
        name=name,
        mode=mode,
        words=_known_words(folder, adapters),
        folder=folder,
    )


def _name(
    model: str | Path | None, folder: Path, adapters: Sequence[StoredAdapter], scales: Sequence[float]
) -> str:
    """Return the name of a model and its adapters in reports."""
    name = model if isinstance(model, str) and not os.path.isdir(model) else folder.resolve().name
    return " + ".join([name, *map(_adapter_name, adapters, scales)])


def _adapter_name(stored: StoredAdapter, scale: float) -> str:
    """Return the name of an adapter in reports: that of its folder, or of its run, with a scale that is not 1."""
    path = stored.folder.resolve()
    name = path.parent.name if path.name == "model" else path.name
    return name if scale == 1 else f"{scale:g} × {name}"


def _known_words(folder: Path, adapters: Sequence[StoredAdapter]) -> frozenset[str]:
    """Return the words of a model's training captions and of its adapters'; none where the model's are not known."""
    words = load_words(folder)
    return words.union(*(load_words(stored.folder) for stored in adapters)) if words else words


def find_model(
    model: str | Path | None,
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    parts: Collection[str] | None = None,
) -> Path:
    """Return the folder of a model: a bundled one, a local one, or the cache's for a hub id.

    Args:
        model, revision, local_files_only: as for `load`.
        parts: of a model on the hub, which to fetch, as `smalti.storage.hub.fetch`; None is all.

    Raises:
        SmaltiError: there is none.
    """
    from smalti.storage.hub import PARTS, fetch, is_hub_id

    if model is None:
        model = DEFAULT_MODEL
    if isinstance(model, str) and model in BUNDLED_MODELS:
        folder = BUNDLED_MODELS[model]
        if not os.path.isfile(folder / "config.json"):
            raise SmaltiError(
                f"this installation lacks the bundled model {model}, {folder}: name another model"
            )
        model = folder
    # Path("") would be the folder that the process works in.
    is_folder = isinstance(model, str | Path) and model != "" and os.path.isdir(model)
    if revision is not None and (is_folder or not is_hub_id(model)):
        raise SmaltiError(f"revision is for models on the Hugging Face hub, not {quoted(str(model))}")
    if is_folder:
        return Path(model)
    if isinstance(model, str | Path) and str(model).endswith(".gguf") and os.path.isfile(model):
        return gguf_folder(Path(model))
    if not isinstance(model, str) or not is_hub_id(model):
        raise SmaltiError(
            f"model must be a folder that exists, a bundled model ({', '.join(BUNDLED_MODELS)}), or a name on the "
            f"Hugging Face hub such as nvidia/NL-Diffusion-Image, not {quoted(str(model))}"
        )
    return fetch(
        model,
        revision=revision,
        local_files_only=local_files_only,
        parts=PARTS if parts is None else parts,
    )
