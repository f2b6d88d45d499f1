"""Settings of a generation, by the pipeline's argument names, and their defaults. Free of PyTorch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from smalti.common.checks import check_choice, check_real, check_whole
from smalti.errors import SmaltiError

BUDGETS = ("shift", "cosine", "linear", "adaptive")
ORDERS = ("confidence", "draw", "history", "stratified", "halton", "random")
EDIT_RULES = ("threshold", "token_to_mask", "running_confidence")
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
_ORDER_TEMPERATURES = {"confidence": 0.0, "draw": 1.0, "history": 0.0}

# What a rule of editing has when nobody names a threshold.
_EDIT_THRESHOLDS = {"threshold": 0.0, "token_to_mask": 0.1, "running_confidence": 1.0}


@dataclass(frozen=True)
class GenerationSettings:
    """How pictures are sampled. These defaults hold where a model's `config.json` has none under "sampling".

    Attributes:
        num_inference_steps: passes of the denoiser, from 1 to the number of tokens; the most of them with the budget
            "adaptive".
        guidance_scale: s in (1 + s)·conditional − s·unconditional; 0 is no guidance.
        guidance_interval: (a, b), the fractions of the steps between which guidance is on.
        edit_rule: what happens to tokens that are already set. "threshold": one gives way to another of a probability
            above `edit_threshold`. "token_to_mask": those whose own probability is below it are masked again.
            "running_confidence": all compete at every step for staying, by the highest probability that they have had,
            and those that lose and are below the threshold are masked again.
        refine_share: of the steps, those that come last and lay the tokens of rare codes again, in sight of the others;
            0 is none, and with the budget "adaptive" there is none.
        refine_frequency: codes are rare that the model, knowing nothing, expects at a smaller share of the positions.
        edit_threshold: of the rule; 0 is no editing, None is the rule's own default: 0, 0.1 and 1.
        budget: how many tokens each step reveals: "shift", "cosine", "linear" or "adaptive": those that the model is
            sure of, and as many as the budget "cosine" has revealed by then.
        shift: of the budget "shift"; the larger, the fewer the first steps reveal.
        adaptive_threshold: of the budget "adaptive"; it is sure of a token that is more probable than this.
        adaptive_range: (floor, ceiling) of the budget "adaptive", shares of the grid: it reveals at least and at most
            so many tokens a step. The ceiling gives way where the last step would not finish.
        order: which tokens a step reveals: "confidence", "draw", "history" (those that stay the same over several
            steps), "stratified", "halton" or "random".
        order_temperature: noise in the orders "confidence", "draw" and "history"; None is the order's own default.
        order_temperature_schedule: how the noise in the orders "confidence" and "history" cools from step to step:
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
    edit_rule: str = "threshold"
    edit_threshold: float | None = None
    refine_share: float = 0.0
    refine_frequency: float = 0.004
    budget: str = "shift"
    shift: float = 5.0
    adaptive_threshold: float = 0.9
    adaptive_range: tuple[float, float] = (0.0, 0.25)
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
        self._check_pair("guidance_interval", "start", "end")
        check_choice("edit_rule", self.edit_rule, EDIT_RULES)
        if self.edit_threshold is None:
            object.__setattr__(self, "edit_threshold", _EDIT_THRESHOLDS[self.edit_rule])
        check_real("edit_threshold", self.edit_threshold, 0, 1)
        check_real("refine_share", self.refine_share, 0, 1)
        check_real("refine_frequency", self.refine_frequency, 0, 1)
        check_choice("budget", self.budget, BUDGETS)
        check_real("shift", self.shift, 0, above=True)
        check_real("adaptive_threshold", self.adaptive_threshold, 0, 1)
        self._check_pair("adaptive_range", "floor", "ceiling")
        check_choice("order", self.order, ORDERS)
        if self.order_temperature is None:
            object.__setattr__(self, "order_temperature", _ORDER_TEMPERATURES.get(self.order))
        if self.order_temperature is not None:
            check_real("order_temperature", self.order_temperature)
        check_choice("order_temperature_schedule", self.order_temperature_schedule, SCHEDULES)
        if self.order not in ("confidence", "history") and self.order_temperature_schedule != "constant":
            raise SmaltiError(
                "order_temperature_schedule must be 'constant' for every order but 'confidence' and 'history', "
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

    def _check_pair(self, name: str, low: str, high: str) -> None:
        """Check a setting of two rising numbers from 0 to 1, and make it a tuple."""
        pair = getattr(self, name)
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise SmaltiError(f"{name} must be two numbers from 0 to 1, not {pair!r}")
        check_real(f"{name}'s {low}", pair[0], 0, 1)
        check_real(f"{name}'s {high}", pair[1], pair[0], 1)
        object.__setattr__(self, name, tuple(pair))

    def replaced(self, changes: Mapping[str, Any]) -> GenerationSettings:
        """The same settings with some of them changed; None leaves a setting as it is.

        Another order starts from its own default temperature, and another rule of editing from its own default
        threshold, because these mean something else in each.

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
        if changes.get("edit_rule", self.edit_rule) != self.edit_rule:
            changes = {"edit_threshold": None, **changes}
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Every setting by name, ready for JSON."""
        values = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


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
