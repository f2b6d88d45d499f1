"""The part of a low-rank update of the head in the chunks of grouped cross-entropy: products and gradients.

`smalti.common.low_rank` has the equation z = c ∘ (h Wᵀ) + (h Aᵀ) Bᵀ. With G = ∂L/∂z of a chunk:

    ∂L/∂(h Aᵀ) = G B,   ∂L/∂B = Gᵀ (h Aᵀ),   ∂L/∂c = Σ_rows G ∘ (h Wᵀ),   ∂L/∂(h Wᵀ) = c ∘ G

Autograd goes on from h Aᵀ, which is small, to h and A.
"""

from __future__ import annotations

import torch

from smalti.common.low_rank import LowRank
from smalti.errors import SmaltiError


class Gradients:
    """An update's part in the chunks of a loss, with the sums of its gradients.

    Args:
        reduced: h Aᵀ, (N, r).
        up: B, (V, r).
        column_scale: c, (V,), or None for 1.
        wanted: which of the three need a gradient.
        product: dtype of the products.
        exact: dtype of the sums.
    """

    def __init__(
        self,
        reduced: torch.Tensor,
        up: torch.Tensor,
        column_scale: torch.Tensor | None,
        wanted: tuple[bool, ...],
        product: torch.dtype,
        exact: torch.dtype,
    ) -> None:
        self._reduced, self._up = reduced.detach().to(product), up.detach().to(product)
        self._column_scale = None if column_scale is None else column_scale.detach().to(product)
        self._unscaled: torch.Tensor | None = None
        self.reduced = torch.empty_like(reduced) if wanted[0] else None
        self.up = torch.zeros_like(up, dtype=exact) if wanted[1] else None
        self.column_scale = (
            None if column_scale is None or not wanted[2] else torch.zeros_like(column_scale, dtype=exact)
        )

    def add_to(self, logits: torch.Tensor, part: slice) -> None:
        """Turn h Wᵀ of a chunk, (n, V), into z in place."""
        if self._column_scale is not None:
            if self.column_scale is not None:
                self._unscaled = logits.clone()
            logits.mul_(self._column_scale)
        logits.addmm_(self._reduced[part], self._up.T)

    def take(self, gradient: torch.Tensor, part: slice) -> None:
        """Add what ∂L/∂z of a chunk, (n, V), says of the update, then turn it into ∂L/∂(h Wᵀ) in place."""
        if self.reduced is not None:
            self.reduced[part] = gradient @ self._up
        if self.up is not None:
            self.up += gradient.T @ self._reduced[part]
        if self._unscaled is not None and self.column_scale is not None:
            self.column_scale += (gradient * self._unscaled).sum(dim=0, dtype=self.column_scale.dtype)
        if self._column_scale is not None:
            gradient.mul_(self._column_scale)


def check_low_rank(low_rank: LowRank | None, head_weight: torch.Tensor) -> None:
    """Raise SmaltiError unless an update fits the head, (V, D)."""
    if low_rank is None:
        return
    (V, D), down, up, scale = head_weight.shape, low_rank.down, low_rank.up, low_rank.column_scale
    if down.ndim != 2 or down.shape[1] != D or up.shape != (V, len(down)):
        raise SmaltiError(
            f"low_rank must hold (r, {D}) and ({V}, r), not {tuple(down.shape)} and {tuple(up.shape)}"
        )
    if scale is not None and scale.shape != (V,):
        raise SmaltiError(f"low_rank must have a column_scale of ({V},), not {tuple(scale.shape)}")
