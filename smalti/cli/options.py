"""Options that several commands share, and how they become settings."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smalti.common.checks import check_choice
from smalti.errors import SmaltiError
from smalti.settings import BUDGETS, EDIT_RULES, ORDERS, PRESETS, SCHEDULES, GenerationSettings

if TYPE_CHECKING:
    from smalti.pipeline import Pipeline

_SAMPLING = "Sampling (by default as the model's config.json says)"
_MODEL = "Model"

Model = Annotated[
    str | None,
    typer.Option(
        help="Model folder, or a name on the Hugging Face hub such as nvidia/NL-Diffusion-Image. By default the model "
        "that comes with the package.",
        metavar="MODEL",
        show_default=False,
        rich_help_panel=_MODEL,
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...", metavar="NAME", rich_help_panel=_MODEL)]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="float32, bfloat16 or float16, of the denoiser. By default float32 on a CPU, else bfloat16.",
        metavar="NAME",
        show_default=False,
        rich_help_panel=_MODEL,
    ),
]
Quantize = Annotated[
    str | None,
    typer.Option(
        help="int8, int4 or fp8: store the layers in fewer bits. Needs torchao.",
        metavar="NAME",
        show_default=False,
        rich_help_panel=_MODEL,
    ),
]
Offload = Annotated[
    str | None,
    typer.Option(
        help="layers: keep the layers in the host's memory and copy each to the GPU when its turn comes.",
        metavar="NAME",
        show_default=False,
        rich_help_panel=_MODEL,
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        help="Such as 8GB: choose a way of loading whose computed need fits.",
        metavar="SIZE",
        show_default=False,
        rich_help_panel=_MODEL,
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
Revision = Annotated[
    str | None,
    typer.Option(
        help="Of a model on the hub: a branch, a tag or a commit.",
        metavar="NAME",
        show_default=False,
        rich_help_panel=_MODEL,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
Lattice = Annotated[
    int,
    typer.Option(
        metavar="L",
        help="Of the scenes: 0 for objects anywhere, or a multiple of 8 for boxes on a lattice of L×L places.",
    ),
]


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:-1]) + " or " + names[-1]


def _sampling(name: str, help: str, metavar: str) -> Any:
    return typer.Option(name, help=help, metavar=metavar, show_default=False, rich_help_panel=_SAMPLING)


Preset = Annotated[
    str | None,
    _sampling(
        "--preset", f"Settings that go together: {_listed(tuple(PRESETS))}. Options beside it win.", "NAME"
    ),
]
Steps = Annotated[int | None, _sampling("--steps", "Passes of the model, 1 to the number of tokens.", "N")]
Guidance = Annotated[
    float | None, _sampling("--guidance", "How strongly the prompt is followed; 0 is no guidance.", "SCALE")
]
GuidanceInterval = Annotated[
    tuple[float, float] | None,
    _sampling("--guidance-interval", "Fractions of the steps between which guidance is on.", "A B"),
]
EditRule = Annotated[
    str | None,
    _sampling(
        "--edit-rule",
        f"Token editing: {_listed(EDIT_RULES)}. A token that is set gives way to one more probable than P of "
        "--edit-threshold; is masked again where its own probability is below P; or competes at every step, by the "
        "highest probability it has had, with all others for staying.",
        "NAME",
    ),
]
EditThreshold = Annotated[
    float | None,
    _sampling(
        "--edit-threshold",
        "P of --edit-rule; 0 is no editing. By default of another rule than the model's 0, 0.1 and 1.",
        "P",
    ),
]
RefineShare = Annotated[
    float | None,
    _sampling(
        "--refine-share",
        "The last steps, this share of them, lay the tokens of rare codes again, in sight of the others; 0 is none.",
        "SHARE",
    ),
]
RefineFrequency = Annotated[
    float | None,
    _sampling(
        "--refine-frequency",
        "Codes are rare that the model, knowing nothing, expects at a smaller share of the places.",
        "P",
    ),
]
Budget = Annotated[
    str | None, _sampling("--budget", f"How many tokens each step reveals: {_listed(BUDGETS)}.", "NAME")
]
Shift = Annotated[
    float | None,
    _sampling("--shift", "Of the budget shift: the larger, the fewer tokens the first steps reveal.", "S"),
]
AdaptiveThreshold = Annotated[
    float | None,
    _sampling(
        "--adaptive-threshold",
        "Of the budget adaptive: a step reveals the tokens more probable than P, and is never behind the budget "
        "cosine; --steps is then the most passes that it may take.",
        "P",
    ),
]
AdaptiveRange = Annotated[
    tuple[float, float] | None,
    _sampling(
        "--adaptive-range",
        "Of the budget adaptive: the least and the most that a step reveals, shares of the grid.",
        "A B",
    ),
]
Order = Annotated[
    str | None, _sampling("--order", f"Which tokens a step reveals: {_listed(ORDERS)}.", "NAME")
]
OrderTemperature = Annotated[
    float | None, _sampling("--order-temperature", "Noise in the orders confidence, draw and history.", "T")
]
OrderSchedule = Annotated[
    str | None,
    _sampling(
        "--order-schedule",
        f"How the noise in the orders confidence and history cools: {_listed(SCHEDULES)}.",
        "NAME",
    ),
]
Draw = Annotated[
    str | None, _sampling("--draw", "Draw tokens (sample), or take the likeliest (argmax).", "NAME")
]
Temperature = Annotated[float | None, _sampling("--temperature", "Of the draw; 0 is argmax.", "T")]
TemperatureSchedule = Annotated[
    str | None, _sampling("--temperature-schedule", f"How the draw cools: {_listed(SCHEDULES)}.", "NAME")
]
TopK = Annotated[int | None, _sampling("--top-k", "Draw from the K likeliest tokens; 0 is all.", "K")]
TopP = Annotated[
    float | None,
    _sampling("--top-p", "Draw from the fewest tokens whose probabilities reach P; 1 is all.", "P"),
]
Final = Annotated[
    str | None,
    _sampling(
        "--final",
        "With editing on: keep the grid as it was filled (grid), or end with the last step's candidate "
        "everywhere, as NL-Diffusion-Image does (release).",
        "NAME",
    ),
]
Reuse = Annotated[
    str | None,
    _sampling(
        "--reuse",
        "Recompute the prompt's part of every layer only at some steps (prompt): faster, not exact; none is exact.",
        "NAME",
    ),
]
ReuseEvery = Annotated[
    int | None,
    _sampling("--reuse-every", "Steps from one computation of the prompt's part to the next.", "N"),
]
Height = Annotated[
    int | None,
    typer.Option(help="In pixels. By default the model's own.", metavar="PIXELS", show_default=False),
]
Width = Annotated[
    int | None,
    typer.Option(help="In pixels. By default the model's own.", metavar="PIXELS", show_default=False),
]

# Settings by the names that options give them, where these are not the same.
_OPTION_NAMES = {
    "num_inference_steps": "--steps",
    "guidance_scale": "--guidance",
    "order_temperature_schedule": "--order-schedule",
}


def setting_changes(params: Mapping[str, Any]) -> dict[str, Any]:
    """The settings among a command's parameters that were given, checked before anything slow happens.

    Raises:
        SmaltiError: one is out of range; it is named as the option is.
    """
    known = GenerationSettings().to_dict()
    changes = {name: value for name, value in params.items() if name in known and value is not None}
    with option_names():
        GenerationSettings().replaced(changes)
        if params.get("preset") is not None:
            check_choice("preset", params["preset"], tuple(PRESETS))
    return changes


def check_lattice(lattice: int) -> int | None:
    """The lattice as `smalti.worlds.scenes.world.Scenes` takes it.

    Raises:
        SmaltiError: it is neither 0 nor a multiple of 8.
    """
    if lattice < 0 or lattice % 8:
        raise SmaltiError(f"--lattice must be 0 or a multiple of 8, not {lattice}")
    return lattice or None


@contextmanager
def option_names() -> Iterator[None]:
    """Where an error starts with a setting's name, put the option's name in its place."""
    try:
        yield
    except SmaltiError as error:
        name, rest = (str(error).split(" ", 1) + [""])[:2]
        bare = name.removesuffix("'s").rstrip(":")
        if bare not in GenerationSettings().to_dict() and bare != "preset":
            raise
        option = _OPTION_NAMES.get(bare, "--" + bare.replace("_", "-"))
        raise SmaltiError(f"{name.replace(bare, option)} {rest}") from error


def load_pipeline(
    model: str | None,
    device: str,
    dtype: str | None,
    quantize: str | None,
    offload: str | None,
    memory: str | None,
    compile: bool,
    revision: str | None,
) -> Pipeline:
    """`smalti.load`, imported when it is needed; says on stderr what `memory` came to."""
    import smalti

    pipe = smalti.load(
        model,
        device=device,
        dtype=dtype,
        quantize=quantize,
        offload=offload,
        memory=memory,
        compile=compile,
        revision=revision,
    )
    if memory is not None:
        print(f"{memory}: {pipe.mode}", file=sys.stderr)
    return pipe
