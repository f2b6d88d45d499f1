"""What the model last said at each position of a grid."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from smalti.ops.sample import TokenChoice
from smalti.sampling.view import StepView


@dataclass(frozen=True)
class Answers:
    """The model's last answer at each position; tensors are (B, n), as in `StepView`.

    Attributes:
        known: bool, positions that were asked about since their hidden state was computed.
        candidate: int64, the candidate.
        probability: float32, its probability.
        current_probability: float32, that of the token that is there.
        entropy: float32, the entropy.
        scale: guidance scale of the answers.
    """

    known: torch.Tensor
    candidate: torch.Tensor
    probability: torch.Tensor
    current_probability: torch.Tensor
    entropy: torch.Tensor
    scale: float

    @classmethod
    def of(
        cls,
        view: StepView,
        last: Answers | None,
        rows: torch.Tensor,
        choice: TokenChoice,
        fresh: torch.Tensor,
        scale: float,
    ) -> Answers:
        """Return new answers at rows of the flattened grid, and the last ones where nothing was computed.

        Args:
            fresh: (B, n) bool, positions whose hidden states are new.
        """
        if last is None or last.scale != scale:
            known = torch.zeros_like(fresh)
            last = cls(known, view.tokens, view.probability, view.current_probability, view.entropy, scale)
        known = (last.known & ~fresh).flatten()
        now = choice.current_probability
        return cls(
            known.index_fill(0, rows, True).view(fresh.shape),
            _at(rows, choice.candidate, last.candidate),
            _at(rows, choice.probability, last.probability),
            last.current_probability if now is None else _at(rows, now, last.current_probability),
            _at(rows, choice.entropy, last.entropy),
            scale,
        )

    def put(self, view: StepView, where: torch.Tensor) -> StepView:
        """Return the view with the answers at some positions, (B, n) bool."""
        now = torch.where(where, self.current_probability, view.current_probability)
        return replace(
            view,
            candidate=torch.where(where, self.candidate, view.tokens),
            probability=torch.where(where, self.probability, view.probability),
            current_probability=now,
            entropy=torch.where(where, self.entropy, view.entropy),
            confidence=torch.maximum(view.confidence, now),
        )


def _at(rows: torch.Tensor, values: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Return `values` at rows of the flattened (B, n) grid, `others` elsewhere."""
    return others.flatten().scatter(0, rows, values).view(others.shape)
