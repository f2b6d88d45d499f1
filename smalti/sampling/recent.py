"""What the predictions of the last passes have in common, position by position.

The passes' hidden vectors are kept instead of their distributions: the head is linear, so a guided prediction is one
vector of D numbers. What a rule reads is computed when it reads it, at the masked positions alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch

from smalti.common.devices import autocast_off
from smalti.common.low_rank import LowRank
from smalti.model.head import Head
from smalti.ops.compare import Mixture, pass_divergence, pass_mixture


class Recent:
    """The predictions of the last passes, this one first. Tensors are (B, n) float32, 0 outside `asked`.

    Predictions are p at temperature 1, guided, before top-k and top-p. A position that was not computed afresh, with a
    reuse rule that keeps cells, has the same prediction as before.

    Args:
        head: the denoiser's head.
        hidden: guided hidden vectors (B, n, D) of at least one pass.
        asked: (B, n) bool, the positions whose numbers are wanted.
    """

    def __init__(self, head: Head, hidden: tuple[torch.Tensor, ...], asked: torch.Tensor) -> None:
        self._head, self.hidden, self._asked = head, hidden, asked

    def __len__(self) -> int:
        """Return the number of passes."""
        return len(self.hidden)

    @cached_property
    def divergence(self) -> torch.Tensor:
        """KL(p ‖ p of the pass before) in nats; 0 everywhere at the first pass."""
        if len(self) < 2:
            return torch.zeros(self._asked.shape, device=self._asked.device)
        return self._grid(self._run(pass_divergence, self.hidden[:2]))

    @cached_property
    def entropy(self) -> torch.Tensor:
        """H of the passes' mean prediction, in nats."""
        return self._grid(self._mixture.entropy)

    @cached_property
    def information(self) -> torch.Tensor:
        """Mutual information of token and pass in nats: how much the passes disagree; 0 at the first pass."""
        return self._grid(self._mixture.information)

    @cached_property
    def entropies(self) -> tuple[torch.Tensor, ...]:
        """H of each pass's prediction in nats, this pass first."""
        return tuple(self._grid(values) for values in self._mixture.single)

    @cached_property
    def _mixture(self) -> Mixture:
        return self._run(pass_mixture, self.hidden)

    def _run(self, operator: Callable[..., Any], hidden: tuple[torch.Tensor, ...]) -> Any:
        """Return what an operator makes of the passes' vectors at the positions that are asked."""
        rows = self._asked.flatten().nonzero()[:, 0]
        vectors = torch.cat([one.flatten(0, 1)[rows] for one in hidden])

        def stacked(vectors: torch.Tensor, head: torch.Tensor, low_rank: LowRank | None = None) -> Any:
            return operator(vectors.unflatten(0, (len(hidden), -1)), head, low_rank)

        with torch.inference_mode(), autocast_off(vectors.device):
            return self._head.run(stacked, vectors)

    def _grid(self, values: torch.Tensor) -> torch.Tensor:
        return torch.zeros(self._asked.shape, device=values.device).masked_scatter(self._asked, values)
