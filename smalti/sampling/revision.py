"""Which visible tokens a step takes back: set anew at once (docs/format.md, section 5), or masked again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from smalti.common.checks import check_real
from smalti.sampling.ranking import first_among, places
from smalti.sampling.view import StepView


class Editing(Protocol):
    """A rule for which visible tokens change, and which are masked again.

    The loop keeps to the budget: for every position that is masked again the same step reveals one more, so that
    `StepView.remaining` are masked after it, and later steps fill what was masked again. Where nothing remains
    masked, as after the last step, nothing is masked again, whatever the rule says.
    """

    enabled: ClassVar[bool]
    """Whether visible positions are worth evaluating at all."""

    remasking: ClassVar[bool]
    """Whether the rule may mask again; how many positions a step reveals is then known only after its pass."""

    def changes(self, view: StepView) -> torch.Tensor:
        """(B, n) bool; those of `view.visible` that are True, and not masked again, take the candidate."""

    def remasks(self, view: StepView) -> torch.Tensor:
        """(B, n) bool; those of `view.visible` that are True are masked again, at most `view.remaining` of them."""


def _nowhere(view: StepView) -> torch.Tensor:
    return torch.zeros_like(view.visible)


@dataclass(frozen=True)
class NoEditing:
    """A token that is set stays."""

    enabled: ClassVar[bool] = False
    remasking: ClassVar[bool] = False

    def changes(self, view: StepView) -> torch.Tensor:
        """(B, n) bool, all False."""
        return _nowhere(view)

    def remasks(self, view: StepView) -> torch.Tensor:
        """(B, n) bool, all False."""
        return _nowhere(view)


@dataclass(frozen=True)
class ThresholdEditing:
    """A visible token gives way to another candidate whose probability exceeds the threshold (the release's rule)."""

    threshold: float = 0.6
    enabled: ClassVar[bool] = True
    remasking: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_real("edit threshold", self.threshold, 0, 1, above=True)

    def changes(self, view: StepView) -> torch.Tensor:
        """(B, n) bool: x₀ differs and p(x₀) > threshold."""
        return (view.candidate != view.tokens) & (view.probability > self.threshold)

    def remasks(self, view: StepView) -> torch.Tensor:
        """(B, n) bool, all False."""
        return _nowhere(view)


@dataclass(frozen=True)
class TokenToMaskEditing:
    """A doubtful visible token is masked again: one whose probability, now that more is known, is below a threshold.

    What takes its place is decided by later steps, which no longer see it. That tokens are masked again while the
    number of masks falls on schedule is remasking as in ReMDM (arXiv 2503.00307); which ones, and the bounds, are
    our own: the improbable ones, least probable first, at most a share of the visible ones a step.

    Attributes:
        threshold: a token of this probability or more stays.
        share: at most this share of an image's visible tokens is masked again in a step, but at least one may be.
    """

    threshold: float = 0.1
    share: float = 0.1
    enabled: ClassVar[bool] = True
    remasking: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_real("edit threshold", self.threshold, 0, 1, above=True)
        check_real("edit share", self.share, 0, 1, above=True)

    def changes(self, view: StepView) -> torch.Tensor:
        """(B, n) bool, all False."""
        return _nowhere(view)

    def remasks(self, view: StepView) -> torch.Tensor:
        """(B, n) bool: the least probable of those with p(current) < threshold."""
        doubtful = view.visible & (view.current_probability < self.threshold)
        most = (self.share * view.visible.sum(dim=1)).ceil().long()
        return first_among(doubtful, torch.minimum(most, view.remaining), -view.current_probability)


@dataclass(frozen=True)
class RunningConfidenceEditing:
    """Running-confidence remasking (RCR, arXiv 2508.13148): all positions compete for being visible, on schedule.

    A visible token competes with its running confidence, the highest probability it has had so far, a masked position
    with its candidate's probability. The budget says how many are visible after the step; visible tokens that are
    not among so many are masked again, and as many more masked positions are revealed. Which ones is the order's
    choice: with the confidence order at temperature 0 they are those that won, as in the paper; another order lets its
    own next ones move up.

    Attributes:
        threshold: a token of this running confidence or more stays, whatever competes; 1 lets all compete, as in the
            paper.
    """

    threshold: float = 1.0
    enabled: ClassVar[bool] = True
    remasking: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_real("edit threshold", self.threshold, 0, 1, above=True)

    def changes(self, view: StepView) -> torch.Tensor:
        """(B, n) bool, all False."""
        return _nowhere(view)

    def remasks(self, view: StepView) -> torch.Tensor:
        """(B, n) bool: the visible ones that lost, if their running confidence is below the threshold."""
        competing = view.masked | view.visible
        score = torch.where(view.visible, view.confidence, view.probability)
        # On ties what is visible stays.
        place = places(competing, score, view.visible)
        lost = place >= (competing.sum(dim=1) - view.remaining)[:, None]
        return view.visible & lost & (view.confidence < self.threshold)
