"""The in-place pass of grouped cross-entropy as a Triton kernel, for CUDA and ROCm (equations: gce.py).

One program turns one row of logits into its gradient in two sweeps over the codes:

    1. reads z_j: running maximum, its code, and Σ exp(z_j − max), over all codes and over the target's groups
    2. reads z_j again, writes ∂L/∂z_j in its place

so a chunk's logits are read twice and written once, in their own dtype; everything between is float32. A code's
groups are read along with it, 2 or 4 bytes each, and come from the GPU's cache. Neighbour lists, a few codes a
row, are read between the sweeps. Their gradients go to a buffer. After the kernel, when no thread can be late, they
replace what the sweep wrote.

With TRITON_INTERPRET=1 in the environment before Triton is imported, the same kernel runs on a CPU, slowly.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl

# Elements that a program has in hand at once, and how many of them a warp has: 8 a thread, 16 bytes of bf16.
_TILE = 4096
_TILE_OF_A_WARP = 256


class Groupings(NamedTuple):
    """What the pass needs to know of K groupings, made once for all chunks.

    Attributes:
        partitions: (P, V) int16 or int32, the group of each code in each of P partitions.
        neighbours: Q lists, (V, n) int64 each, K = P + Q.
        columns: (K,) int64, where the caller's groupings are among first the partitions, then the lists.
        weights: (K,) float32, partitions first.
        total_weight: 1 + Σ w_k.
    """

    partitions: torch.Tensor
    neighbours: list[torch.Tensor]
    columns: torch.Tensor
    weights: torch.Tensor
    total_weight: float


def prepare(groups: Sequence[torch.Tensor], weights: Sequence[float], device: torch.device) -> Groupings:
    """Return groupings, (V,) or (V, n) int64 each, and weights in the form that `pass_in_place` reads."""
    order = sorted(range(len(groups)), key=lambda place: groups[place].ndim)
    partitions = [groups[place] for place in order if groups[place].ndim == 1]
    short = all(int(partition.max()) < 2**15 for partition in partitions)
    stacked = torch.stack(partitions) if partitions else torch.zeros(1, 1, dtype=torch.int64, device=device)
    return Groupings(
        stacked.to(torch.int16 if short else torch.int32),
        [groups[place] for place in order[len(partitions) :]],
        torch.tensor(order, device=device, dtype=torch.int64).argsort(),
        torch.tensor([weights[place] for place in order], dtype=torch.float32, device=device),
        1.0 + sum(weights),
    )


def pass_in_place(
    logits: torch.Tensor,
    targets: torch.Tensor,
    row_weight: torch.Tensor,
    groupings: Groupings,
    focus: float,
    gradient: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Turn a chunk's logits into the gradient with respect to them, in place.

    Args:
        logits: (n, V) float32, bfloat16 or float16, contiguous. Overwritten where `gradient` is asked for.
        targets: (n,) int64.
        row_weight: (n,) float32, with the reduction's factor.
        groupings: from `prepare`.
        focus: γ, 0 or more.
        gradient: whether the gradient is wanted.

    Returns:
        token_loss (n,), group_loss (n, K), token_hit (n,) bool, group_hit (n, K) bool, as GroupedCrossEntropy has
        them, and scale (n,): row_weight · (1 − p_y)^γ.
    """
    n, V = logits.shape
    K, Q = len(groupings.columns), len(groupings.neighbours)
    P = K - Q
    targets, row_weight = targets.contiguous(), row_weight.contiguous()
    token_loss, scale = torch.empty_like(row_weight), torch.empty_like(row_weight)
    group_loss = row_weight.new_empty(n, K)
    token_hit = torch.empty(n, dtype=torch.bool, device=logits.device)
    group_hit = torch.empty(n, K, dtype=torch.bool, device=logits.device)
    # The lists of this chunk's targets, padded to (n, Q, length) with −1.
    length = triton.next_power_of_2(max((entry.shape[1] for entry in groupings.neighbours), default=1))
    lists = torch.full((n, max(Q, 1), length), -1, dtype=torch.int32, device=logits.device)
    near = [entry[targets] for entry in groupings.neighbours]
    for place, codes in enumerate(near):
        lists[:, place, : codes.shape[1]] = codes
    near_gradient = torch.empty_like(lists, dtype=logits.dtype)
    padded = triton.next_power_of_2(max(P, 1))
    block = min(triton.next_power_of_2(V), max(_TILE // padded, 1))
    with torch.cuda.device(logits.device) if logits.is_cuda else contextlib.nullcontext():
        _pass_over_a_row[(n,)](
            logits,
            targets,
            row_weight,
            groupings.partitions,
            lists,
            groupings.weights,
            near_gradient,
            token_loss,
            group_loss,
            token_hit,
            group_hit,
            scale,
            V,
            groupings.total_weight,
            focus,
            P=P,
            P_PADDED=padded,
            Q=Q,
            Q_PADDED=triton.next_power_of_2(max(Q, 1)),
            LENGTH=length,
            FOCUS=focus != 0,
            GRADIENT=gradient,
            BLOCK=block,
            num_warps=min(max(padded * block // _TILE_OF_A_WARP, 1), 16),
        )
    if gradient:
        for place, codes in enumerate(near):
            logits.scatter_(1, codes, near_gradient[:, place, : codes.shape[1]])
    columns = groupings.columns
    return token_loss, group_loss[:, columns], token_hit, group_hit[:, columns], scale


@triton.jit
def _pass_over_a_row(
    logits,  # (n, V)
    targets,  # (n,)
    row_weights,  # (n,)
    partitions,  # (P, V)
    lists,  # (n, Q, LENGTH), −1 where there is no code
    weights,  # (P + Q,)
    near_gradients,  # as lists
    token_losses,  # (n,) and so on: what the pass returns
    group_losses,  # (n, P + Q)
    token_hits,
    group_hits,
    scales,
    V,
    total_weight,
    focus,
    P: tl.constexpr,
    P_PADDED: tl.constexpr,
    Q: tl.constexpr,
    Q_PADDED: tl.constexpr,
    LENGTH: tl.constexpr,
    FOCUS: tl.constexpr,
    GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    LOWEST: tl.constexpr = -3.4e38
    row = tl.program_id(0).to(tl.int64)
    line = logits + row * V
    target = tl.load(targets + row).to(tl.int32)
    true_logit = tl.load(line + target).to(tl.float32)
    columns = tl.arange(0, BLOCK)[None, :]

    # Each place of the tile keeps a maximum and a sum of its own, merged once after the sweep. With d = z − max,
    # the exponential of −|d| rescales the sum where z is the new maximum, else is what z adds to it.
    largest = tl.full([1, BLOCK], LOWEST, tl.float32)
    total = tl.zeros([1, BLOCK], tl.float32)
    best = tl.zeros([1, BLOCK], tl.int32)
    if P > 0:
        partition = tl.arange(0, P_PADDED)[:, None]
        real = partition < P
        own = tl.load(partitions + partition * V + target, mask=real, other=-1)
        group_largest = tl.full([P_PADDED, BLOCK], LOWEST, tl.float32)
        group_total = tl.zeros([P_PADDED, BLOCK], tl.float32)
    for start in range(0, V, BLOCK):
        code = start + columns
        inside = code < V
        z = tl.load(line + code, mask=inside, other=-float("inf")).to(tl.float32)
        distance = z - largest
        shrunk = tl.exp(-tl.abs(distance))
        total = tl.where(distance > 0, total * shrunk + 1, total + shrunk)
        best = tl.where(distance > 0, code, best)
        largest = tl.maximum(largest, z)
        if P > 0:
            group = tl.load(partitions + partition * V + code, mask=real & inside, other=-2)
            z_group = tl.where(group == own, z, -float("inf"))
            distance = z_group - group_largest
            shrunk = tl.exp(-tl.abs(distance))
            group_total = tl.where(distance > 0, group_total * shrunk + 1, group_total + shrunk)
            group_largest = tl.maximum(group_largest, z_group)

    # Maxima are subtracted from each other before any logarithm is added: a large logit's last digit is not in them.
    row_largest = tl.max(largest)
    row_total = tl.sum(total * tl.exp(largest - row_largest))
    # The first of equal logits. A row of NaN has none: any code will do.
    first = tl.min(tl.where(largest == row_largest, best, V - 1))
    token_loss = row_largest - true_logit + tl.log(row_total)
    slope_of_all = total_weight / row_total
    scale = tl.load(row_weights + row)
    if FOCUS:
        scale *= tl.exp2(focus * tl.log2(1 - tl.exp(-token_loss)))
    tl.store(token_losses + row, token_loss)
    tl.store(token_hits + row, first == target)
    tl.store(scales + row, scale)

    if P > 0:
        group_row_largest = tl.max(group_largest, axis=1)[:, None]
        group_row_total = tl.sum(group_total * tl.exp(group_largest - group_row_largest), axis=1)[:, None]
        group_row_total = tl.where(real, group_row_total, 1.0)
        group_loss = row_largest - group_row_largest + tl.log(row_total / group_row_total)
        slope_of_group = tl.load(weights + partition, mask=real, other=0.0) / group_row_total
        of_best = tl.load(partitions + partition * V + first, mask=real, other=-2)
        place = row * (P + Q) + partition
        tl.store(group_losses + place, group_loss, mask=real)
        tl.store(group_hits + place, of_best == own, mask=real)
    if Q > 0:
        which = tl.arange(0, Q_PADDED)[:, None]
        length = tl.arange(0, LENGTH)[None, :]
        entry = (row * Q + which) * LENGTH + length
        near = tl.load(lists + entry, mask=which < Q, other=-1)
        exists = near >= 0
        z_near = tl.load(line + near, mask=exists, other=-float("inf")).to(tl.float32)
        near_largest = tl.maximum(tl.max(z_near, axis=1), LOWEST)[:, None]
        near_total = tl.sum(tl.exp(z_near - near_largest), axis=1)[:, None]
        near_total = tl.where(which < Q, near_total, 1.0)
        near_loss = row_largest - near_largest + tl.log(row_total / near_total)
        slope_of_near = tl.load(weights + P + which, mask=which < Q, other=0.0) / near_total
        hit = tl.max((near == first).to(tl.int32), axis=1)[:, None] > 0
        place = row * (P + Q) + P + which
        tl.store(group_losses + place, near_loss, mask=which < Q)
        tl.store(group_hits + place, hit, mask=which < Q)

        if GRADIENT:
            # Computed whole, from the logit: nothing is added to a rounded value, and a code that is in two lists
            # gets the same gradient twice.
            near_slope = slope_of_all * tl.exp(z_near - row_largest) - tl.where(near == target, 1.0, 0.0)
            for k in tl.static_range(P):
                near_group = tl.load(partitions + k * V + near, mask=exists, other=-2)
                same = near_group == tl.load(partitions + k * V + target)
                base = tl.sum(tl.where(partition == k, group_row_largest, 0.0))
                of_share = tl.sum(tl.where(partition == k, slope_of_group, 0.0))
                near_slope -= of_share * tl.exp(tl.where(same, z_near - base, -float("inf")))
            for q in tl.static_range(Q):
                member = exists & (which == q)
                if Q > 1:
                    for other in range(LENGTH):
                        member |= near == tl.load(lists + (row * Q + q) * LENGTH + other)
                base = tl.sum(tl.where(which == q, near_largest, 0.0))
                of_share = tl.sum(tl.where(which == q, slope_of_near, 0.0))
                near_slope -= of_share * tl.exp(tl.where(member, z_near - base, -float("inf")))
            near_gradient = (scale * near_slope).to(logits.dtype.element_ty)
            tl.store(near_gradients + entry, near_gradient, mask=exists)

    if GRADIENT:
        # No thread writes before all have read the logits that they read outside a sweep.
        tl.debug_barrier()
        for start in range(0, V, BLOCK):
            code = start + columns
            inside = code < V
            z = tl.load(line + code, mask=inside, other=-float("inf")).to(tl.float32)
            slope = slope_of_all * tl.exp(z - row_largest) - tl.where(code == target, 1.0, 0.0)
            if P > 0:
                group = tl.load(partitions + partition * V + code, mask=real & inside, other=-2)
                share = tl.exp(tl.where(group == own, z - group_row_largest, -float("inf")))
                slope -= tl.sum(slope_of_group * share, axis=0)[None, :]
            tl.store(line + code, (scale * slope).to(logits.dtype.element_ty), mask=inside)


# Whether the kernel runs in Triton's interpreter, on any device.
INTERPRETED = not isinstance(_pass_over_a_row, triton.JITFunction)
