"""Temperature schedules: how a temperature falls from step to step (docs/format.md, section 5)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from smalti.common.checks import check_whole
from smalti.common.rules import parse_rule
from smalti.sampling.curves import check_shift, progress_points, shifted

# Schedules end here rather than at 0.
_FLOOR = 0.01


class TemperatureSchedule(Protocol):
    """A rule for the factor on a temperature at every step.

    Example:
        >>> [round(value, 3) for value in LinearTemperature().values(3)]
        [1.0, 0.505, 0.01]
    """

    def values(self, steps: int) -> list[float]:
        """Return `steps` factors, from 1 at the first step down to nearly 0 at the last."""
        ...


@dataclass(frozen=True)
class ConstantTemperature(TemperatureSchedule):
    """Keep the temperature."""

    def values(self, steps: int) -> list[float]:
        """Return `steps` ones."""
        return [1.0] * steps


@dataclass(frozen=True)
class LinearTemperature(TemperatureSchedule):
    """Cool as 1 − u, u from 0 to 1 over the steps, above the floor of 0.01."""

    def values(self, steps: int) -> list[float]:
        """Return `steps` factors."""
        return [(1 - u) * (1 - _FLOOR) + _FLOOR for u in _progress(steps)]


@dataclass(frozen=True)
class CosineTemperature(TemperatureSchedule):
    """Cool as cos(π·u/2) above the floor of 0.01: slow at first, fast at the end."""

    def values(self, steps: int) -> list[float]:
        """Return `steps` factors."""
        return [math.cos(math.pi * u / 2) * (1 - _FLOOR) + _FLOOR for u in _progress(steps)]


@dataclass(frozen=True)
class ShiftTemperature(TemperatureSchedule):
    """Cool as σ(1 − u) with the curve of the shift budget, above the floor of 0.01.

    Attributes:
        shift: strength of the curve, from 10⁻⁶ to 10⁶.
    """

    shift: float = 3.0

    def __post_init__(self) -> None:
        check_shift(self.shift)

    def values(self, steps: int) -> list[float]:
        """Return `steps` factors."""
        return [shifted(1 - u, self.shift) * (1 - _FLOOR) + _FLOOR for u in _progress(steps)]


@dataclass(frozen=True)
class ExponentialTemperature(TemperatureSchedule):
    """Cool as (1 − e^{5(u − 1)}) / (1 − e^{−5}), at least 10⁻⁴, above the floor of 0.01: stays hot longest."""

    def values(self, steps: int) -> list[float]:
        """Return `steps` factors."""
        curve = [(1 - math.exp(5 * (u - 1))) / (1 - math.exp(-5)) for u in _progress(steps)]
        return [max(value, 1e-4) * (1 - _FLOOR) + _FLOOR for value in curve]


TEMPERATURE_SCHEDULES: dict[str, type[TemperatureSchedule]] = {
    "constant": ConstantTemperature,
    "linear": LinearTemperature,
    "cosine": CosineTemperature,
    "shift": ShiftTemperature,
    "exponential": ExponentialTemperature,
}
"""Every temperature schedule by the name that settings use."""


@lru_cache(maxsize=64)
def temperature_factors(schedule: str, steps: int) -> list[float]:
    """Return the factors of a schedule that is named by a string, one a step.

    Raises:
        SmaltiError: there is no such schedule.
    """
    return parse_rule("schedule", schedule, TEMPERATURE_SCHEDULES).values(steps)


def _progress(steps: int) -> list[float]:
    """Return u at every step, from 0 at the first to 1 at the last."""
    check_whole("steps", steps)
    return progress_points(steps)
