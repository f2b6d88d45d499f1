"""Options that several commands share. Those of settings are derived from their declarations."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smalti.cli.output import note, to_path
from smalti.cli.setting_options import SAMPLING, setting_option
from smalti.common.checks import check_choice
from smalti.generation.declaration import declaration
from smalti.generation.settings import PRESETS, GenerationSettings

if TYPE_CHECKING:
    from smalti.pipeline import Pipeline

_MODEL = "Model"
_FIELDS = {field.name: declaration(field) for field in dataclasses.fields(GenerationSettings)}


def _model_option(name: str, help: str, metavar: str) -> Any:
    return typer.Option(name, help=help, metavar=metavar, show_default=False, rich_help_panel=_MODEL)


Model = Annotated[
    str | None,
    _model_option(
        "--model",
        "Bundled model (objects or scenes), model folder, or a name on the Hugging Face hub such as "
        "nvidia/NL-Diffusion-Image. By default the bundled model that drew the given image, else objects; a "
        "suite of evaluate may have another.",
        "MODEL",
    ),
]
Device = Annotated[
    str, typer.Option("--device", help="cpu, cuda, cuda:1, ...", metavar="NAME", rich_help_panel=_MODEL)
]
Dtype = Annotated[
    str | None,
    _model_option(
        "--dtype",
        "Dtype of the denoiser: float32, bfloat16 or float16. By default float32 on a CPU, else bfloat16.",
        "NAME",
    ),
]
Quantize = Annotated[
    str | None,
    _model_option("--quantize", "int8, int4 or fp8: store the layers in fewer bits. Needs torchao.", "NAME"),
]
QuantizeActivations = Annotated[
    bool,
    typer.Option(
        "--quantize-activations",
        help="With --quantize int8 or fp8: round what the layers multiply, too, so that products run in 8 bits.",
        rich_help_panel=_MODEL,
    ),
]
ImageDtype = Annotated[
    str | None,
    _model_option("--image-dtype", "Dtype of the image tokenizer: float32 or bfloat16.", "NAME"),
]
Offload = Annotated[
    str | None,
    _model_option(
        "--offload",
        "layers: keep the layers in the host's memory and copy each to the GPU when its turn comes.",
        "NAME",
    ),
]
Memory = Annotated[
    str | None,
    _model_option(
        "--memory", "Memory limit such as 8GB: choose a loading mode whose computed need fits.", "SIZE"
    ),
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="Compile the denoiser before its first step, which takes a while and needs a C++ compiler; on a GPU with "
        "CUDA graphs.",
        rich_help_panel=_MODEL,
    ),
]
HubRevision = Annotated[
    str | None,
    _model_option("--revision", "Git revision of a model on the hub: a branch, a tag or a commit.", "NAME"),
]
Adapter = Annotated[
    list[str] | None,
    _model_option(
        "--adapter",
        "Adapter folder (LoRA, rsLoRA or DoRA in peft's layout). Give it again for more: their changes add up.",
        "FOLDER",
    ),
]
AdapterScale = Annotated[
    list[float] | None,
    _model_option(
        "--adapter-scale",
        "Factor of what an adapter changes, 1 by default. Give it once for all adapters, or once for each.",
        "FACTOR",
    ),
]
Classifier = Annotated[
    str | None,
    _model_option(
        "--classifier", "File of smalti train-classifier, which --steer classifier:LABEL asks.", "FILE"
    ),
]
Light = Annotated[
    str | None,
    _model_option("--light", "File of smalti train-light, the layer that --reuse light runs.", "FILE"),
]
Verifier = Annotated[
    str | None,
    _model_option(
        "--verifier",
        "Smaller model with the same image tokenizer, which --budget verified asks what to accept.",
        "MODEL",
    ),
]
Word = Annotated[
    list[str] | None,
    _model_option(
        "--word", "Word that smalti train-word learned, for prompts. Give it again for more.", "FILE"
    ),
]
ImageFile = Annotated[
    Path,
    typer.Argument(
        metavar="IMAGE", help="The image: any size, any format.", show_default=False, parser=to_path
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
NegativePrompt = Annotated[
    str | None,
    typer.Option(
        "--negative-prompt",
        metavar="TEXT",
        help="What the image should not show. It takes the place of the empty prompt in the unconditional pass.",
        show_default=False,
    ),
]
Metadata = Annotated[
    bool,
    typer.Option(
        "--metadata/--no-metadata",
        help="Write prompt, seed, settings and tokens into the image's file, or leave them out.",
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help=f"Settings that go together: {', '.join(PRESETS)}. Options beside it override it.",
        metavar="NAME",
        show_default=False,
        rich_help_panel=SAMPLING,
    ),
]

_LOADING: dict[str, tuple[Any, Any]] = {
    "model": (Model, None),
    "device": (Device, "cpu"),
    "dtype": (Dtype, None),
    "quantize": (Quantize, None),
    "quantize_activations": (QuantizeActivations, False),
    "offload": (Offload, None),
    "memory": (Memory, None),
    "image_dtype": (ImageDtype, None),
    "compile": (Compile, False),
    "hub_revision": (HubRevision, None),
    "adapter": (Adapter, None),
    "adapter_scale": (AdapterScale, None),
    "verifier": (Verifier, None),
    "classifier": (Classifier, None),
    "light": (Light, None),
    "word": (Word, None),
}
# Other arguments whose option has another name than theirs with dashes.
_OTHER_NAMES = {
    "num_images_per_prompt": "-n",
    "images_per_prompt": "-n",
    "folder": "-o",
    "pairs": "--pair",
    "captions": "--caption",
    "grow": "--left, --top, --right and --bottom",
}
_NAMED = {
    *_LOADING,
    *("preset", "seed", "negative_prompt", "source_prompt", "mask", "strength", "share", "threshold"),
    *("host", "port", "api_key_file", "keep", "alias", "cors_origin"),
    *("styles", "jobs", "samples", "per_tar"),
    *("labels", "template", "masks", "temperature", "words"),
    *("name", "steps", "batch_size", "learning_rate", "vectors", "initial"),
}


def option_name(argument: str) -> str:
    """Return the option of an argument, or the argument itself where no option stands for it."""
    if argument in _FIELDS:
        return _FIELDS[argument].option_name(argument)
    if argument in _NAMED:
        return "--" + argument.replace("_", "-")
    return _OTHER_NAMES.get(argument, argument)


def with_options(command: Callable[..., None], shared: Mapping[str, tuple[Any, Any]]) -> Callable[..., None]:
    """Give a command more options after its own.

    The command finds what was given for them in its context's `params`.

    Args:
        shared: annotation and default of each option by the name of its parameter.
    """
    own = inspect.signature(command, eval_str=True)
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in shared.items()
    ]

    @functools.wraps(command)
    def extended(**values: Any) -> None:
        command(**{name: values[name] for name in own.parameters})

    signature = own.replace(parameters=[*own.parameters.values(), *more])
    setattr(extended, "__signature__", signature)  # noqa: B010 - typer reads the options from it
    return extended


def with_loading_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of loading a model."""
    return with_options(command, _LOADING)


