"""Settings of a generation, by the pipeline's argument names, and their defaults. Free of PyTorch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from smalti.checks import check_choice, check_real, check_whole
from smalti.errors import SmaltiError

BUDGETS = ("shift", "cosine", "linear")
ORDERS = ("confidence", "draw", "stratified", "halton", "random")
DRAWS = ("sample", "argmax")
FINALS = ("grid", "release")
REUSES = ("none", "prompt")
SCHEDULES = ("constant", "linear", "cosine", "shift", "exponential")

PRESETS = {"fast": 8, "balanced": 20, "quality": 64}
"""Passes of the denoiser by the name of a preset."""

# Settings that the release is used with, for models whose `config.json` has none of their own.
_RELEASE_SETTINGS = {
    "guidance_scale": 5.0,
    "budget": "shift",
    "shift": 5.0,
    "order": "confidence",
    "order_temperature": 1.0,
    "temperature": 0.86,
    "edit_threshold": 0.6,
}

# What an order that takes a temperature has when nobody names one.
_ORDER_TEMPERATURES = {"confidence": 0.0, "draw": 1.0}


@dataclass(frozen=True)
class GenerationSettings:
    """How pictures are sampled. These defaults hold where a model's `config.json` has none under "sampling".

    Attributes:
        num_inference_steps: passes of the denoiser, from 1 to the number of tokens.
        guidance_scale: s in (1 + s)·conditional − s·unconditional; 0 is no guidance.
        guidance_interval: (a, b), the fractions of the steps between which guidance is on.
        edit_threshold: a token that is already set gives way to one of a probability above this; 0 is no
            editing.
        budget: how many tokens each step reveals: "shift", "cosine" or "linear".
        shift: of the budget "shift"; the larger, the fewer the first steps reveal.
        order: which tokens a step reveals: "confidence", "draw", "stratified", "halton" or "random".
        order_temperature: noise in the orders "confidence" and "draw"; None is the order's own default.
        order_temperature_schedule: how the noise in the order "confidence" cools from step to step:
            "constant", "linear", "cosine", "shift" or "exponential".
        draw: "sample" draws tokens, "argmax" takes the likeliest.
        temperature: of the draw; 0 is argmax.
        temperature_schedule: how it cools from step to step, as above.
        top_k: draw from the k likeliest tokens only; 0 is all.
        top_p: draw from the fewest tokens whose probabilities reach this; 1 is all.
        final: "grid" keeps the grid as it was filled; "release" ends as NL-Diffusion-Image does: with editing
            on, the last step's candidate at every position.
        reuse: "prompt" computes the prompt's positions only every `reuse_every` steps and takes their keys and values
            from an earlier step in the others. That is faster and an approximation, because the prompt sees the picture
            too; "none" is exact.
        reuse_every: of the reuse "prompt".
        height, width: in pixels; None is the model's own.
    """

    num_inference_steps: int = 16
    guidance_scale: float = 3.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    edit_threshold: float = 0.0
    budget: str = "shift"
    shift: float = 5.0
    order: str = "confidence"
    order_temperature: float | None = None
    order_temperature_schedule: str = "constant"
    draw: str = "sample"
    temperature: float = 1.0
    temperature_schedule: str = "constant"
    top_k: int = 0
    top_p: float = 1.0
    final: str = "grid"
    reuse: str = "none"
    reuse_every: int = 4
    height: int | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        check_whole("num_inference_steps", self.num_inference_steps)
        check_real("guidance_scale", self.guidance_scale)
        interval = self.guidance_interval
        if not isinstance(interval, tuple | list) or len(interval) != 2:
            raise SmaltiError(f"guidance_interval must be two numbers from 0 to 1, not {interval!r}")
        check_real("guidance_interval's start", interval[0], 0, 1)
        check_real("guidance_interval's end", interval[1], interval[0], 1)
        object.__setattr__(self, "guidance_interval", tuple(interval))
        check_real("edit_threshold", self.edit_threshold, 0, 1)
        check_choice("budget", self.budget, BUDGETS)
        check_real("shift", self.shift, 0, above=True)
        check_choice("order", self.order, ORDERS)
        if self.order_temperature is None:
            object.__setattr__(self, "order_temperature", _ORDER_TEMPERATURES.get(self.order))
        if self.order_temperature is not None:
            check_real("order_temperature", self.order_temperature)
        check_choice("order_temperature_schedule", self.order_temperature_schedule, SCHEDULES)
        if self.order != "confidence" and self.order_temperature_schedule != "constant":
            raise SmaltiError(
                "order_temperature_schedule must be 'constant' for every order but 'confidence', "
                f"not {self.order_temperature_schedule!r}"
            )
        check_choice("draw", self.draw, DRAWS)
        check_real("temperature", self.temperature)
        check_choice("temperature_schedule", self.temperature_schedule, SCHEDULES)
        check_whole("top_k", self.top_k, 0)
        check_real("top_p", self.top_p, 0, 1, above=True)
        check_choice("final", self.final, FINALS)
        check_choice("reuse", self.reuse, REUSES)
        check_whole("reuse_every", self.reuse_every)
        for name in ("height", "width"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name))

    def replaced(self, changes: Mapping[str, Any]) -> GenerationSettings:
        """The same settings with some of them changed; None leaves a setting as it is.

        Another order starts from its own default temperature, because a temperature means something else in
        every order.

        Raises:
            SmaltiError: an unknown name, or a value out of range.
        """
        known = [entry.name for entry in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                raise SmaltiError(f"unknown setting {name!r}; there are {', '.join(known)}")
        changes = {name: value for name, value in changes.items() if value is not None}
        if changes.get("order", self.order) != self.order:
            changes = {"order_temperature": None, "order_temperature_schedule": "constant", **changes}
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Every setting by name, ready for JSON."""
        return {**dataclasses.asdict(self), "guidance_interval": list(self.guidance_interval)}


def find_preset(
    name: str, presets: Mapping[str, Mapping[str, Any]], sampling: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings that a preset stands for: the model's own under that name, else a number of steps.

    Args:
        name: one of `PRESETS`.
        presets, sampling: "presets" and "sampling" of the model's `config.json`.

    Raises:
        SmaltiError: there is no preset of that name.
    """
    check_choice("preset", name, tuple(PRESETS))
    default = {"num_inference_steps": PRESETS[name], **({} if sampling else _RELEASE_SETTINGS)}
    return dict(presets.get(name, default))
