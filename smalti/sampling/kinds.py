"""The kinds of rules that choose what a step reveals: orders say which positions, budgets how many."""

from __future__ import annotations

from typing import ClassVar, Protocol

import torch

from smalti.common.checks import check_flag, check_real
from smalti.sampling.curves import check_shift, shifted, step_counts
from smalti.sampling.view import StepView


class Order(Protocol):
    """A rule for which masked positions come first. A class that inherits from it needs `priority` alone.

    Example:
        >>> from dataclasses import dataclass
        >>> from smalti.sampling.orders import ORDERS
        >>> @dataclass(frozen=True)
        ... class EntropyOrder(Order):
        ...     def priority(self, view):
        ...         return -view.entropy
        >>> ORDERS["entropy"] = EntropyOrder
    """

    noisy: ClassVar[bool] = False
    """Whether the rule reads `StepView.noise`."""

    fixed: ClassVar[bool] = False
    """Whether the order is independent of the model's predictions. The positions of a step are then known before the
    pass, and the head is applied to them alone."""

    @property
    def past(self) -> int:
        """How many earlier steps the rule reads in `StepView.past`."""
        return 0

    @property
    def recent(self) -> int:
        """How many passes the rule compares in `StepView.recent`, this one included; 0 is none."""
        return 0

    def check(self, height: int, width: int) -> None:
        """Raise SmaltiError if the rule cannot order a grid of this size."""
        return

    def priority(self, view: StepView) -> torch.Tensor:
        """Return (B, n) finite floats. The step reveals the masked positions with the highest."""
        ...


class Budget(Protocol):
    """A rule for how many tokens each step reveals.

    A class that inherits from it needs `counts` alone. A budget that decides after every pass sets `planned` to False.

    Example:
        >>> from smalti.sampling.budgets import ShiftBudget
        >>> ShiftBudget(shift=5.0).counts(256, 4)
        [16, 27, 53, 160]
    """

    planned: ClassVar[bool] = True
    """Whether `counts` alone decides. Otherwise sampling ends when no image has a mask left, and an image that is
    full takes no further edits while others are filled."""

    verifies: ClassVar[bool] = False
    """Whether the rule reads `StepView.agreement`, for which a second model looks at every step's candidates."""

    @property
    def recent(self) -> int:
        """How many passes the rule compares in `StepView.recent`, this one included; 0 is none."""
        return 0

    def counts(self, tokens: int, steps: int) -> list[int]:
        """Return `steps` numbers of at least 1 that sum to `tokens`: the plan."""
        ...

    def remaining(self, view: StepView) -> torch.Tensor:
        """Return how many positions stay masked after the step, (B,) int64. `view.remaining` is the plan.

        A budget that is not planned leaves fewer than there are now, where there are any.
        """
        return view.remaining

    def first(self, view: StepView) -> torch.Tensor | None:
        """Return the masked positions that precede the order's choice, (B, n) bool, or None."""
        return None


def paced(view: StepView, first: torch.Tensor, floor: float, ceiling: float) -> torch.Tensor:
    """Return what is masked less `first`, between two shares of the grid, or the plan if less, (B,) int64."""
    n = view.masked.shape[1]
    least, most = (max(round(share * n), 1) for share in (floor, ceiling))
    count = first.sum(dim=1).clamp(least, most)
    return torch.minimum((view.masked.sum(dim=1) - count).clamp_min(0), view.remaining)


class GroupBudget(Budget):
    """Reveal a group of positions that is found after every pass, between a floor and a ceiling.

    A class that inherits from it needs `group`, and the fields that it wants to set. The plan is that of a shift
    budget: a step whose group is too small reveals what keeps up with it.

    Attributes:
        shift: strength of the plan's curve.
        floor: least share of the grid that a step reveals; at least one token.
        ceiling: largest share of the grid that a step reveals, unless the plan asks for more.
        lead: whether the group comes before the order's choice; otherwise it only says how many.
    """

    planned: ClassVar[bool] = False
    shift: float = 5.0
    floor: float = 0.0
    ceiling: float = 1.0
    lead: bool = True

    def __post_init__(self) -> None:
        check_flag("lead", self.lead)
        check_real("floor", self.floor, 0, 1)
        check_real("ceiling", self.ceiling, self.floor, 1)
        check_shift(self.shift)

    def group(self, view: StepView) -> torch.Tensor:
        """Return the masked positions that may be revealed together, (B, n) bool."""
        raise NotImplementedError

    def counts(self, tokens: int, steps: int) -> list[int]:
        """Return the plan: `steps` numbers of at least 1 that sum to `tokens`."""
        return step_counts(lambda t: shifted(t, self.shift), tokens, steps)

    def first(self, view: StepView) -> torch.Tensor | None:
        """Return the group if it leads, (B, n) bool, or None."""
        return self.group(view) if self.lead else None

    def remaining(self, view: StepView) -> torch.Tensor:
        """Return what is masked less the group, between floor and ceiling, or the plan if less, (B,) int64."""
        return paced(view, self.group(view), self.floor, self.ceiling)
