"""Grouped cross-entropy over a large vocabulary: the loss and both gradients, a chunk of rows at a time.

The neighbours of a code look almost like it, yet cross-entropy counts them as wrong. Grouped cross-entropy
(arXiv 2606.29814) adds a term that any code of the true code's group satisfies. With logits z,
p = softmax(z), the true code y and its group G_k(y) in partition k:

    L = −log p_y + Σ_k w_k · (−log P_k),   P_k = Σ_{j ∈ G_k(y)} p_j
    ∂L/∂z_j = (1 + Σ_k w_k)·p_j − [j = y] − Σ_k w_k·[j ∈ G_k(y)]·p_j / P_k

Without weights the loss is plain cross-entropy. Logits exist for one chunk of rows and turn into their own gradient
in place: that pass is a backend's (gce_torch.py, gce_triton.py), the chunks and the three products are here.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch

from smalti.common.checks import quoted
from smalti.common.low_rank import LowRank
from smalti.errors import SmaltiError
from smalti.ops import gce_torch
from smalti.ops.backend import choose_backend, exact_dtype, product_dtype
from smalti.ops.low_rank import Gradients, check_low_rank

# Logits of one chunk. On a CPU 2²¹ float32 values, 8 MB, stay in its cache, but a product of too few rows is slow.
# Elsewhere a chunk is as large as 300 MB of memory allow: every chunk reads and writes the head's whole gradient.
_CHUNK_ELEMENTS = {"cpu": 2**21}
_CHUNK_BYTES_ELSEWHERE = 2**28
_LEAST_ROWS = 256
# A chunk reads the head twice, and reads and writes its gradient. A head beyond every cache comes from memory each
# time, which more rows pay for: of 131,072 codes, 268 MB of float32 logits instead of 134 MB.
_LARGE_HEAD_BYTES = 2**28
_TILE = 8192  # codes of a product of oneDNN
_LEAST_ROWS_OF_A_LARGE_HEAD = 512
# Values of a product that is added to the head's gradient block by block.
_BLOCK_ELEMENTS = {"cpu": 2**20}
_BLOCK_ELEMENTS_ELSEWHERE = 2**24

_graph_is_kept = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)


class GroupedCrossEntropy(NamedTuple):
    """The loss and, detached, the numbers of each row for a training log.

    Attributes:
        loss: scalar, with gradients to hidden and head.
        token_loss: (N,) float32, −log p_y in nats.
        group_loss: (N, K) float32, −log P_k in nats for each of K groupings.
        token_hit: (N,) bool, whether the likeliest code is the target.
        group_hit: (N, K) bool, whether it is in the target's group.

    Rows of weight 0 are not computed: their losses are 0 and their hits False.
    """

    loss: torch.Tensor
    token_loss: torch.Tensor
    group_loss: torch.Tensor
    token_hit: torch.Tensor
    group_hit: torch.Tensor


class _Pass(NamedTuple):
    """The backend's module, its groupings, and the other arguments of its pass."""

    backend: ModuleType
    groupings: NamedTuple
    weights: list[float]
    focus: float


