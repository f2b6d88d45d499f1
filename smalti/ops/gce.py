"""Grouped cross-entropy over a large vocabulary: the loss and both gradients, a chunk of rows at a time.

The neighbours of a code look almost like it, yet cross-entropy counts them as wrong. Grouped cross-entropy
(arXiv 2606.29814) adds a term that is content with any code of the true code's group. With logits z,
p = softmax(z), the true code y and its group G_k(y) in partition k:

    L = −log p_y + Σ_k w_k · (−log P_k),   P_k = Σ_{j ∈ G_k(y)} p_j
    ∂L/∂z_j = (1 + Σ_k w_k)·p_j − [j = y] − Σ_k w_k·[j ∈ G_k(y)]·p_j / P_k

No weights at all is plain cross-entropy. Logits exist for one chunk of rows and turn into their own gradient
in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from smalti.errors import SmaltiError

# Logits of one chunk. On a CPU 2²¹ float32 values, 8 MB, stay in its cache, but a product of too few rows is slow.
_CHUNK_ELEMENTS = {"cpu": 2**21}
_CHUNK_ELEMENTS_ELSEWHERE = 2**26
_LEAST_ROWS = 256


class GroupedCrossEntropy(NamedTuple):
    """The loss and, detached, what a training log wants of each row.

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


