"""Which tokens of a grid are filled again: by what they lose, by share, by a mask."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional as F

from smalti.common.checks import check_real
from smalti.errors import SmaltiError

# The loss that the threshold is a part of: nearly the largest, so that one odd token does not set it.
_LARGE = 0.98
# A group of neighbours with less of the loss than this part of the strongest group's is noise.
_LEAST_GROUP = 0.4


class NothingChosen(SmaltiError):
    """No token is believed in less than before."""


def smooth(values: torch.Tensor, block: int) -> torch.Tensor:
    """The mean of each block of tokens, at each of its tokens; (h, w) float → (h, w) float32."""
    means = F.avg_pool2d(values.float()[None, None], block, ceil_mode=True)[0, 0]
    spread = means.repeat_interleave(block, 0).repeat_interleave(block, 1)
    return spread[: values.shape[0], : values.shape[1]]


def losing_tokens(loss: torch.Tensor, *, threshold: float = 0.3, block: int = 2) -> torch.Tensor:
    """The tokens that lose most belief, by a threshold: (h, w) float → (h, w) bool.

    After smoothing over blocks, those whose loss is above `threshold` of (nearly) the largest. A threshold in nats
    would have to be another one for each kind of edit: an object that goes loses several nats a token, a place for a
    new one some tenths of a nat. Groups of neighbours that hold little of the loss are left out.

    Args:
        loss: in nats, from `smalti.reading.likelihood.likelihood_drop`.
        threshold: from 0 to 1.
        block: side of a block in tokens.

    Raises:
        SmaltiError: the threshold is out of range, or (`NothingChosen`) no token loses anything.
    """
    check_real("threshold", threshold, 0, 1)
    smoothed = smooth(loss, block)
    largest = float(smoothed.flatten().quantile(_LARGE))
    if largest <= 0:
        largest = float(smoothed.max())
    if largest <= 0:
        raise NothingChosen(
            "prompt takes belief from no token of the picture, so nothing was changed; choose with mask or share"
        )
    chosen = smoothed > threshold * largest if threshold < 1 else smoothed >= largest
    return _without_weak_groups(chosen, smoothed)


def most_losing(loss: torch.Tensor, share: float, *, block: int = 2) -> torch.Tensor:
    """A share of the tokens, those that lose most, in whole blocks as far as they go; (h, w) float → (h, w) bool.

    Raises:
        SmaltiError: the share is not above 0 and at most 1.
    """
    check_real("share", share, 0, 1, above=True)
    smoothed = smooth(loss, block).flatten()
    count = max(1, round(share * loss.numel()))
    # Stable, so that ties have an order; a block's tokens are tied.
    order = smoothed.argsort(descending=True, stable=True)
    return torch.zeros_like(smoothed, dtype=torch.bool).index_fill(0, order[:count], True).view(loss.shape)


def random_share(
    disbelief: torch.Tensor,
    share: float,
    generator: torch.Generator,
    *,
    within: torch.Tensor | None = None,
    block: int = 2,
) -> torch.Tensor:
    """A random share of the tokens, the least believed first: (h, w) float → (h, w) bool.

    Blocks are drawn without replacement, each with odds of e to the power of its tokens' mean disbelief, by Gumbel
    noise (arXiv 1903.06059).

    Args:
        disbelief: −log p of every token; a constant gives all the same odds.
        share: of the grid, or of `within`.
        generator: on the CPU.
        within: (h, w) bool, the only tokens to draw from, or None.
        block: side of a block in tokens.

    Raises:
        SmaltiError: the share is not above 0 and at most 1.
    """
    check_real("share", share, 0, 1, above=True)
    height, width = disbelief.shape
    noise = torch.rand(math.ceil(height / block), math.ceil(width / block), generator=generator)
    noise = -torch.log(-torch.log(noise.clamp(1e-20, 1 - 1e-7)))
    noise = noise.repeat_interleave(block, 0).repeat_interleave(block, 1)[:height, :width]
    keys = (smooth(disbelief, block) + noise).flatten()
    allowed = torch.ones_like(keys, dtype=torch.bool) if within is None else within.flatten()
    count = max(1, round(share * int(allowed.sum())))
    order = keys.masked_fill(~allowed, -math.inf).argsort(descending=True, stable=True)
    return torch.zeros_like(allowed).index_fill(0, order[:count], True).view(height, width)


def touched_tokens(mask: np.ndarray, side: int) -> torch.Tensor:
    """The tokens of side × side pixels that a mask touches: (H, W) bool → (H/side, W/side) bool."""
    rows, columns = mask.shape[0] // side, mask.shape[1] // side
    return torch.from_numpy(mask.reshape(rows, side, columns, side).any(axis=(1, 3)))


def _without_weak_groups(chosen: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
    """Leave out the groups of neighbours whose summed loss is a small part of the strongest group's."""
    labels = _groups(chosen)
    sums = torch.zeros(int(labels.max()) + 1).index_add(0, labels.flatten(), (loss * chosen).flatten())
    return chosen & (sums >= _LEAST_GROUP * sums.max())[labels]


def _groups(chosen: torch.Tensor) -> torch.Tensor:
    """A number for each group of chosen tokens that touch, corners included: (h, w) bool → (h, w) int64, else 0."""
    numbers = torch.arange(1, chosen.numel() + 1, dtype=torch.float64).view(chosen.shape) * chosen
    while True:
        # Each takes the largest number around it, until a group has one.
        spread = F.max_pool2d(numbers[None, None], 3, stride=1, padding=1)[0, 0] * chosen
        if torch.equal(spread, numbers):
            return spread.to(torch.int64)
        numbers = spread
