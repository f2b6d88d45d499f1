"""How far an adapted head's predictions are from the frozen model's: a sum over rows and its gradients, in chunks.

With the frozen model's logits z⁰ and the adapted model's z, p⁰ = softmax(z⁰) and p = softmax(z):

    KL = Σ_j p⁰_j · (log p⁰_j − log p_j),   ∂KL/∂z_j = p_j − p⁰_j

Where both models agree the gradient is exactly 0, which a loss on sampled tokens reaches on average only. As in
grouped cross-entropy, logits exist for one chunk of rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from smalti.common.low_rank import LowRank
from smalti.errors import SmaltiError
from smalti.ops.backend import exact_dtype, product_dtype
from smalti.ops.low_rank import Gradients, check_low_rank

# Logits of one chunk; up to seven matrices of that size exist at a time.
_CHUNK_ELEMENTS = {"cpu": 2**20}
_CHUNK_ELEMENTS_ELSEWHERE = 2**24
_LEAST_ROWS = 64


def chunk_rows(codes: int, device: str) -> int:
    """Return how many rows of logits over `codes` codes are computed at a time on a kind of device."""
    return max(_LEAST_ROWS, _CHUNK_ELEMENTS.get(device, _CHUNK_ELEMENTS_ELSEWHERE) // codes)


class Divergence(NamedTuple):
    """The divergence of all rows, and of each.

    Attributes:
        total: scalar, weighted sum over the rows, in nats, with gradients.
        rows: (N,) float32, detached, each row's divergence without its weight; 0 where the weight is 0.
    """

    total: torch.Tensor
    rows: torch.Tensor


class _Divergence(torch.autograd.Function):
    """Computes the gradients in the forward pass, while a chunk's logits are at hand."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        reduced: torch.Tensor | None,
        up: torch.Tensor | None,
        column_scale: torch.Tensor | None,
        before: torch.Tensor,
        head_weight: torch.Tensor,
        row_weight: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        N, V = len(hidden), len(head_weight)
        exact, product = exact_dtype(hidden), product_dtype(hidden)
        head = head_weight.to(product)
        wants = ctx.needs_input_grad[:4]
        update = None
        if reduced is not None and up is not None:
            update = Gradients(reduced, up, column_scale, wants[1:], product, exact)
        hidden_grad = torch.empty_like(hidden) if wants[0] else None
        values = torch.empty(N, dtype=exact, device=hidden.device)
        size = chunk_rows(V, hidden.device.type)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, N, size):
                part = slice(start, start + size)
                logits = hidden[part].to(product) @ head.T
                if update is not None:
                    update.add_to(logits, part)
                ours = logits.log_softmax(dim=1, dtype=exact)
                theirs = (before[part].to(product) @ head.T).log_softmax(dim=1, dtype=exact)
                expected = theirs.exp()
                values[part] = (theirs.sub_(ours) * expected).sum(dim=1)
                gradient = (ours.exp_().sub_(expected) * row_weight[part, None]).to(product)
                if update is not None:
                    update.take(gradient, part)
                if hidden_grad is not None:
                    hidden_grad[part] = gradient @ head
        sums = (None,) * 3 if update is None else (update.reduced, update.up, update.column_scale)
        ctx.save_for_backward(hidden_grad, *sums)
        ctx.dtypes = [None if one is None else one.dtype for one in (hidden, reduced, up, column_scale)]
        ctx.mark_non_differentiable(values)
        return (values * row_weight).sum(), values

    @staticmethod
    def backward(ctx: Any, total: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scaled = [
            None if one is None else (one * total).to(dtype)
            for one, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return *scaled, None, None, None


def divergence_from(
    before: torch.Tensor,
    hidden: torch.Tensor,
    head_weight: torch.Tensor,
    row_weight: torch.Tensor | None = None,
    low_rank: LowRank | None = None,
) -> Divergence:
    """Compute KL divergences of adapted predictions from frozen ones, without the N × V logits.

    The module's docstring has the equations. Under autocast products are in its dtype and everything else is in
    float32. With float64 inputs everything is float64.

    Args:
        before: (N, D) float, hidden vectors of the frozen model, a constant.
        hidden: (N, D) float, hidden vectors of the adapted model.
        head_weight: (V, D) float, the frozen head of both, a constant.
        row_weight: (N,) float, or None for 1. Rows of weight 0 are dropped before anything is multiplied.
        low_rank: update of the adapted model's head, or None.

    Returns:
        The divergence, with gradients to `hidden` and `low_rank`.

    Raises:
        SmaltiError: an argument of the wrong shape.

    Example:
        >>> hidden, head = torch.randn(6, 4), torch.randn(16, 4)
        >>> float(divergence_from(hidden, hidden, head).total)
        0.0
    """
    if hidden.ndim != 2 or head_weight.ndim != 2 or hidden.shape[1] != head_weight.shape[1]:
        shapes = f"{tuple(hidden.shape)} and {tuple(head_weight.shape)}"
        raise SmaltiError(f"hidden must be (N, D) and head_weight (V, D), not {shapes}")
    if before.shape != hidden.shape:
        raise SmaltiError(f"before must be {tuple(hidden.shape)}, as hidden is, not {tuple(before.shape)}")
    if row_weight is not None and row_weight.shape != hidden.shape[:1]:
        raise SmaltiError(f"row_weight must be ({len(hidden)},), not {tuple(row_weight.shape)}")
    check_low_rank(low_rank, head_weight)
    exact = exact_dtype(hidden)
    weight = (
        hidden.new_ones(len(hidden), dtype=exact) if row_weight is None else row_weight.detach().to(exact)
    )
    kept = weight != 0
    inputs = hidden[kept]
    update = (None,) * 3 if low_rank is None else (low_rank.reduce(inputs), *low_rank[1:3])
    total, values = _Divergence.apply(
        inputs, *update, before.detach()[kept], head_weight.detach(), weight[kept]
    )
    return Divergence(total, values.new_zeros(len(hidden)).index_put_((kept,), values))
