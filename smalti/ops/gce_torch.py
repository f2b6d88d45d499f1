"""The in-place pass of grouped cross-entropy in plain PyTorch, for a CPU and any device (equations: gce.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

# Logits that are swept over at once on a CPU: 8 MB in float32, which its cache holds from sweep to sweep.
_CACHED_ELEMENTS = 2**21


class _Members:
    """The members of a target's group, as lists of (row, code) that are as long as the groups are large."""

    def __init__(self, groups: torch.Tensor) -> None:
        self.neighbours = groups if groups.ndim == 2 else None
        if groups.ndim == 1:
            self.group = groups
            self.codes = groups.argsort(stable=True)
            self.sizes = torch.bincount(groups)
            self.starts = self.sizes.cumsum(0) - self.sizes

    def of(self, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the members of every row's group, row by row: targets (n,) → rows and codes, (M,) each."""
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


class Groupings(NamedTuple):
    """K groupings in the form that the pass reads, made once for all chunks."""

    members: list[_Members]
    weights: list[float]


def prepare(groups: Sequence[torch.Tensor], weights: Sequence[float], device: torch.device) -> Groupings:
    """Return groupings, (V,) or (V, n) int64 each, and weights in the form that `pass_in_place` reads."""
    return Groupings([_Members(entry) for entry in groups], list(weights))


def pass_in_place(
    logits: torch.Tensor,
    targets: torch.Tensor,
    row_weight: torch.Tensor,
    groupings: Groupings,
    focus: float,
    gradient: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Turn a chunk's logits into the gradient with respect to them, in place, a few rows at a time on a CPU.

    Args:
        logits: (n, V) float32 or float64, contiguous. They are overwritten, with the gradient if `gradient` is true.
        targets: (n,) int64.
        row_weight: (n,) in the logits' dtype, with the reduction's factor.
        groupings: from `prepare`.
        focus: γ, 0 or more.
        gradient: whether the gradient is wanted.

    Returns:
        token_loss (n,), group_loss (n, K), token_hit (n,) bool, group_hit (n, K) bool, as GroupedCrossEntropy has
        them, and scale (n,): row_weight · (1 − p_y)^γ.
    """
    size = max(1, _CACHED_ELEMENTS // logits.shape[1]) if logits.device.type == "cpu" else len(targets)
    parts = [
        _pass_over_rows(rows, target, weight, groupings, focus, gradient)
        for rows, target, weight in zip(
            *(tensor.split(max(size, 1)) for tensor in (logits, targets, row_weight)), strict=True
        )
    ]
    if len(parts) == 1:
        return parts[0]
    token_loss, group_loss, token_hit, group_hit, scale = map(torch.cat, zip(*parts, strict=True))
    return token_loss, group_loss, token_hit, group_hit, scale


def _pass_over_rows(
    logits: torch.Tensor,
    targets: torch.Tensor,
    row_weight: torch.Tensor,
    groupings: Groupings,
    focus: float,
    gradient: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Do the work of `pass_in_place` for rows whose logits are swept over several times."""
    n, device = len(targets), targets.device
    members, weights = groupings
    group_loss = logits.new_empty(n, len(members))
    group_hit = torch.empty(n, len(members), dtype=torch.bool, device=device)
    largest, best = logits.max(dim=1)
    true_logit = logits.gather(1, targets[:, None])[:, 0]
    lists, group_logits = [], []
    for column, group in enumerate(members):
        row, code = group.of(targets)
        lists.append((row, code))
        group_logits.append(logits[row, code])
        hit = torch.zeros(n, dtype=torch.int64, device=device)
        group_hit[:, column] = hit.index_add_(0, row, (code == best[row]).long()) > 0
    # From here on the logits' memory holds exp(z − max).
    logits.sub_(largest[:, None]).exp_()
    log_sum = largest + logits.sum(dim=1).log()
    token_loss = log_sum - true_logit
    in_group = []
    for column, (row, _) in enumerate(lists):
        share, log_share = _softmax_by_row(group_logits[column], row, n)
        in_group.append(share)
        group_loss[:, column] = log_sum - log_share
    scale = row_weight
    if focus:
        scale = scale * (-torch.expm1(-token_loss)).pow(focus)
    if gradient:
        logits.mul_(((1 + sum(weights)) * scale * (largest - log_sum).exp())[:, None])
        flat = logits.view(-1)
        at = torch.arange(n, device=device) * logits.shape[1]
        flat.index_add_(0, at + targets, -scale)
        for weight, share, (row, code) in zip(weights, in_group, lists, strict=True):
            flat.index_add_(0, at[row] + code, -weight * scale[row] * share)
    return token_loss, group_loss, best == targets, group_hit, scale


def _softmax_by_row(values: torch.Tensor, row: torch.Tensor, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the softmax of values (M,) among those of the same row, and each row's log-sum-exp (rows,)."""
    largest = values.new_full((rows,), -torch.inf).scatter_reduce_(0, row, values, "amax")
    weights = (values - largest[row]).exp_()
    total = values.new_zeros(rows).index_add_(0, row, weights)
    return weights.div_(total[row]), largest + total.log()
