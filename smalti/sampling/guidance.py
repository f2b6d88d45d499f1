"""How strongly the prompt is followed, and when (classifier-free guidance, arXiv 2207.12598)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from smalti.common.checks import check_real, quoted
from smalti.errors import SmaltiError

LARGEST_GUIDANCE = 10_000
"""Largest guidance scale. Far beyond it products overflow."""


@dataclass(frozen=True)
class Guidance:
    """logits = (1 + s)·cond − s·uncond while ⌊a·steps⌋ ≤ i ≤ ⌊b·steps⌋ for the step i counted from 1.

    Attributes:
        scale: s, at most 10,000; 0 is no guidance, and costs no unconditional pass.
        interval: (a, b), fractions of the steps (arXiv 2404.07724).
    """

    scale: float = 0.0
    interval: tuple[float, float] = (0.0, 1.0)

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
        return self.scale if first <= index + 1 <= last else 0.0