class _GroupedCrossEntropy(torch.autograd.Function):
    """Computes both gradients in the forward pass, while a chunk's logits are at hand."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        head_weight: torch.Tensor,
        reduced: torch.Tensor | None,
        up: torch.Tensor | None,
        column_scale: torch.Tensor | None,
        targets: torch.Tensor,
        row_weight: torch.Tensor,
        how: _Pass,
        accumulate_float32: bool,
    ) -> tuple[torch.Tensor, ...]:
        N, V, device = len(hidden), len(head_weight), hidden.device
        exact, product = exact_dtype(hidden), product_dtype(hidden)
        # The head is cast once here, not once a chunk.
        head = head_weight.to(product)
        details = token_loss, group_loss, token_hit, group_hit = _empty_details(
            N, len(how.weights), device, exact
        )
        total = torch.zeros((), dtype=exact, device=device)
        wants = ctx.needs_input_grad[:5]
        update = None
        if reduced is not None and up is not None:
            update = Gradients(reduced, up, column_scale, wants[2:], product, exact)
        sum_dtype = exact if accumulate_float32 else head_weight.dtype
        hidden_grad = torch.empty_like(hidden) if wants[0] else None
        head_grad = torch.zeros_like(head_weight, dtype=sum_dtype) if wants[1] else None
        # Every chunk uses the same memory. PyTorch's pass computes in it, Triton's in registers.
        pass_dtype = exact if how.backend is gce_torch else product
        size = min(_rows_of_a_chunk(head, pass_dtype), N)
        products = torch.empty(size, V, dtype=product, device=device)
        passed = products if pass_dtype == product else torch.empty_like(products, dtype=pass_dtype)
        with torch.autocast(device.type, enabled=False):
            for start in range(0, N, size or 1):
                part = slice(start, start + size)
                rows, target = hidden[part].to(product), targets[part]
                gradient, logits = products[: len(target)], passed[: len(target)]
                _multiply(rows, head, gradient)
                if update is not None:
                    update.add_to(gradient, part)
                if passed is not products:
                    logits.copy_(gradient)
                token_loss[part], group_loss[part], token_hit[part], group_hit[part], scale = (
                    how.backend.pass_in_place(
                        logits, target, row_weight[part], how.groupings, how.focus, any(wants)
                    )
                )
                loss = token_loss[part].clone()
                for column, weight in enumerate(how.weights):
                    loss += weight * group_loss[part, column]
                total += (scale * loss).sum()
                if not any(wants):
                    continue
                if passed is not products:
                    gradient.copy_(logits)
                if update is not None:
                    update.take(gradient, part)
                if hidden_grad is not None:
                    hidden_grad[part] = gradient @ head
                if head_grad is not None:
                    _add_product(head_grad, gradient, rows)
        sums = (None,) * 3 if update is None else (update.reduced, update.up, update.column_scale)
        ctx.save_for_backward(hidden_grad, head_grad, *sums)
        ctx.dtypes = [None if one is None else one.dtype for one in (head_weight, reduced, up, column_scale)]
        ctx.mark_non_differentiable(*details)
        return total, *details

    @staticmethod
    def backward(ctx: Any, total: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # A graph that is not kept needs its gradients no more: scaling them in place saves a copy of the head.
        kept = _graph_is_kept()
        hidden_grad, *others = ctx.saved_tensors
        if hidden_grad is not None:
            factor = total.to(hidden_grad.dtype)
            hidden_grad = hidden_grad * factor if kept else hidden_grad.mul_(factor)
        scaled = [
            None if one is None else (one * total if kept else one.mul_(total)).to(dtype)
            for one, dtype in zip(others, ctx.dtypes, strict=True)
        ]
        return hidden_grad, *scaled, None, None, None, None


def _empty_details(N: int, K: int, device: torch.device, exact: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Return room for token_loss, group_loss, token_hit and group_hit."""
    return (
        torch.empty(N, dtype=exact, device=device),
        torch.empty(N, K, dtype=exact, device=device),
        torch.empty(N, dtype=torch.bool, device=device),
        torch.empty(N, K, dtype=torch.bool, device=device),
    )


