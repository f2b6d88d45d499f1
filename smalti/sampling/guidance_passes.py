"""Rules for the unconditional pass of guidance: which steps compute it (docs/format.md, section 5)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from smalti.common.checks import check_real, check_whole


class GuidancePasses(Protocol):
    """A rule for which guided steps compute the unconditional pass, and what stands in for it in the others.

    Example:
        >>> [SkippedPasses(every=2, start=0.5).computes(index, 6) for index in range(6)]
        [True, True, True, True, False, True]
    """

    skips: ClassVar[bool] = False
    """Whether the rule ever leaves the unconditional pass out."""

    def computes(self, index: int, steps: int) -> bool:
        """Return whether step `index`, counted from 0, computes it. The first guided step always does."""
        return True

    def difference(self, past: Sequence[tuple[int, torch.Tensor]], index: int) -> torch.Tensor:
        """Return what conditional states exceed unconditional ones by at step `index`.

        Args:
            past: (index, difference) of the last one or two steps that computed both, newest first.
        """
        return past[0][1]


@dataclass(frozen=True)
class AllPasses(GuidancePasses):
    """Compute the unconditional pass at every guided step, which is exact."""


@dataclass(frozen=True)
class SkippedPasses(GuidancePasses):
    """Compute the unconditional pass only at each k-th step of an interval, and extrapolate it in the others.

    The head is linear, so guidance adds s times the difference of conditional and unconditional hidden states. A
    skipped step takes the last difference, or continues the line through the last two. Leaving out passes follows
    adaptive guidance (arXiv 2312.12487).

    Attributes:
        every: k, steps of the interval from one unconditional pass to the next.
        start: fraction of the steps at which the interval begins.
        end: fraction of the steps at which it ends.
        order: 0 takes the last difference, 1 the line through the last two.
    """

    every: int = 2
    start: float = 0.2
    end: float = 1.0
    order: int = 0
    skips: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_whole("every", self.every)
        check_real("start", self.start, 0, 1)
        check_real("end", self.end, self.start, 1)
        check_whole("order", self.order, 0, 1)

    def computes(self, index: int, steps: int) -> bool:
        """Return whether the step is outside the interval, or one of its k-th."""
        first, last = (math.floor(fraction * steps) for fraction in (self.start, self.end))
        return not first <= index < last or (index - first) % self.every == 0

    def difference(self, past: Sequence[tuple[int, torch.Tensor]], index: int) -> torch.Tensor:
        """Return the last difference, or the line through the last two at `index`."""
        (newest, value), *older = past
        if self.order == 0 or not older:
            return value
        before, earlier = older[0]
        return torch.lerp(earlier, value, (index - before) / (newest - before))


GUIDANCE_PASSES: dict[str, type[GuidancePasses]] = {"all": AllPasses, "skip": SkippedPasses}
"""Every rule for the unconditional pass by the name that settings use."""
