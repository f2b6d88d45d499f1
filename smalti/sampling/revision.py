"""Revision rules: which visible tokens a step replaces, and which it masks again (docs/format.md, section 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from smalti.common.checks import check_real
from smalti.sampling.ranking import first_among, places
from smalti.sampling.view import StepView


class Revision(Protocol):
    """A rule for which visible tokens change, and which are masked again.

    A class that inherits from it needs one of the two methods. The loop keeps to the budget: for every position that a
    step masks again, the same step reveals one more, so that `StepView.remaining` are masked after it. Later steps fill
    what was masked again. After the last step nothing remains masked, so nothing is masked again, whatever the rule
    says.

    Example:
        >>> ThresholdRevision(threshold=0.6).remasking
        False
    """

    enabled: ClassVar[bool] = True
    """Whether the head is applied to visible positions at all."""

    remasking: ClassVar[bool] = False
    """Whether the rule may mask again; how many positions a step reveals is then known only after its pass."""

    noisy: ClassVar[bool] = False
    """Whether the rule reads `StepView.noise`."""

    def changes(self, view: StepView) -> torch.Tensor:
        """Return (B, n) bool: visible positions that take the candidate, unless they are masked again."""
        return torch.zeros_like(view.visible)

    def remasks(self, view: StepView) -> torch.Tensor:
        """Return (B, n) bool: visible positions to mask again, at most `view.remaining` of them."""
        return torch.zeros_like(view.visible)


@dataclass(frozen=True)
class NoRevision(Revision):
    """Keep every token that is set."""

    enabled: ClassVar[bool] = False


@dataclass(frozen=True)
class ThresholdRevision(Revision):
    """Replace a visible token by another candidate whose probability exceeds the threshold: token editing.

    Attributes:
        threshold: probability that the candidate must exceed, above 0 and at most 1.
    """

    threshold: float = 0.6

    def __post_init__(self) -> None:
        check_real("threshold", self.threshold, 0, 1, above=True)

    def changes(self, view: StepView) -> torch.Tensor:
        """Return (B, n) bool: x₀ differs and p(x₀) > threshold."""
        return (view.candidate != view.tokens) & (view.probability > self.threshold)


@dataclass(frozen=True)
class TokenToMaskRevision(Revision):
    """Mask a visible token again when its own probability, now that more is known, is below a threshold.

    Later steps decide what takes its place. Masking again while the number of masks falls on schedule follows ReMDM
    (arXiv 2503.00307). The choice of tokens and the bounds are Smalti extensions: the least probable come first, at
    most a share of the visible ones a step.

    Attributes:
        threshold: probability at which a token stays, above 0 and at most 1.
        share: largest share of an image's visible tokens that a step masks again; at least one token.
    """

    threshold: float = 0.1
    share: float = 0.1
    remasking: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_real("threshold", self.threshold, 0, 1, above=True)
        check_real("share", self.share, 0, 1, above=True)

    def remasks(self, view: StepView) -> torch.Tensor:
        """Return (B, n) bool: the least probable of those with p(current) < threshold."""
        doubtful = view.visible & (view.current_probability < self.threshold)
        most = (self.share * view.visible.sum(dim=1)).ceil().long()
        return first_among(doubtful, torch.minimum(most, view.remaining), -view.current_probability)


@dataclass(frozen=True)
class RunningConfidenceRevision(Revision):
    """Let all positions compete at every step for being visible (running-confidence remasking, arXiv 2508.13148).

    A visible token competes with its running confidence, the highest probability it has had. A masked position competes
    with its candidate's probability. The budget says how many are visible after the step; visible tokens outside that
    number are masked again, and as many more masked positions are revealed. The order chooses which. With the
    confidence order at temperature 0 they are those that won, as in the paper.

    Attributes:
        threshold: running confidence at which a token stays, whatever competes; 1 lets all compete, as in the paper.
    """

    threshold: float = 1.0
    remasking: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_real("threshold", self.threshold, 0, 1, above=True)

    def remasks(self, view: StepView) -> torch.Tensor:
        """Return (B, n) bool: the visible ones that lost, if their running confidence is below the threshold."""
        competing = view.masked | view.visible
        score = torch.where(view.visible, view.confidence, view.probability)
        # On ties what is visible stays.
        place = places(competing, score, view.visible)
        lost = place >= (competing.sum(dim=1) - view.remaining)[:, None]
        return view.visible & lost & (view.confidence < self.threshold)


REVISIONS: dict[str, type[Revision]] = {
    "none": NoRevision,
    "threshold": ThresholdRevision,
    "token_to_mask": TokenToMaskRevision,
    "running_confidence": RunningConfidenceRevision,
}
"""Every revision rule by the name that settings use."""
