"""The pass over a chunk of logits that chooses its tokens as a Triton kernel, for CUDA and ROCm (what: sample.py).

One program goes over one row, a block of codes at a time:

    1. reads z_j: maximum m, its code, Σ exp(z_j − m), Σ exp(z_j − m)·(z_j − m) for the entropy, and, at a temperature
       that is not 1, Σ exp((z_j − m) / temperature)
    2. for a draw, reads z_j again, from the first block to the one in which the cumulative weights cross
       uniform · their sum; once more that block, to find the code in it

so a chunk's logits are read at most twice, in their own dtype; everything between is float32.

With TRITON_INTERPRET=1 in the environment before Triton is imported, the same kernel runs on a CPU, slowly.
"""

from __future__ import annotations

import contextlib

import torch
import triton
import triton.language as tl

# Codes that a program has in hand at once, and how many of them a warp has: 8 a thread, 16 bytes of bf16.
_TILE = 4096
_TILE_OF_A_WARP = 256


def choose_tokens(
    logits: torch.Tensor,
    uniform: torch.Tensor | None,
    coldness: float,
    current: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Return candidate, its probability, the current token's and entropy of a chunk, as `TokenChoice` has them.

    Args:
        logits: (n, V) float32, bfloat16 or float16, contiguous, −∞ where a token is left out.
        uniform: (n,) float, or None for the mode.
        coldness: 1 / temperature.
        current: (n,) int64, or None.
    """
    (n, V), device = logits.shape, logits.device
    candidate = torch.empty(n, dtype=torch.int64, device=device)
    probability = torch.empty(n, dtype=torch.float32, device=device)
    entropy = torch.empty_like(probability)
    current_probability = None if current is None else torch.empty_like(probability)
    block = min(triton.next_power_of_2(V), _TILE)
    with torch.cuda.device(device) if logits.is_cuda else contextlib.nullcontext():
        _choose_in_a_row[(n,)](
            logits,
            # Where a tensor is missing, any other stands in: it is not read.
            probability if uniform is None else uniform.to(torch.float32).contiguous(),
            candidate if current is None else current.contiguous(),
            candidate,
            probability,
            probability if current is None else current_probability,
            entropy,
            V,
            coldness,
            DRAW=uniform is not None,
            HOT=uniform is not None and coldness != 1,
            CURRENT=current is not None,
            BLOCK=block,
            num_warps=min(max(block // _TILE_OF_A_WARP, 1), 16),
        )
    return candidate, probability, current_probability, entropy


@triton.jit
def _choose_in_a_row(
    logits,  # (n, V)
    uniforms,  # (n,) and so on
    current_tokens,
    candidates,
    probabilities,
    current_probabilities,
    entropies,
    V,
    coldness,
    DRAW: tl.constexpr,
    HOT: tl.constexpr,
    CURRENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    LOWEST: tl.constexpr = -3.4e38
    # Distances are limited to this, so that times 0 they are 0. Comparisons let NaN through, tl.minimum does not.
    FAR: tl.constexpr = 1e30
    row = tl.program_id(0).to(tl.int64)
    line = logits + row * V
    columns = tl.arange(0, BLOCK)

    # Each place of the block keeps a maximum and sums of its own, merged once after the sweep. With d = z − max, the
    # exponential of −|d| rescales the sums where z is the new maximum, else is what z adds to them.
    largest = tl.full([BLOCK], LOWEST, tl.float32)
    best = tl.zeros([BLOCK], tl.int32)
    total = tl.zeros([BLOCK], tl.float32)
    spread = tl.zeros([BLOCK], tl.float32)
    hot_total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, V, BLOCK):
        code = start + columns
        z = tl.load(line + code, mask=code < V, other=-float("inf")).to(tl.float32)
        higher = z > largest
        distance = tl.abs(z - largest)
        distance = tl.where(distance > FAR, FAR, distance)
        shrunk = tl.exp(-distance)
        spread = tl.where(higher, (spread - distance * total) * shrunk, spread - distance * shrunk)
        total = tl.where(higher, total * shrunk + 1, total + shrunk)
        if HOT:
            shrunk = tl.exp(-distance * coldness)
            hot_total = tl.where(higher, hot_total * shrunk + 1, hot_total + shrunk)
        best = tl.where(higher, code, best)
        largest = tl.maximum(largest, z)

    row_largest = tl.max(largest)
    distance = row_largest - largest
    distance = tl.where(distance > FAR, FAR, distance)
    shrunk = tl.exp(-distance)
    row_total = tl.sum(total * shrunk)
    row_spread = tl.sum((spread - distance * total) * shrunk)
    entropy = tl.log(row_total) - row_spread / row_total
    tl.store(entropies + row, tl.where(entropy < 0, 0.0, entropy))
    # The first of equal logits. A row of NaN has none: any code will do.
    candidate = tl.min(tl.where(largest == row_largest, best, V - 1))

    if DRAW:
        target = row_total
        if HOT:
            target = tl.sum(hot_total * tl.exp(-distance * coldness))
        target *= tl.load(uniforms + row)
        # The last block that has weight, if rounding puts the target beyond all of them.
        chosen = 0
        before = 0.0
        cumulative = 0.0
        start = 0
        while (start < V) & (cumulative <= target):
            code = start + columns
            z = tl.load(line + code, mask=code < V, other=-float("inf")).to(tl.float32)
            weight = tl.sum(tl.exp((z - row_largest) * coldness))
            chosen = tl.where(weight > 0, start, chosen)
            before = tl.where(weight > 0, cumulative, before)
            cumulative += weight
            start += BLOCK
        code = chosen + columns
        z = tl.load(line + code, mask=code < V, other=-float("inf")).to(tl.float32)
        weights = tl.exp((z - row_largest) * coldness)
        has_weight = weights > 0
        beyond = has_weight & (before + tl.cumsum(weights) > target)
        first = tl.min(tl.where(beyond, code, V))
        last = tl.max(tl.where(has_weight, code, 0))
        candidate = tl.where(first < V, first, last)

    tl.store(candidates + row, candidate)
    z = tl.load(line + candidate).to(tl.float32)
    tl.store(probabilities + row, tl.exp(z - row_largest) / row_total)
    if CURRENT:
        token = tl.load(current_tokens + row)
        known = (token >= 0) & (token < V)
        z = tl.load(line + tl.where(known, token, 0), mask=known, other=-float("inf")).to(tl.float32)
        tl.store(current_probabilities + row, tl.exp(z - row_largest) / row_total)


# Whether the kernel runs in Triton's interpreter, on any device.
INTERPRETED = not isinstance(_choose_in_a_row, triton.JITFunction)
