"""Budgets that are asked at every step: as many tokens as the model is sure of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from smalti.common.checks import check_real
from smalti.sampling.schedules import CosineBudget
from smalti.sampling.view import StepView


@runtime_checkable
class StepwiseBudget(Protocol):
    """A `Budget` that looks at every step. Its `counts` are the plan that it is never behind.

    Sampling ends when no image of the batch has a mask left. An image that is full is finished: it takes no further
    edits while others are filled, so that its tokens do not depend on them.
    """

    def counts(self, tokens: int, steps: int) -> list[int]:
        """As of `Budget`."""

    def sure(self, view: StepView) -> torch.Tensor:
        """(B, n) bool, the masked positions that go first, before what the order says."""

    def remaining(self, view: StepView) -> torch.Tensor:
        """(B,) int64, how many positions stay masked after the step; fewer than now, where there are any.

        `view.remaining` is the plan.
        """


@dataclass(frozen=True)
class AdaptiveBudget:
    """All masked positions whose candidate's probability is above a threshold, between a floor and a ceiling.

    Threshold-based parallel decoding as in Fast-dLLM (arXiv 2505.22618), which reveals at least one token; the floor,
    the ceiling and the plan are our own. The plan is MaskGIT's cosine: a step that has too few sure positions reveals
    what keeps up with it, so that the last step finishes in any case.

    Attributes:
        threshold: positions with p(x₀) above it go first, then those of the order.
        floor: at least this share of the grid is revealed a step (and at least one token).
        ceiling: at most this share, unless the plan asks for more.
    """

    threshold: float = 0.9
    floor: float = 0.0
    ceiling: float = 0.25

    def __post_init__(self) -> None:
        check_real("adaptive threshold", self.threshold, 0, 1)
        check_real("floor of the adaptive range", self.floor, 0, 1)
        check_real("ceiling of the adaptive range", self.ceiling, self.floor, 1)

    def counts(self, tokens: int, steps: int) -> list[int]:
        """The plan: `steps` numbers of at least 1 that sum to `tokens`."""
        return CosineBudget().counts(tokens, steps)

    def sure(self, view: StepView) -> torch.Tensor:
        """(B, n) bool: masked, and p(x₀) > threshold."""
        return view.masked & (view.probability > self.threshold)

    def remaining(self, view: StepView) -> torch.Tensor:
        """(B,) int64: what is masked now less the sure ones, between floor and ceiling, or the plan if that is less."""
        n = view.masked.shape[1]
        least, most = (max(round(share * n), 1) for share in (self.floor, self.ceiling))
        count = self.sure(view).sum(dim=1).clamp(least, most)
        return torch.minimum((view.masked.sum(dim=1) - count).clamp_min(0), view.remaining)
