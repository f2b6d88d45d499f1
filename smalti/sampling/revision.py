"""Revision rules: which visible tokens a step replaces, and which it masks again (docs/format.md, section 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from smalti.common.checks import check_choice, check_real, check_whole
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
        score = torch.where(view.visible, view.confidence, view.probability)
        return _losers(view, score) & (view.confidence < self.threshold)


@dataclass(frozen=True)
class PathPlanningRevision(Revision):
    """Let all positions compete at every step with what the model says of them now (P2, self-planning).

    A visible token competes with eta · log p of itself, a masked position with log p(x₀). The budget says how many are
    visible after the step; visible tokens outside that number are masked again (arXiv 2502.03540). The order chooses
    what is revealed; with the confidence order at temperature 0 it is what won, as in the paper. The factor on log p
    is the paper's as far as it is known here.

    The probability of a visible token must mean something: train with flips (`flip_ratio` and `edit_loss_weight` above
    0). `experiments/visible_tokens.py` measures whether a model sees wrong tokens.

    Attributes:
        eta: weight of visible tokens' log p; 0 masks none again, more than 1 masks more.
    """

    eta: float = 1.0
    remasking: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_real("eta", self.eta, 0)

    def remasks(self, view: StepView) -> torch.Tensor:
        """Return (B, n) bool: the visible ones that lost."""
        least = torch.finfo(torch.float32).tiny
        planned = torch.where(view.visible, view.current_probability, view.probability).clamp_min(least).log()
        return _losers(view, torch.where(view.visible, self.eta * planned, planned))


@dataclass(frozen=True)
class CappedTokenToMaskRevision(Revision):
    """Mask visible tokens again that are less probable than most candidates, with caps on how many and how often.

    Token to mask with caps follows arXiv 2604.18738, whose thresholds are probabilities. Here the threshold is a
    quantile of p(x₀) over the image's masked positions, a Smalti extension: a token gives way where most of what the
    step could reveal is surer. The least probable come first.

    The probability of a visible token must mean something: train with flips (`flip_ratio` and `edit_loss_weight` above
    0). `experiments/visible_tokens.py` measures whether a model sees wrong tokens.

    Attributes:
        quantile: share of the masked positions' candidates that may be less probable than a token that gives way.
        share: largest share of an image's visible tokens that a step masks again; at least one token.
        times: how often a position is masked again at most.
        rest: number of last steps that mask nothing again.
    """

    quantile: float = 0.25
    share: float = 0.1
    times: int = 1
    rest: int = 1
    remasking: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_real("quantile", self.quantile, 0, 1)
        check_real("share", self.share, 0, 1, above=True)
        check_whole("times", self.times)
        check_whole("rest", self.rest, 0)

    def remasks(self, view: StepView) -> torch.Tensor:
        """Return (B, n) bool: the least probable below the threshold that the caps allow."""
        if view.index >= view.steps - self.rest:
            return torch.zeros_like(view.visible)
        below = view.visible & (view.current_probability < self._threshold(view)[:, None])
        if view.remaskings is not None:
            below &= view.remaskings < self.times
        most = (self.share * view.visible.sum(dim=1)).ceil().long()
        return first_among(below, torch.minimum(most, view.remaining), -view.current_probability)

    def _threshold(self, view: StepView) -> torch.Tensor:
        """Return the quantile of p(x₀) over the masked positions, (B,); 0 where none is masked."""
        candidates = view.probability.masked_fill(~view.masked, 2).sort(dim=1).values
        masks = view.masked.sum(dim=1)
        place = (self.quantile * (masks - 1).clamp_min(0)).floor().long()
        return candidates.gather(1, place[:, None])[:, 0].masked_fill(masks == 0, 0)


@dataclass(frozen=True)
class ScheduledRemaskingRevision(Revision):
    """Mask visible tokens again by chance, as often as the schedule allows (ReMDM, arXiv 2503.00307).

    The paper's largest chance is what stays masked after the step over what is visible before it, at most 1. It reads
    no probability of visible tokens, so it needs no training and no product for them. Tokens that were there at the
    start stay. The bounds on the steps are ours; the paper's loop holds the noise level instead.

    Attributes:
        eta: chance, or its share of the largest chance.
        variant: "cap" takes eta where the largest chance allows it, "rescale" eta times the largest chance.
            "confidence" takes the same on average, and more for tokens that were improbable when revealed.
        start: fraction of the steps before which nothing is masked again.
        end: fraction of the steps after which nothing is masked again.
    """

    eta: float = 0.1
    variant: str = "confidence"
    start: float = 0.0
    end: float = 1.0
    enabled: ClassVar[bool] = False
    remasking: ClassVar[bool] = True
    noisy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_real("eta", self.eta, 0, 1)
        check_choice("variant", self.variant, ("cap", "rescale", "confidence"))
        check_real("start", self.start, 0, 1)
        check_real("end", self.end, self.start, 1)

    def remasks(self, view: StepView) -> torch.Tensor:
        """Return (B, n) bool: what chance chooses, at most as many as stay masked."""
        assert view.noise is not None
        if not self.start * view.steps <= view.index < self.end * view.steps:
            return torch.zeros_like(view.visible)
        revealed = view.visible & (view.confidence > 0)
        visible = revealed.sum(dim=1, keepdim=True).clamp_min(1)
        largest = (view.remaining[:, None] / visible).clamp_max(1)
        chance = self.eta * largest if self.variant != "cap" else largest.clamp_max(self.eta)
        if self.variant == "confidence":
            doubt = (-view.confidence).masked_fill(~revealed, float("-inf"))
            weights = doubt.softmax(dim=1).nan_to_num(0)  # an image without visible tokens
            chance = chance * visible * weights
        margin = chance - view.noise
        return first_among(revealed & (margin > 0), view.remaining, margin)


REVISIONS: dict[str, type[Revision]] = {
    "none": NoRevision,
    "threshold": ThresholdRevision,
    "token_to_mask": TokenToMaskRevision,
    "running_confidence": RunningConfidenceRevision,
    "path_planning": PathPlanningRevision,
    "capped_token_to_mask": CappedTokenToMaskRevision,
    "remdm": ScheduledRemaskingRevision,
}
"""Every revision rule by the name that settings use."""


def _losers(view: StepView, score: torch.Tensor) -> torch.Tensor:
    """Return the visible positions that a score, (B, n), leaves outside the number visible after the step."""
    competing = view.masked | view.visible
    # On ties what is visible stays.
    place = places(competing, score, view.visible)
    return view.visible & (place >= (competing.sum(dim=1) - view.remaining)[:, None])