class _Groups:
    """Who is in a target's group, as lists of (row, code) that are as long as the groups are large."""

    def __init__(self, groups: torch.Tensor) -> None:
        self.neighbours = groups if groups.ndim == 2 else None
        if groups.ndim == 1:
            self.group = groups
            self.codes = groups.argsort(stable=True)
            self.sizes = torch.bincount(groups)
            self.starts = self.sizes.cumsum(0) - self.sizes

    def members(self, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(n,) targets → rows and codes, (M,) each: the members of every row's group, row by row."""
        if self.neighbours is not None:
            codes = self.neighbours[targets]
            rows = torch.arange(len(targets), device=targets.device)[:, None].expand_as(codes)
            return rows.flatten(), codes.flatten()
        group = self.group[targets]
        sizes, starts = self.sizes[group], self.starts[group]
        rows = torch.repeat_interleave(torch.arange(len(targets), device=targets.device), sizes)
        first = sizes.cumsum(0) - sizes
        place = torch.arange(len(rows), device=targets.device) - first[rows] + starts[rows]
        return rows, self.codes[place]


class _GroupedCrossEntropy(torch.autograd.Function):
    """Computes both gradients in the forward pass, while a chunk's logits are at hand."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        hidden: torch.Tensor,
        head_weight: torch.Tensor,
        targets: torch.Tensor,
        row_weight: torch.Tensor,
        groups: list[_Groups],
        weights: list[float],
        focus: float,
    ) -> tuple[torch.Tensor, ...]:
        N, device = len(hidden), hidden.device
        exact = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        # Under autocast products are in its dtype; the head is cast once here, not once a chunk.
        product = hidden.dtype
        if torch.is_autocast_enabled(device.type) and product == torch.float32:
            product = torch.get_autocast_dtype(device.type)
        head = head_weight.to(product)
        token_loss = torch.empty(N, dtype=exact, device=device)
        token_hit = torch.empty(N, dtype=torch.bool, device=device)
        group_loss = torch.empty(N, len(groups), dtype=exact, device=device)
        group_hit = torch.empty(N, len(groups), dtype=torch.bool, device=device)
        total = torch.zeros((), dtype=exact, device=device)
        wants = ctx.needs_input_grad
        hidden_grad = torch.empty_like(hidden) if wants[0] else None
        head_grad = torch.zeros_like(head_weight, dtype=exact) if wants[1] else None
        elements = _CHUNK_ELEMENTS.get(device.type, _CHUNK_ELEMENTS_ELSEWHERE)
        size = max(_LEAST_ROWS, elements // len(head))
        with torch.autocast(device.type, enabled=False):
            for start in range(0, N, size):
                part = slice(start, start + size)
                rows, target = hidden[part].to(product), targets[part]
                logits = (rows @ head.T).to(exact)
                largest, best = logits.max(dim=1)
                true_logit = logits.gather(1, target[:, None])[:, 0]
                members, group_logits = [], []
                for column, group in enumerate(groups):
                    row, code = group.members(target)
                    members.append((row, code))
                    group_logits.append(logits[row, code])
                    hit = torch.zeros(len(target), dtype=torch.int64, device=device)
                    group_hit[part, column] = hit.index_add_(0, row, (code == best[row]).long()) > 0
                # From here on the logits' memory holds exp(z − max).
                logits.sub_(largest[:, None]).exp_()
                log_sum = largest + logits.sum(dim=1).log()
                token_loss[part] = log_sum - true_logit
                token_hit[part] = best == target
                in_group = []
                for column, (row, _) in enumerate(members):
                    share, log_share = _softmax_by_row(group_logits[column], row, len(target))
                    in_group.append(share)
                    group_loss[part, column] = log_sum - log_share
                loss = token_loss[part].clone()
                for column, weight in enumerate(weights):
                    loss += weight * group_loss[part, column]
                scale = row_weight[part]
                if focus:
                    scale = scale * (-torch.expm1(-token_loss[part])).pow(focus)
                total += (scale * loss).sum()
                if not any(wants[:2]):
                    continue
                logits.mul_(((1 + sum(weights)) * scale * (largest - log_sum).exp())[:, None])
                flat = logits.view(-1)
                at = torch.arange(len(target), device=device) * len(head)
                flat.index_add_(0, at + target, -scale)
                for weight, share, (row, code) in zip(weights, in_group, members, strict=True):
                    flat.index_add_(0, at[row] + code, -weight * scale[row] * share)
                gradient = logits.to(product)
                if hidden_grad is not None:
                    hidden_grad[part] = gradient @ head
                if head_grad is not None:
                    head_grad += gradient.T @ rows
        ctx.save_for_backward(hidden_grad, head_grad)
        ctx.head_dtype = head_weight.dtype
        details = (token_loss, group_loss, token_hit, group_hit)
        ctx.mark_non_differentiable(*details)
        return total, *details

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, total: torch.Tensor, *_: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        hidden_grad, head_grad = ctx.saved_tensors
        if hidden_grad is not None:
            hidden_grad = hidden_grad * total.to(hidden_grad.dtype)
        if head_grad is not None:
            head_grad = (head_grad * total).to(ctx.head_dtype)
        return hidden_grad, head_grad, None, None, None, None, None


def _softmax_by_row(values: torch.Tensor, row: torch.Tensor, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax of values (M,) among those of the same row, and each row's log-sum-exp (rows,)."""
    largest = values.new_full((rows,), -torch.inf).scatter_reduce_(0, row, values, "amax")
    weights = (values - largest[row]).exp_()
    total = values.new_zeros(rows).index_add_(0, row, weights)
    return weights.div_(total[row]), largest + total.log()


def grouped_cross_entropy(
    hidden: torch.Tensor,
    head_weight: torch.Tensor,
    targets: torch.Tensor,
    groups: torch.Tensor | Sequence[torch.Tensor] = (),
    group_weights: float | Sequence[float] = (),
    row_weight: torch.Tensor | None = None,
    focus: float = 0.0,
    reduction: str = "mean",
) -> GroupedCrossEntropy:
    """Grouped cross-entropy of rows against codes, without the N × V logits (the module's docstring has the equations).

    Works under autocast (products in its dtype, everything else in float32), and in float64 throughout.

    Args:
        hidden: (N, D) float.
        head_weight: (V, D) float.
        targets: (N,) int64, from 0 to V − 1.
        groups: one grouping or several: (V,) int64 is a partition, the group of each code from 0; (V, n) int64 are
            each code's n nearest codes, itself among them. None at all is plain cross-entropy.
        group_weights: w_k, 0 or more, one a grouping.
        row_weight: (N,) float, or None for 1. Rows of weight 0 are dropped before anything is multiplied.
        focus: γ of a factor (1 − p_y)^γ on every row, which is not differentiated.
        reduction: "mean" divides by the sum of the row weights, "sum" does not.

    Raises:
        SmaltiError: an argument of the wrong shape or out of range.
    """
    groups = [groups] if isinstance(groups, torch.Tensor) else list(groups)
    weights = [float(group_weights)] if isinstance(group_weights, int | float) else list(group_weights)
    _check(hidden, head_weight, targets, groups, weights, row_weight, focus, reduction)
    N, exact = len(hidden), torch.float64 if hidden.dtype == torch.float64 else torch.float32
    if row_weight is None:
        row_weight = hidden.new_ones(N, dtype=exact)
    row_weight = row_weight.detach().to(exact)
    scale = row_weight / row_weight.sum() if reduction == "mean" and N else row_weight
    kept = row_weight != 0
    whole = bool(kept.all())
    inputs = (hidden, targets, scale) if whole else (hidden[kept], targets[kept], scale[kept])
    total, *details = _GroupedCrossEntropy.apply(
        inputs[0], head_weight, *inputs[1:], [_Groups(entry) for entry in groups], weights, float(focus)
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
        raise SmaltiError(f'reduction must be "mean" or "sum", not {reduction!r}')
