"""The pass over a chunk of logits that chooses its tokens, in plain PyTorch (what it computes: sample.py).

Some reductions over V codes are slow on a CPU: an argmax or a cumulative sum takes ten times as long as a maximum or a
sum. So both are found in two steps, by maxima or sums of blocks of about √V codes, then within one block. What
PyTorch computes for a row here does not depend on the rows beside it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

# Logits that are swept over at once. On a CPU 8 MB in float32, which its cache holds from sweep to sweep; elsewhere
# a limit to the memory of a copy.
_SWEPT_ELEMENTS = {"cpu": 2**21}
_SWEPT_ELEMENTS_ELSEWHERE = 2**25


def choose_tokens(
    logits: torch.Tensor,
    uniform: torch.Tensor | None,
    coldness: float,
    current: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Return candidate, its probability, the current token's and entropy of a chunk, as `TokenChoice` has them.

    Args:
        logits: (n, V) float, contiguous, −∞ where a token is left out. They are overwritten.
        uniform: (n,) float, or None for the mode.
        coldness: 1 / temperature.
        current: (n,) int64, or None.
    """
    (n, V), device = logits.shape, logits.device
    size = max(1, _SWEPT_ELEMENTS.get(device.type, _SWEPT_ELEMENTS_ELSEWHERE) // V)
    probabilities = torch.empty(min(n, size), V, dtype=torch.float32, device=device)
    # The sweeps are in float32, in place where the logits are.
    copies = None if logits.dtype == torch.float32 else torch.empty_like(probabilities)
    candidate = torch.empty(n, dtype=torch.int64, device=device)
    probability = torch.empty(n, dtype=torch.float32, device=device)
    entropy = torch.empty_like(probability)
    current_probability = None if current is None else torch.empty_like(probability)
    for start in range(0, n, size):
        part = slice(start, start + size)
        z = logits[part]
        p = probabilities[: len(z)]
        if copies is not None:
            z = copies[: len(z)].copy_(z)
        chosen, largest = _first_largest(z)
        z.sub_(largest)
        torch.softmax(z, dim=1, out=p)
        # log p = z − log Σ exp z, and at the mode z is 0.
        log_total = -p.gather(1, chosen).log()
        if uniform is not None and coldness == 1:
            chosen = _invert(p, uniform[part])
        probability[part] = p.gather(1, chosen)[:, 0]
        if current is not None and current_probability is not None:
            asked = current[part, None]
            known = (asked >= 0) & (asked < V)
            current_probability[part] = (p.gather(1, asked.where(known, 0)) * known)[:, 0]
        # 0 · −∞ counts as 0.
        spread = _by_block(p.mul_(z), torch.nansum).sum(dim=1, keepdim=True)
        entropy[part] = (log_total - spread).clamp_min(0)[:, 0]
        if uniform is not None and coldness != 1:
            torch.softmax(z.mul_(coldness), dim=1, out=p)
            chosen = _invert(p, uniform[part])
            # p at temperature 1 is overwritten by now, but z is a division away.
            probability[part] = (z.gather(1, chosen) / coldness - log_total).exp()[:, 0]
        candidate[part] = chosen[:, 0]
    return candidate, probability, current_probability, entropy


def _first_largest(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the index (n, 1) int64 and the value (n, 1) of the first of each row's largest values (n, V)."""
    largest, block = _by_block(values, torch.amax).max(dim=1, keepdim=True)
    places = _places(block, values.shape[1])
    # Beyond the end the last value is repeated, and found first where it is itself.
    inside = values.gather(1, places.clamp_max(values.shape[1] - 1))
    return places.gather(1, inside.argmax(dim=1, keepdim=True)), largest


def _invert(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Return the first index, (n, 1) int64, where cumulative weights (n, V) exceed uniform (n,) · their sum."""
    sums = _by_block(weights, torch.sum)
    target = uniform.to(weights)[:, None] * sums.cumsum(dim=1)[:, -1:]
    block, rest = _first_beyond(sums, target)
    places = _places(block, weights.shape[1])
    inside = weights.gather(1, places.clamp_max(weights.shape[1] - 1))
    inside = inside.masked_fill(places >= weights.shape[1], 0)
    return places.gather(1, _first_beyond(inside, rest)[0])


def _first_beyond(weights: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first index where cumulative weights (n, k) exceed the target (n, 1), and the target that remains.

    An index without weight is never returned. Where rounding puts the target at the sum of all weights or beyond, the
    last index with weight is returned. A parallel sum may waver where nothing is added to it.
    """
    cumulative = weights.cumsum(dim=1)
    reached = cumulative.masked_fill(weights == 0, 0)
    most = reached.amax(dim=1, keepdim=True)
    target = torch.minimum(target, torch.nextafter(most, torch.zeros_like(most)))
    index = (reached > target).byte().argmax(dim=1, keepdim=True)
    before = cumulative.gather(1, (index - 1).clamp_min(0)) * (index > 0)
    return index, (target - before).clamp_min(0)


def _by_block(values: torch.Tensor, reduce: Callable[..., torch.Tensor]) -> torch.Tensor:
    """Reduce each block of a row: (n, V) → (n, blocks); the last block may be shorter."""
    block = _block_size(values.shape[1])
    end = values.shape[1] // block * block
    whole = reduce(values[:, :end].unflatten(1, (-1, block)), dim=2)
    if end == values.shape[1]:
        return whole
    return torch.cat([whole, reduce(values[:, end:], dim=1, keepdim=True)], dim=1)


def _places(block: torch.Tensor, V: int) -> torch.Tensor:
    """Return the indices in a block (n, 1) of a row, (n, block size) int64; the last block may go beyond V."""
    size = _block_size(V)
    return block * size + torch.arange(size, device=block.device)


def _block_size(V: int) -> int:
    """Return a power of two near √V, at most V."""
    return 1 << V.bit_length() // 2
