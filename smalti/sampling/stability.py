"""Rules by stability: how far a position's prediction moved since the pass before (KLASS, arXiv 2511.05664).

KLASS reveals what is both probable and stable. For text its thresholds are p(x₀) > 0.9 and KL < 0.01 over two steps.
Predictions of image codes are flatter, and few steps leave no time for a streak. So here ranks within the grid take the
thresholds' place, over one pair of passes. That is a Smalti extension. The first pass has nothing to compare.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from smalti.common.checks import check_flag, check_real
from smalti.common.low_discrepancy import halton_order
from smalti.sampling.kinds import GroupBudget, Order
from smalti.sampling.ranking import first_among, places, ranks
from smalti.sampling.view import StepView


@dataclass(frozen=True)
class StableOrder(Order):
    """Reveal, among the most probable candidates, those first whose prediction moved least since the pass before.

    Attributes:
        pool: how many times as many candidates as the step reveals are considered, the most probable ones; 1 is the
            confidence order.
        spread: whether the candidates considered are those next in the Halton sequence instead. The most probable ones
            are neighbours, which depend on each other most.
    """

    pool: float = 2.0
    spread: bool = False

    def __post_init__(self) -> None:
        check_flag("spread", self.spread)
        check_real("pool", self.pool, 1)

    @property
    def recent(self) -> int:
        """How many passes the rule compares."""
        return 2

    def priority(self, view: StepView) -> torch.Tensor:
        """Return minus each position's place, (B, n): first the pool by rising KL(p ‖ p before), then the others."""
        base = ranks(halton_order(*view.grid), view.masked) if self.spread else view.probability
        moved = torch.zeros_like(base) if view.recent is None else view.recent.divergence
        wanted = (self.pool * (view.masked.sum(dim=1) - view.remaining)).ceil()
        inside = first_among(view.masked, wanted, base)
        return -places(view.masked, inside, torch.where(inside, -moved, base), base).float()


@dataclass(frozen=True)
class StableBudget(GroupBudget):
    """Reveal all positions that are among the most probable and among the most stable, between a floor and a ceiling.

    The plan is that of a shift budget: a step with too few such positions reveals what keeps up with it.

    Attributes:
        probable: share of the masked positions that count as probable, by p(x₀).
        stable: share of the masked positions that count as stable, by KL(p ‖ p before).
        floor: least share of the grid that a step reveals; at least one token.
        ceiling: largest share of the grid that a step reveals, unless the plan asks for more.
        shift: strength of the plan's curve.
        lead: whether these positions come before the order's choice; otherwise they only say how many.
    """

    probable: float = 0.3
    stable: float = 0.3
    floor: float = 0.0
    ceiling: float = 0.25
    shift: float = 5.0
    lead: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_real("probable", self.probable, 0, 1)
        check_real("stable", self.stable, 0, 1)

    @property
    def recent(self) -> int:
        """How many passes the rule compares."""
        return 2

    def group(self, view: StepView) -> torch.Tensor:
        """Return the masked positions that are both probable and stable, (B, n) bool; none at the first pass."""
        if view.recent is None or len(view.recent) < 2:
            return torch.zeros_like(view.masked)
        masks = view.masked.sum(dim=1)
        probable = first_among(view.masked, (self.probable * masks).ceil(), view.probability)
        return probable & first_among(view.masked, (self.stable * masks).ceil(), -view.recent.divergence)
