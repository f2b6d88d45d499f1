"""How many tokens each step reveals, and how temperatures fall (docs/format.md, section 5)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from typing import Protocol

from smalti.common.checks import check_real, check_whole
from smalti.errors import SmaltiError

# Temperature schedules end here rather than at 0.
_FLOOR = 0.01


class Budget(Protocol):
    """How many tokens each step reveals."""

    def counts(self, tokens: int, steps: int) -> list[int]:
        """`steps` numbers of at least 1 that sum to `tokens`."""


class TemperatureSchedule(Protocol):
    """A factor on a temperature for every step."""

    def values(self, steps: int) -> list[float]:
        """`steps` factors, from 1 at the first step down to nearly 0 at the last."""


@dataclass(frozen=True)
class ShiftBudget:
    """σ(t) = shift·t / (1 + (shift − 1)·t): the larger the shift, the fewer tokens the first steps reveal."""

    shift: float = 5.0

    def __post_init__(self) -> None:
        check_real("shift", self.shift, 0, above=True)

    def counts(self, tokens: int, steps: int) -> list[int]:
        """`steps` numbers of at least 1 that sum to `tokens`."""
        return _counts(lambda t: _shifted(t, self.shift), tokens, steps)


@dataclass(frozen=True)
class CosineBudget:
    """MaskGIT's (arXiv 2202.04200): after the fraction t of the steps, cos(π·t/2) is still masked."""

    def counts(self, tokens: int, steps: int) -> list[int]:
        """`steps` numbers of at least 1 that sum to `tokens`."""
        return _counts(lambda t: math.sin(math.pi * t / 2), tokens, steps)


@dataclass(frozen=True)
class LinearBudget:
    """The same number at every step, as nearly as it divides."""

    def counts(self, tokens: int, steps: int) -> list[int]:
        """`steps` numbers of at least 1 that sum to `tokens`."""
        return _counts(lambda t: t, tokens, steps)


def _counts(sigma: Callable[[float], float], tokens: int, steps: int) -> list[int]:
    """Budget of the curve σ, which rises from 0 to 1, read backwards: docs/format.md, section 5, "Unmask budget".

    Raises:
        SmaltiError: steps is below 1 or above the number of tokens.
    """
    check_steps(steps, tokens)
    reached = [math.floor(sigma(t) * tokens) for t in _unit(steps + 1)[:-1]] + [tokens]
    counts = [max(after - before, 1) for before, after in zip(reached, reached[1:], strict=False)]
    excess = sum(counts) - tokens
    for index in cycle(range(steps)):
        if excess == 0:
            break
        if counts[index] > 1:
            counts[index] -= 1
            excess -= 1
    return counts[::-1]


@dataclass(frozen=True)
class LinearTemperature:
    """1 − u, u from 0 to 1 over the steps, above the floor of 0.01."""

    def values(self, steps: int) -> list[float]:
        """`steps` factors."""
        return [(1 - u) * (1 - _FLOOR) + _FLOOR for u in _progress(steps)]


@dataclass(frozen=True)
class CosineTemperature:
    """cos(π·u/2) above the floor of 0.01: slow at first, fast at the end."""

    def values(self, steps: int) -> list[float]:
        """`steps` factors."""
        return [math.cos(math.pi * u / 2) * (1 - _FLOOR) + _FLOOR for u in _progress(steps)]


@dataclass(frozen=True)
class ShiftTemperature:
    """σ(1 − u) with the shift curve of `ShiftBudget`, above the floor of 0.01."""

    shift: float = 3.0

    def __post_init__(self) -> None:
        check_real("shift", self.shift, 0, above=True)

    def values(self, steps: int) -> list[float]:
        """`steps` factors."""
        return [_shifted(1 - u, self.shift) * (1 - _FLOOR) + _FLOOR for u in _progress(steps)]


@dataclass(frozen=True)
class ExponentialTemperature:
    """(1 − e^{5(u − 1)}) / (1 − e^{−5}), at least 10⁻⁴, above the floor of 0.01: stays hot longest."""

    def values(self, steps: int) -> list[float]:
        """`steps` factors."""
        curve = [(1 - math.exp(5 * (u - 1))) / (1 - math.exp(-5)) for u in _progress(steps)]
        return [max(value, 1e-4) * (1 - _FLOOR) + _FLOOR for value in curve]


def check_steps(steps: int, tokens: int | None = None) -> None:
    """Raise SmaltiError unless steps is a whole number from 1 to the number of tokens."""
    check_whole("steps", steps)
    if tokens is not None and steps > tokens:
        raise SmaltiError(f"steps must be at most {tokens}, the number of tokens, not {steps}")


def _shifted(t: float, shift: float) -> float:
    return shift * t / (1 + (shift - 1) * t)


def _unit(points: int) -> list[float]:
    """`points` numbers evenly from 0 to 1; 0 alone for one point.

    Multiples of the step, as linspace makes them: where a budget's curve meets a whole number of tokens
    exactly, the last bit decides, and the release's budgets come out only this way.
    """
    if points == 1:
        return [0.0]
    return [index * (1 / (points - 1)) for index in range(points - 1)] + [1.0]


def _progress(steps: int) -> list[float]:
    """u at every step, from 0 at the first to 1 at the last."""
    check_steps(steps)
    return _unit(steps)
