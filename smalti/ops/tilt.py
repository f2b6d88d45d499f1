"""Something added to the logits in the form of a product, without a second tensor of their size."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from smalti.errors import SmaltiError


class Tilt(NamedTuple):
    """Vectors of rows and codes whose products are added to the logits: z + u Eᵀ.

    Attributes:
        vectors: u, (N, d) float.
        codes: E, (V, d) float.
        least: share of a row's largest probability below which a code is left out before the sum, from 0 to 1.

    Example:
        >>> Tilt(torch.ones(2, 1), torch.arange(3.0)[:, None]).add_to(torch.zeros(2, 3), slice(0, 2))
        tensor([[0., 1., 2.],
                [0., 1., 2.]])
    """

    vectors: torch.Tensor
    codes: torch.Tensor
    least: float = 0.0

    def at(self, rows: torch.Tensor) -> Tilt:
        """Return the tilt of some rows, (M,) int64."""
        return self._replace(vectors=self.vectors[rows.to(self.vectors.device)])

    def add_to(self, logits: torch.Tensor, part: slice) -> torch.Tensor:
        """Add the products of some rows to logits (n, V) in place, and return these; rows beyond the part repeat it."""
        u = self.vectors[part]
        if len(u) < len(logits):
            u = torch.cat([u, u[-1:].expand(len(logits) - len(u), -1)])
        if self.least:
            logits.masked_fill_(logits < logits.amax(dim=1, keepdim=True) + math.log(self.least), -math.inf)
        return logits.addmm_(u.to(logits), self.codes.T.to(logits))


def check_tilt(tilt: Tilt | None, rows: int, codes: int) -> None:
    """Raise SmaltiError unless a tilt fits so many rows and codes."""
    if tilt is None:
        return
    vectors, table = tilt.vectors, tilt.codes
    if vectors.ndim != 2 or table.shape != (codes, vectors.shape[1]) or len(vectors) != rows:
        raise SmaltiError(
            f"tilt must hold ({rows}, d) and ({codes}, d), not {tuple(vectors.shape)} and {tuple(table.shape)}"
        )
