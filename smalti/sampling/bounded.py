"""A budget by entropy: as many tokens a step as a bound on their dependence allows (EB-sampler, arXiv 2505.24857).

Tokens of one step are drawn independently. The error of a group U is at most its mutual information, which is at most
Σ_U H − max_U H. The paper reveals the longest group, surest positions first, whose bound is below γ. For text γ is a
number of nats. Entropies of image codes differ in size, so here γ is in units of the grid. These units are a Smalti
extension, and so is the plan that makes the last step finish.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from smalti.common.checks import check_real
from smalti.sampling.kinds import GroupBudget
from smalti.sampling.ranking import first_among, places
from smalti.sampling.view import StepView


@dataclass(frozen=True)
class EntropyBudget(GroupBudget):
    """Reveal the surest positions as long as the sum of their entropies, without the largest, stays below a bound.

    The bound is gamma · (mean entropy of the masked positions) · (tokens of the grid / steps). At gamma 1 a step may
    thus reveal as much uncertainty as the linear budget would in positions of mean entropy.

    Attributes:
        gamma: the bound, in units of the grid; 0 reveals one token where the plan allows it.
        shift: strength of the plan's curve; a step reveals at least what keeps up with it.
        lead: whether these positions come before the order's choice; otherwise they only say how many.
    """

    gamma: float = 0.5
    shift: float = 5.0
    lead: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_real("gamma", self.gamma, 0)

    def group(self, view: StepView) -> torch.Tensor:
        """Return the longest group of the surest masked positions within the bound, (B, n) bool."""
        masks, entropy = view.masked.sum(dim=1), view.entropy.masked_fill(~view.masked, 0)
        mean = entropy.sum(dim=1) / masks.clamp_min(1)
        bound = self.gamma * mean * view.masked.shape[1] / view.steps
        order = places(view.masked, -entropy).argsort(dim=1)
        ordered = entropy.gather(1, order).double()
        # In rising order the largest is the last, so what counts is the sum of those before.
        inside = ordered.cumsum(dim=1) - ordered <= bound[:, None]
        return first_among(view.masked, inside.sum(dim=1), -entropy)
