"""How strongly the prompt is followed, and when (classifier-free guidance, arXiv 2207.12598)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from smalti.common.checks import check_real, quoted
from smalti.errors import SmaltiError

LARGEST_GUIDANCE = 10_000
"""Largest guidance scale. Far beyond it products overflow."""


class GuidanceSchedule(Protocol):
    """A rule for the factor on the guidance scale at every step.

    Example:
        >>> [RisingGuidance().factor(index, 4) for index in range(4)]
        [0.25, 0.5, 0.75, 1.0]
    """

    def factor(self, index: int, steps: int) -> float:
        """Return the factor at step `index`, counted from 0, from 0 to 1; where it is 0 no unconditional pass runs."""
        ...


@dataclass(frozen=True)
class ConstantGuidance(GuidanceSchedule):
    """Keep the guidance scale."""

    def factor(self, index: int, steps: int) -> float:
        """Return 1."""
        return 1.0


@dataclass(frozen=True)
class RisingGuidance(GuidanceSchedule):
    """Raise the guidance scale from step to step, up to its full value at the last.

    While most positions are masked, a high scale narrows what an image can become; late it sharpens what is there
    (arXiv 2507.08965 compares weights that rise and fall). The line is a Smalti extension.

    Attributes:
        start: factor before the first step, from 0 to 1; 1 is constant.
        power: exponent of the progress: above 1 the scale stays low for longer.
    """

    start: float = 0.0
    power: float = 1.0

    def __post_init__(self) -> None:
        check_real("start", self.start, 0, 1)
        check_real("power", self.power, 0.1, 10)

    def factor(self, index: int, steps: int) -> float:
        """Return start + (1 − start)·((i + 1) / steps)^power."""
        return self.start + (1 - self.start) * ((index + 1) / steps) ** self.power


@dataclass(frozen=True)
class CosineGuidance(GuidanceSchedule):
    """Raise the guidance scale along half a wave, (1 − cos(π·u^power)) / 2, as MaskBit does (arXiv 2409.16211).

    Attributes:
        power: exponent of the progress u.
    """

    power: float = 1.0

    def __post_init__(self) -> None:
        check_real("power", self.power, 0.1, 10)

    def factor(self, index: int, steps: int) -> float:
        """Return (1 − cos(π·((i + 1) / steps)^power)) / 2."""
        return (1 - math.cos(math.pi * ((index + 1) / steps) ** self.power)) / 2


GUIDANCE_SCHEDULES: dict[str, type[GuidanceSchedule]] = {
    "constant": ConstantGuidance,
    "rising": RisingGuidance,
    "cosine": CosineGuidance,
}
"""Every guidance schedule by the name that settings use."""


@dataclass(frozen=True)
class Guidance:
    """logits = (1 + s)·cond − s·uncond while ⌊a·steps⌋ ≤ i ≤ ⌊b·steps⌋ for the step i counted from 1.

    Attributes:
        scale: s, at most 10,000; 0 is no guidance, and costs no unconditional pass.
        interval: (a, b), fractions of the steps (arXiv 2404.07724).
        schedule: rule that multiplies the scale step by step.
    """

    scale: float = 0.0
    interval: tuple[float, float] = (0.0, 1.0)
    schedule: GuidanceSchedule = ConstantGuidance()

    def __post_init__(self) -> None:
        check_real("guidance", self.scale, 0, LARGEST_GUIDANCE)
        interval = self.interval
        if not isinstance(interval, tuple | list) or len(interval) != 2:
            raise SmaltiError(f"guidance interval must be two numbers from 0 to 1, not {quoted(interval)}")
        check_real("start of the guidance interval", interval[0], 0, 1)
        check_real("end of the guidance interval", interval[1], interval[0], 1)
        object.__setattr__(self, "interval", tuple(interval))

    def at(self, index: int, steps: int) -> float:
        """Return the scale at step `index`, counted from 0."""
        first, last = (math.floor(fraction * steps) for fraction in self.interval)
        return self.scale * self.schedule.factor(index, steps) if first <= index + 1 <= last else 0.0