def _rows_of_a_chunk(head: torch.Tensor, dtype: torch.dtype) -> int:
    elements = _CHUNK_ELEMENTS.get(head.device.type, _CHUNK_BYTES_ELSEWHERE // dtype.itemsize)
    large = head.device.type == "cpu" and head.dtype == torch.float32 and head.nbytes >= _LARGE_HEAD_BYTES
    return max(_LEAST_ROWS_OF_A_LARGE_HEAD if large else _LEAST_ROWS, elements // len(head))


def _multiply(rows: torch.Tensor, head: torch.Tensor, out: torch.Tensor) -> None:
    """Write rows · headᵀ, of (n, D) and (V, D), to out (n, V).

    For a few hundred rows oneDNN's product in float32 takes two thirds of the time of MKL's, which torch.mm calls.
    """
    if out.device.type != "cpu" or out.dtype != torch.float32 or not _has_onednn():
        torch.mm(rows, head.T, out=out)
        return
    for start in range(0, len(head), _TILE):
        part = slice(start, start + _TILE)
        out[:, part] = torch.ops.mkldnn._linear_pointwise(rows, head[part], None, "none", [], "")


@functools.cache
def _has_onednn() -> bool:
    """Return whether PyTorch has oneDNN's product x·wᵀ, for which it has no other name."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Add leftᵀ · right, of (n, V) and (n, D), to total (V, D), without a temporary as large as total."""
    if total.is_cuda and total.dtype == left.dtype:
        total.addmm_(left.T, right)
        return
    if total.is_cuda and _adds_to_float32(total.device, left.dtype):
        torch.addmm(total, left.T, right, out_dtype=total.dtype, out=total)
        return
    elements = _BLOCK_ELEMENTS.get(total.device.type, _BLOCK_ELEMENTS_ELSEWHERE)
    size = max(1, elements // total.shape[1])
    for start in range(0, len(total), size):
        part = slice(start, start + size)
        total[part] += left[:, part].T @ right


@functools.cache
def _adds_to_float32(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether PyTorch adds a product of this dtype to a float32 matrix in place, as newer versions can."""
    total = torch.zeros(16, 16, device=device)
    ones = torch.ones(16, 16, dtype=dtype, device=device)
    try:
        for _ in range(2):
            torch.addmm(total, ones.T, ones, out_dtype=torch.float32, out=total)
    except (TypeError, RuntimeError):
        return False
    return bool((total == 32).all())


def grouped_cross_entropy(
    hidden: torch.Tensor,
    head_weight: torch.Tensor,
    targets: torch.Tensor,
    groups: torch.Tensor | Sequence[torch.Tensor] = (),
    group_weights: float | Sequence[float] = (),
    row_weight: torch.Tensor | None = None,
    focus: float = 0.0,
    reduction: str = "mean",
    backend: str = "auto",
    accumulate_float32: bool = False,
    low_rank: LowRank | None = None,
) -> GroupedCrossEntropy:
    """Compute grouped cross-entropy of rows against codes, without the N × V logits.

    The module's docstring has the equations. Under autocast products are in its dtype and everything else is in
    float32. With float64 inputs everything is float64.

    Args:
        hidden: (N, D) float, hidden vectors.
        head_weight: (V, D) float.
        targets: (N,) int64, from 0 to V − 1.
        groups: one grouping or several. A grouping is a partition, (V,) int64, the group of each code from 0; or
            neighbours, (V, n) int64, each code's n nearest codes with itself among them. Without groupings the loss
            is plain cross-entropy.
        group_weights: weights w_k, 0 or more, one a grouping.
        row_weight: (N,) float, or None for 1. Rows of weight 0 are dropped before anything is multiplied.
        focus: exponent γ of a factor (1 − p_y)^γ on every row, which is not differentiated.
        reduction: "mean" divides by the sum of the row weights, "sum" does not.
        backend: "torch", "triton", or "auto". The last means Triton for tensors on a GPU where it is installed.
            PyTorch always computes float64.
        accumulate_float32: whether the head's gradient is summed over chunks in float32, V × D × 4 bytes, or in
            the head's dtype. With 16 chunks in bf16 its relative error is 0.7 %, in float32 0.2 %; the error grows
            with the number of chunks.
        low_rank: update of the head, such as an adapter's, or None.

    Returns:
        The loss, with gradients to `hidden`, `head_weight` and `low_rank`, and the losses and hits of each row.

    Raises:
        SmaltiError: an argument of the wrong shape or out of range, or a backend that cannot run here.

    Example:
        >>> hidden, head = torch.randn(6, 4), torch.randn(16, 4)
        >>> targets, partition = torch.arange(6), torch.arange(16) // 4
        >>> grouped_cross_entropy(hidden, head, targets, partition, 0.2).group_loss.shape
        torch.Size([6, 1])
    """
    groups = [groups] if isinstance(groups, torch.Tensor) else list(groups)
    weights = [float(group_weights)] if isinstance(group_weights, int | float) else list(group_weights)
    _check(hidden, head_weight, targets, groups, weights, row_weight, focus, reduction)
    check_low_rank(low_rank, head_weight)
    module = choose_backend("gce", backend, hidden)
    N, exact = len(hidden), exact_dtype(hidden)
    if row_weight is None:
        row_weight = hidden.new_ones(N, dtype=exact)
    row_weight = row_weight.detach().to(exact)
    scale = row_weight / row_weight.sum() if reduction == "mean" and N else row_weight
    kept = row_weight != 0
    whole = bool(kept.all())
    inputs = (hidden, targets, scale) if whole else (hidden[kept], targets[kept], scale[kept])
    how = _Pass(module, module.prepare(groups, weights, hidden.device), weights, float(focus))
    update = (None,) * 3 if low_rank is None else (low_rank.reduce(inputs[0]), *low_rank[1:3])
    total, *details = _GroupedCrossEntropy.apply(
        inputs[0], head_weight, *update, *inputs[1:], how, accumulate_float32
    )
    if not whole:
        details = [detail.new_zeros(N, *detail.shape[1:]).index_put_((kept,), detail) for detail in details]
    return GroupedCrossEntropy(total, *details)


def _check(
    hidden: torch.Tensor,
    head_weight: torch.Tensor,
    targets: torch.Tensor,
    groups: list[torch.Tensor],
    weights: list[float],
    row_weight: torch.Tensor | None,
    focus: float,
    reduction: str,
) -> None:
    if hidden.ndim != 2 or head_weight.ndim != 2 or hidden.shape[1] != head_weight.shape[1]:
        shapes = f"{tuple(hidden.shape)} and {tuple(head_weight.shape)}"
        raise SmaltiError(f"hidden must be (N, D) and head_weight (V, D), not {shapes}")
    N, V = len(hidden), len(head_weight)
    for name, value in (("targets", targets), ("row_weight", row_weight)):
        if value is not None and value.shape != (N,):
            raise SmaltiError(f"{name} must be ({N},), not {tuple(value.shape)}")
    if N and not 0 <= int(targets.min()) <= int(targets.max()) < V:
        raise SmaltiError(
            f"targets must be from 0 to {V - 1}, not {int(targets.min())} to {int(targets.max())}"
        )
    if len(weights) != len(groups):
        raise SmaltiError(f"group_weights must be {len(groups)}, one a grouping, not {len(weights)}")
    for weight in weights:
        if not 0 <= weight < float("inf"):
            raise SmaltiError(f"group_weights must be 0 or more and finite, not {weight}")
    for entry in groups:
        if entry.ndim not in (1, 2) or len(entry) != V:
            raise SmaltiError(f"groups must be ({V},) or ({V}, n), not {tuple(entry.shape)}")
        if int(entry.min()) < 0 or (entry.ndim == 2 and int(entry.max()) >= V):
            raise SmaltiError(f"groups must hold ids from 0, not {int(entry.min())} to {int(entry.max())}")
    if (
        row_weight is not None
        and N
        and not 0 <= float(row_weight.min()) <= float(row_weight.max()) < float("inf")
    ):
        raise SmaltiError("row_weight must be 0 or more and finite")
    if not 0 <= focus < float("inf"):
        raise SmaltiError(f"focus must be 0 or more and finite, not {focus}")
    if reduction not in ("mean", "sum"):
        raise SmaltiError(f'reduction must be "mean" or "sum", not {quoted(reduction)}')
