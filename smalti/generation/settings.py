"""Settings of a generation. Each is declared once, with its default, range, option and help text. Free of PyTorch.

Checks, command-line options and the table in docs/settings.md are derived from the declarations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from smalti.common.checks import quoted
from smalti.errors import SmaltiError
from smalti.generation.declaration import Choice, Pair, Real, Rule, Whole, declaration, setting
from smalti.sampling.guidance import LARGEST_GUIDANCE

PRESETS = {"fast": 8, "balanced": 20, "quality": 64}
"""Passes of the denoiser by the name of a preset."""

MOST_IMAGES = 100_000
"""Largest number of images that one call or command draws."""

_SCHEDULES = Rule("smalti.sampling.temperatures:TEMPERATURE_SCHEDULES")


@dataclass(frozen=True)
class GenerationSettings:
    """How images are sampled. These defaults hold where a model's `config.json` has none under "sampling".

    `GenerationSettings.describe()` lists every setting with its range and help text; so does docs/settings.md. A rule
    is a string: "NAME", "NAME:VALUE" or "NAME:PARAMETER=VALUE,...".

    Example:
        >>> GenerationSettings().replaced(order="history:window=8", top_p=0.9).order
        'history:window=8'

    Raises:
        SmaltiError: a value out of range, by the name of its setting.
    """

    num_inference_steps: int = setting(
        16,
        Whole(1),
        option="--steps",
        metavar="N",
        help="Number of passes of the model, up to the number of tokens; the largest number with --budget adaptive.",
    )
    guidance_scale: float = setting(
        3.0,
        Real(0, LARGEST_GUIDANCE),
        option="--guidance",
        metavar="SCALE",
        help="Guidance scale s in (1 + s)·conditional − s·unconditional; 0 is no guidance. It is diffusers' "
        "guidance_scale less 1.",
    )
    guidance_interval: tuple[float, float] = setting(
        (0.0, 1.0), Pair(), metavar="A B", help="Apply guidance only between these fractions of the steps."
    )
    guidance_schedule: str = setting(
        "constant",
        Rule("smalti.sampling.guidance:GUIDANCE_SCHEDULES"),
        help="How the guidance scale rises from step to step, such as rising:power=2.",
    )
    budget: str = setting(
        "shift",
        Rule("smalti.sampling.budgets:BUDGETS"),
        help="How many tokens each step reveals, such as shift:20.",
    )
    order: str = setting(
        "confidence",
        Rule("smalti.sampling.orders:ORDERS"),
        help="Which tokens each step reveals, such as halton or history:window=8.",
    )
    revision: str = setting(
        "none",
        Rule("smalti.sampling.revision:REVISIONS"),
        option="--revise",
        help="Which tokens that are already set change or are masked again, such as threshold:0.6.",
    )
    refinement: str = setting(
        "none",
        Rule("smalti.sampling.refinement:REFINEMENTS"),
        help="Which tokens the last steps sample again, such as rare:share=0.25. It needs a planned budget and is off "
        "with --budget adaptive.",
    )
    draw: str = setting(
        "sample",
        Choice("sample", "argmax"),
        metavar="NAME",
        help="How a token is chosen: sample draws it, argmax takes the most probable.",
    )
    temperature: float = setting(1.0, Real(0), metavar="T", help="Sampling temperature; 0 means argmax.")
    temperature_schedule: str = setting(
        "constant", _SCHEDULES, help="How the sampling temperature falls from step to step, such as linear."
    )
    top_k: int = setting(
        0, Whole(0), metavar="K", help="Sample from the K most probable tokens; 0 keeps all."
    )
    top_p: float = setting(
        1.0,
        Real(0, 1, above=True),
        metavar="P",
        help="Sample from the fewest tokens whose probabilities reach P; 1 keeps all.",
    )
    final: str = setting(
        "grid",
        Choice("grid", "release"),
        metavar="NAME",
        help="grid keeps the grid as it was filled. With revision on, release ends with the last step's candidate at "
        "every position, as NL-Diffusion-Image does.",
    )
    reuse: str = setting(
        "none",
        Rule("smalti.sampling.reuse:REUSES"),
        help="What a step takes from earlier ones, such as cells:every=8: faster, an approximation. none is exact.",
    )
    reuse_every: int | None = setting(
        None,
        Whole(1, optional=True),
        metavar="N",
        help="Steps from one computation of everything to the next with --reuse. By default the rule's own.",
    )
    guidance_passes: str = setting(
        "all",
        Rule("smalti.sampling.guidance_passes:GUIDANCE_PASSES"),
        help="Which guided steps compute the unconditional pass, such as skip:every=2; the others extrapolate it, an "
        "approximation. all is exact.",
    )
    steering: str = setting(
        "none",
        Rule("smalti.sampling.steering:STEERINGS"),
        option="--steer",
        help="What is made likelier where the prompt leaves it open, such as classifier:LABEL.",
    )
    height: int | None = setting(
        None, Whole(1, optional=True), metavar="PIXELS", help="Height in pixels. By default the model's own."
    )
    width: int | None = setting(
        None, Whole(1, optional=True), metavar="PIXELS", help="Width in pixels. By default the model's own."
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            # A default is known to be right, and checking a rule imports PyTorch.
            if type(value) is not type(field.default) or value != field.default:
                object.__setattr__(self, field.name, declaration(field).kind.check(field.name, value))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels.

        Raises:
            SmaltiError: one of them is not set.
        """
        if self.height is None or self.width is None:
            raise SmaltiError("height and width must be set in the settings", argument="height")
        return self.height, self.width

    def replaced(self, **changes: Any) -> GenerationSettings:
        """Return the same settings with some of them changed; None leaves a setting as it is.

        Raises:
            SmaltiError: an unknown name, or a value out of range.
        """
        known = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                raise SmaltiError(
                    f"unknown setting {quoted(name)}; there are {', '.join(known)}", argument=name
                )
        return dataclasses.replace(
            self, **{name: value for name, value in changes.items() if value is not None}
        )

    def to_dict(self) -> dict[str, Any]:
        """Return every setting by name, ready for JSON."""
        values = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def describe(cls) -> str:
        """Return a Markdown table of every setting: name, option, default, what is allowed, and help."""
        rows = ["| setting | option | default | allowed | meaning |", "| --- | --- | --- | --- | --- |"]
        for field in dataclasses.fields(cls):
            declared = declaration(field)
            default = "the model's" if field.default is None else f"`{field.default}`"
            option = declared.option_name(field.name)
            rows.append(
                f"| `{field.name}` | `{option}` | {default} | {declared.kind.allowed} | {declared.help} |"
            )
        return "\n".join(rows) + "\n"


