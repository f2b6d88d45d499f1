"""Rules by coherence: what the predictions of the last passes agree on (CCD, arXiv 2512.02044).

A prediction in one context is overconfident. The mean prediction p̄ of the last passes has the entropy

    H(p̄) = mean of the passes' entropies + I

I is the mutual information of token and pass. So positions whose prediction swings with the context are penalised. The
first steps have fewer passes to compare than the window.

The paper ranks by the entropy of the mean and reveals what stays in the buffers of all passes. Quantiles within the
grid instead of its threshold, the rejected share, the floor, the ceiling and the plan are Smalti extensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from smalti.common.checks import check_flag, check_real, check_whole
from smalti.common.low_discrepancy import halton_order
from smalti.sampling.kinds import GroupBudget, Order
from smalti.sampling.ranking import first_among, places, ranks
from smalti.sampling.view import StepView


@dataclass(frozen=True)
class CoherentOrder(Order):
    """Reveal positions first whose mean prediction over the last passes has the least entropy.

    Attributes:
        window: number of passes, this one included; 1 is the order by entropy.
        reject: share of the masked positions that wait until others are revealed, those on which the passes disagree
            most (early rejection); 0 rejects none.
        spread: whether the others follow the Halton sequence instead. Positions of little entropy are neighbours, which
            depend on each other most.
    """

    window: int = 3
    reject: float = 0.0
    spread: bool = False

    def __post_init__(self) -> None:
        check_flag("spread", self.spread)
        check_whole("window", self.window)
        check_real("reject", self.reject, 0, 1)

    @property
    def recent(self) -> int:
        """How many passes the rule compares."""
        return self.window

    def priority(self, view: StepView) -> torch.Tensor:
        """Return priorities by the mean prediction's entropy or the sequence, rejected positions last, (B, n)."""
        recent = view.recent
        base = -view.entropy if recent is None else -recent.entropy
        if self.spread:
            base = ranks(halton_order(*view.grid), view.masked)
        if recent is None or len(recent) < 2 or not self.reject:
            return base
        count = (self.reject * view.masked.sum(dim=1)).floor()
        rejected = first_among(view.masked, count, recent.information)
        return -places(view.masked, ~rejected, base).float()


@dataclass(frozen=True)
class CoherentBudget(GroupBudget):
    """Reveal all positions that every one of the last passes has among its surest, between a floor and a ceiling.

    How many there are follows how consistent the passes are. The plan is that of a shift budget: a step with too few
    such positions reveals what keeps up with it.

    Attributes:
        window: number of passes, this one included.
        share: share of the masked positions that a pass counts as its surest, by entropy.
        floor: least share of the grid that a step reveals; at least one token.
        ceiling: largest share of the grid that a step reveals, unless the plan asks for more.
        shift: strength of the plan's curve.
        lead: whether these positions come before the order's choice; otherwise they only say how many.
    """

    window: int = 2
    share: float = 0.3
    floor: float = 0.0
    ceiling: float = 0.25
    shift: float = 5.0
    lead: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("window", self.window)
        check_real("share", self.share, 0, 1)

    @property
    def recent(self) -> int:
        """How many passes the rule compares."""
        return self.window

    def group(self, view: StepView) -> torch.Tensor:
        """Return the masked positions that are in every pass's share, (B, n) bool; none before `window` passes."""
        if view.recent is None or len(view.recent) < self.window:
            return torch.zeros_like(view.masked)
        count = (self.share * view.masked.sum(dim=1)).ceil()
        kept = view.masked
        for entropy in view.recent.entropies:
            kept = kept & first_among(view.masked, count, -entropy)
        return kept