def with_drawing_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of every setting and of loading a model."""
    settings = {name: (setting_option(name, declared), None) for name, declared in _FIELDS.items()}
    return with_options(command, {"preset": (Preset, None), **settings, **_LOADING})


def setting_changes(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings among a command's parameters that were given, checked before anything slow happens.

    Raises:
        SmaltiError: one is out of range.
    """
    changes = {name: value for name, value in params.items() if name in _FIELDS and value is not None}
    GenerationSettings().replaced(**changes)
    if params.get("preset") is not None:
        check_choice("preset", params["preset"], PRESETS)
    return changes


def load_pipeline(params: Mapping[str, Any]) -> Pipeline:
    """Return the model that a command's parameters ask for; say on stderr which loading mode `--memory` chose.

    Raises:
        SmaltiError: there is no such model, or an option is wrong.
    """
    import smalti

    pipe = smalti.load(
        params["model"],
        device=params["device"],
        dtype=params["dtype"],
        quantize=params["quantize"],
        quantize_activations=params["quantize_activations"],
        offload=params["offload"],
        memory=params["memory"],
        image_dtype=params["image_dtype"],
        compile=params["compile"],
        revision=params["hub_revision"],
        adapter=params["adapter"] or None,
        adapter_scale=scales(params["adapter_scale"]),
        verifier=params["verifier"],
        classifier=params["classifier"],
        light=params["light"],
        word=params.get("word") or None,
    )
    if params["memory"] is not None:
        note(f"--memory {params['memory']}: {pipe.components.mode}")
    _warn_of_slow_dtype(pipe)
    return pipe


def scales(given: Sequence[float] | None) -> float | list[float] | None:
    """Return the values of `--adapter-scale` as `load` takes them: one number is for all adapters."""
    return given[0] if given and len(given) == 1 else list(given or []) or None


def load_for(params: Mapping[str, Any]) -> tuple[Pipeline, GenerationSettings]:
    """Return the model and the settings that a command's parameters ask for.

    Raises:
        SmaltiError: there is no such model, or an option is wrong.
    """
    changes = setting_changes(params)
    pipe = load_pipeline(params)
    settings = pipe.preset(params["preset"]).replaced(**changes)
    _warn_of_no_effect(params, changes, settings, pipe)
    return pipe, settings


def _warn_of_no_effect(
    params: Mapping[str, Any], changes: Mapping[str, Any], settings: GenerationSettings, pipe: Pipeline
) -> None:
    """Say on stderr, in one line, which options were given and have no effect."""
    from smalti.generation.build import make_sampler
    from smalti.generation.effects import without_effect

    names = {name: option_name(name) for name in _FIELDS}
    found = [
        f"{names[name]} has no effect {text.format_map(names)}"
        for name, text in without_effect(settings, changes)
    ]
    if params["verifier"] is not None and not make_sampler(settings).budget.verifies:
        found.append("--verifier has no effect without --budget verified")
    if params["classifier"] is not None and not make_sampler(settings).steering.classifies:
        found.append("--classifier has no effect without --steer classifier:LABEL")
    prompt_alone = settings.reuse.partition(":")[0] == "prompt"
    if "reuse" in changes and prompt_alone and pipe.denoiser.config.conditioning != "sequence":
        found.append("--reuse prompt has no effect with this model, whose prompts are not in the sequence")
    if params["offload"] is not None and pipe.components.device.type == "cpu":
        found.append(f"--offload {params['offload']} has no effect on a CPU")
    if params.get("blend") is False and not params["keep_pixels"]:
        found.append("--no-blend has no effect with --no-keep-pixels")
    if found:
        note("; ".join(found))


def _warn_of_slow_dtype(pipe: Pipeline) -> None:
    """Say on stderr if the denoiser computes in a dtype that its CPU has no instructions for."""
    from smalti.common.devices import has_bf16

    place, head = pipe.components.device, pipe.denoiser.head
    if place.type == "cpu" and str(head.dtype) == "torch.bfloat16" and not has_bf16(place):
        note(
            "this processor has no instructions for bfloat16, which is slow on it; "
            "--dtype float32 is several times as fast"
        )
