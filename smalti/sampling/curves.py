"""Curves over the steps of a generation, which budgets and temperature schedules share."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import cycle

from smalti.common.checks import check_real, check_whole
from smalti.errors import SmaltiError


def check_shift(shift: float) -> None:
    """Raise SmaltiError unless a shift is a finite number from 10⁻⁶ to 10⁶, where its curve is exact enough."""
    check_real("shift", shift, 1e-6, 1e6)


def shifted(t: float, shift: float) -> float:
    """Return σ(t) = shift·t / (1 + (shift − 1)·t), from 0 at t = 0 to 1 at t = 1."""
    return shift * t / (1 + (shift - 1) * t)


def progress_points(points: int) -> list[float]:
    """Return `points` numbers evenly from 0 to 1; 0 alone for one point.

    They are multiples of the step, as linspace makes them. Where a budget's curve meets a whole number of tokens
    exactly, the last bit decides, and the reference model's budgets come out only this way.
    """
    if points == 1:
        return [0.0]
    return [index * (1 / (points - 1)) for index in range(points - 1)] + [1.0]


def check_steps(steps: int, tokens: int | None = None) -> None:
    """Raise SmaltiError unless `steps` is a whole number from 1 to the number of tokens."""
    check_whole("steps", steps)
    if tokens is not None and steps > tokens:
        raise SmaltiError(
            f"steps must be at most {tokens}, the number of tokens, not {steps}", argument="steps"
        )


def step_counts(sigma: Callable[[float], float], tokens: int, steps: int) -> list[int]:
    """Return the budget of the curve σ, which rises from 0 to 1, read backwards: docs/format.md, section 5.

    Raises:
        SmaltiError: `steps` is below 1 or above the number of tokens.
    """
    check_steps(steps, tokens)
    reached = [math.floor(sigma(t) * tokens) for t in progress_points(steps + 1)[:-1]] + [tokens]
    counts = [max(after - before, 1) for before, after in zip(reached, reached[1:], strict=False)]
    excess = sum(counts) - tokens
    for index in cycle(range(steps)):
        if excess == 0:
            break
        if counts[index] > 1:
            counts[index] -= 1
            excess -= 1
    return counts[::-1]