def check_settings(settings: Any) -> None:
    """Raise SmaltiError unless `settings` is a `GenerationSettings`."""
    if not isinstance(settings, GenerationSettings):
        raise SmaltiError(
            f"settings must be a GenerationSettings, such as pipe.settings, not {quoted(settings)}",
            argument="settings",
        )


# Settings that the reference model is used with, for models whose `config.json` has none of their own.
_REFERENCE_SETTINGS = {
    "guidance_scale": 5.0,
    "budget": "shift:5",
    "order": "confidence:temperature=1",
    "temperature": 0.86,
    "revision": "threshold:0.6",
}


def model_settings(image_size: int, sampling: Mapping[str, Any]) -> GenerationSettings:
    """Return a model's default settings.

    Args:
        image_size: the side of its images in pixels.
        sampling: "sampling" of its `config.json`.

    Raises:
        SmaltiError: a setting that is unknown or out of range.
    """
    try:
        return GenerationSettings().replaced(**{"height": image_size, "width": image_size, **sampling})
    except SmaltiError as error:
        raise SmaltiError(f"sampling in the model's config.json: {error}") from error


def preset_settings(
    settings: GenerationSettings,
    name: str | None,
    presets: Mapping[str, Mapping[str, Any]],
    sampling: Mapping[str, Any],
) -> GenerationSettings:
    """Return a model's settings with those of a preset: the model's own under that name, else a number of steps.

    Args:
        settings: the model's default settings.
        name: one of `PRESETS`, or None for no preset.
        presets, sampling: "presets" and "sampling" of the model's `config.json`.

    Raises:
        SmaltiError: there is no preset of that name, or the model's `config.json` has it wrong.
    """
    if name is None:
        return settings
    Choice(*PRESETS).check("preset", name)
    default = {"num_inference_steps": PRESETS[name], **({} if sampling else _REFERENCE_SETTINGS)}
    try:
        return settings.replaced(**presets.get(name, default))
    except SmaltiError as error:
        raise SmaltiError(f"presets in the model's config.json: {error}") from error
