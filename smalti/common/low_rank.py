"""A low-rank update of a matrix W, such as an adapter's, without a second matrix of that size.

Products with the updated matrix are

    z = c ∘ (h Wᵀ) + (h Aᵀ) Bᵀ

A has r rows and B has r columns, so the update costs a fraction r / D of the product. The column scale c is 1 unless
an adapter rescales the rows of W.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional as F


class LowRank(NamedTuple):
    """The tensors of an update of W, (V, D); all may have gradients.

    Attributes:
        down: A, (r, D) float.
        up: B, (V, r) float.
        column_scale: c, (V,) float, or None for 1.
        dropout: probability that a value of h is dropped on its way to A; for training alone.

    Example:
        >>> hidden, weight = torch.ones(2, 4), torch.zeros(3, 4)
        >>> LowRank(torch.ones(1, 4), torch.ones(3, 1)).add_to(hidden @ weight.T, hidden)
        tensor([[4., 4., 4.],
                [4., 4., 4.]])
    """

    down: torch.Tensor
    up: torch.Tensor
    column_scale: torch.Tensor | None = None
    dropout: float = 0.0

    def reduce(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return h Aᵀ: (N, D) → (N, r), in the dtype of h or autocast's."""
        return F.linear(F.dropout(hidden, self.dropout), self.down.to(hidden.dtype))

    def add_to(self, product: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Turn h Wᵀ, (N, V), into z in place, without gradients, and return it; `hidden` is h, (N, D)."""
        if self.column_scale is not None:
            product.mul_(self.column_scale.to(product.dtype))
        return product.addmm_(self.reduce(hidden).to(product.dtype), self.up.T.to(product.dtype))
