"""Budgets: how many tokens each step reveals (docs/format.md, section 5)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from smalti.common.checks import check_flag, check_real
from smalti.sampling.bounded import EntropyBudget
from smalti.sampling.coherence import CoherentBudget
from smalti.sampling.curves import check_shift, shifted, step_counts
from smalti.sampling.kinds import Budget, paced
from smalti.sampling.ranking import places
from smalti.sampling.stability import StableBudget
from smalti.sampling.view import StepView


@dataclass(frozen=True)
class ShiftBudget(Budget):
    """Follow σ(t) = shift·t / (1 + (shift − 1)·t): the larger the shift, the fewer tokens the first steps reveal.

    Attributes:
        shift: strength of the curve, from 10⁻⁶ to 10⁶; 1 is linear.
    """

    shift: float = 5.0

    def __post_init__(self) -> None:
        check_shift(self.shift)

    def counts(self, tokens: int, steps: int) -> list[int]:
        """Return `steps` numbers of at least 1 that sum to `tokens`."""
        return step_counts(lambda t: shifted(t, self.shift), tokens, steps)


@dataclass(frozen=True)
class CosineBudget(Budget):
    """Follow MaskGIT (arXiv 2202.04200): after the fraction t of the steps, cos(π·t/2) is still masked."""

    def counts(self, tokens: int, steps: int) -> list[int]:
        """Return `steps` numbers of at least 1 that sum to `tokens`."""
        return step_counts(lambda t: math.sin(math.pi * t / 2), tokens, steps)


@dataclass(frozen=True)
class LinearBudget(Budget):
    """Reveal the same number at every step, as nearly as it divides."""

    def counts(self, tokens: int, steps: int) -> list[int]:
        """Return `steps` numbers of at least 1 that sum to `tokens`."""
        return step_counts(lambda t: t, tokens, steps)


@dataclass(frozen=True)
class AdaptiveBudget(Budget):
    """Reveal all positions whose candidate is more probable than a threshold, between a floor and a ceiling.

    Threshold-based parallel decoding follows Fast-dLLM (arXiv 2505.22618), which reveals at least one token. The floor,
    the ceiling and the plan are Smalti extensions. The plan is the cosine budget: a step with too few probable
    positions reveals what keeps up with it, so the last step always finishes.

    Attributes:
        threshold: probability above which a position goes first, from 0 to 1.
        floor: least share of the grid that a step reveals; at least one token.
        ceiling: largest share of the grid that a step reveals, unless the plan asks for more.
    """

    threshold: float = 0.9
    floor: float = 0.0
    ceiling: float = 0.25
    planned: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_real("threshold", self.threshold, 0, 1)
        check_real("floor", self.floor, 0, 1)
        check_real("ceiling", self.ceiling, self.floor, 1)

    def counts(self, tokens: int, steps: int) -> list[int]:
        """Return the plan: `steps` numbers of at least 1 that sum to `tokens`."""
        return CosineBudget().counts(tokens, steps)

    def first(self, view: StepView) -> torch.Tensor:
        """Return the masked positions with p(x₀) > threshold, (B, n) bool."""
        return view.masked & (view.probability > self.threshold)

    def remaining(self, view: StepView) -> torch.Tensor:
        """Return what is masked less the probable positions, between floor and ceiling, or the plan if less, (B,)."""
        return paced(view, self.first(view), self.floor, self.ceiling)


@dataclass(frozen=True)
class VerifiedBudget(Budget):
    """Reveal all positions whose candidate a second, smaller model agrees with, between a floor and a ceiling.

    The second model sees the grid with all candidates in place, in one pass, as in FlashDLM's guided diffusion (arXiv
    2505.21467). It changes no candidate. The floor, the ceiling and the plan are those of the adaptive budget.

    Attributes:
        agreement: least p(x₀) of the second model, as a share of its largest p, from 0 to 1; at 1 the candidate must be
            its own first choice.
        floor: least share of the grid that a step reveals; at least one token.
        ceiling: largest share of the grid that a step reveals, unless the plan asks for more.
        prefix: whether the positions, most probable candidates first, end at the first that the second model rejects,
            as in the paper.
    """

    agreement: float = 0.5
    floor: float = 0.0
    ceiling: float = 0.25
    prefix: bool = False
    planned: ClassVar[bool] = False
    verifies: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_flag("prefix", self.prefix)
        check_real("agreement", self.agreement, 0, 1)
        check_real("floor", self.floor, 0, 1)
        check_real("ceiling", self.ceiling, self.floor, 1)

    def counts(self, tokens: int, steps: int) -> list[int]:
        """Return the plan: `steps` numbers of at least 1 that sum to `tokens`."""
        return CosineBudget().counts(tokens, steps)

    def first(self, view: StepView) -> torch.Tensor:
        """Return the masked positions that the second model accepts, (B, n) bool."""
        if view.agreement is None:
            return torch.zeros_like(view.masked)
        accepted = view.masked & (view.agreement >= self.agreement)
        if not self.prefix:
            return accepted
        place = places(view.masked, view.probability)
        rejected = place.masked_fill(~view.masked | accepted, place.shape[1])
        return accepted & (place < rejected.amin(dim=1, keepdim=True))

    def remaining(self, view: StepView) -> torch.Tensor:
        """Return what is masked less the accepted positions, between floor and ceiling, or the plan if less, (B,)."""
        return paced(view, self.first(view), self.floor, self.ceiling)


BUDGETS: dict[str, type[Budget]] = {
    "shift": ShiftBudget,
    "cosine": CosineBudget,
    "linear": LinearBudget,
    "adaptive": AdaptiveBudget,
    "verified": VerifiedBudget,
    "stable": StableBudget,
    "entropy_bound": EntropyBudget,
    "coherent": CoherentBudget,
}
"""Every budget by the name that settings use."""
