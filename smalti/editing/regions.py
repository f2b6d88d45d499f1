"""Selection of the tokens to fill again: by the drop of their likelihood, at random, or by a mask."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional as F

from smalti.common.checks import check_real
from smalti.errors import SmaltiError

# Quantile of the losses that the threshold refers to. It is below 1, so that one odd token does not set it.
_LARGE = 0.98
# A group of neighbours whose summed loss is below this fraction of the largest group's is noise.
_LEAST_GROUP = 0.4


class NothingChosen(SmaltiError):
    """No token becomes less likely, so an automatic selection is empty."""


def smooth(values: torch.Tensor, block: int) -> torch.Tensor:
    """Return the mean over its block at each token: (h, w) float → (h, w) float32."""
    means = F.avg_pool2d(values.float()[None, None], block, ceil_mode=True)[0, 0]
    spread = means.repeat_interleave(block, 0).repeat_interleave(block, 1)
    return spread[: values.shape[0], : values.shape[1]]


def losing_tokens(loss: torch.Tensor, *, threshold: float = 0.3, block: int = 2) -> torch.Tensor:
    """Select the tokens whose likelihood drops most, by a threshold.

    The loss is averaged over blocks, and blocks above `threshold` times the largest loss (nearly) are selected. A
    threshold in nats would differ between kinds of edits. The tokens of a removed object lose several nats each; where
    a new object is to appear, they lose some tenths. Groups of neighbours with a small part of the loss are left out.

    Args:
        loss: drop of each token's log-likelihood in nats, (h, w) float, from
            `smalti.reading.likelihood.likelihood_drop`.
        threshold: fraction of the largest loss, from 0 to 1.
        block: side of a block in tokens.

    Returns:
        The selected tokens, (h, w) bool.

    Raises:
        SmaltiError: the threshold is out of range.
        NothingChosen: no token loses anything.

    Example:
        >>> loss = torch.zeros(4, 4)
        >>> loss[:2, :2] = 3.0
        >>> int(losing_tokens(loss).sum())
        4
    """
    check_real("threshold", threshold, 0, 1)
    smoothed = smooth(loss, block)
    largest = float(smoothed.flatten().quantile(_LARGE))
    if largest <= 0:
        largest = float(smoothed.max())
    if largest <= 0:
        raise NothingChosen(
            "prompt makes no token of the image less likely, so nothing was changed; select with mask or share",
            argument="prompt",
        )
    chosen = smoothed > threshold * largest if threshold < 1 else smoothed >= largest
    return _without_weak_groups(chosen, smoothed)


def most_losing(loss: torch.Tensor, share: float, *, block: int = 2) -> torch.Tensor:
    """Select a share of the tokens, those whose likelihood drops most, in whole blocks but for the last one.

    Args:
        loss: drop of each token's log-likelihood in nats, (h, w) float.
        share: fraction of the tokens, above 0 and at most 1.
        block: side of a block in tokens.

    Returns:
        The selected tokens, (h, w) bool; at least one.

    Raises:
        SmaltiError: the share is out of range.
    """
    check_real("share", share, 0, 1, above=True)
    smoothed = smooth(loss, block).flatten()
    count = max(1, round(share * loss.numel()))
    # The sort is stable because the tokens of a block are tied.
    order = smoothed.argsort(descending=True, stable=True)
    return torch.zeros_like(smoothed, dtype=torch.bool).index_fill(0, order[:count], True).view(loss.shape)


def random_share(
    nll: torch.Tensor,
    share: float,
    generator: torch.Generator,
    *,
    within: torch.Tensor | None = None,
    block: int = 2,
) -> torch.Tensor:
    """Select a random share of the tokens, preferably the least likely ones.

    Blocks are drawn without replacement by Gumbel noise (arXiv 1903.06059). The odds of a block are the exponential of
    its tokens' mean negative log-likelihood.

    Args:
        nll: negative log-likelihood of each token in nats, (h, w) float; a constant gives all blocks the same odds.
        share: fraction of the grid's tokens, or of those in `within`, above 0 and at most 1.
        generator: source of the noise, on the CPU.
        within: tokens to draw from, (h, w) bool; None means all.
        block: side of a block in tokens.

    Returns:
        The selected tokens, (h, w) bool; at least one.

    Raises:
        SmaltiError: the share is out of range.
    """
    check_real("share", share, 0, 1, above=True)
    height, width = nll.shape
    noise = torch.rand(
        math.ceil(height / block),
        math.ceil(width / block),
        generator=generator,
        dtype=torch.float32,
        device=generator.device,
    )
    noise = -torch.log(-torch.log(noise.clamp(1e-20, 1 - 1e-7)))
    noise = noise.repeat_interleave(block, 0).repeat_interleave(block, 1)[:height, :width]
    keys = (smooth(nll, block) + noise).flatten()
    allowed = torch.ones_like(keys, dtype=torch.bool) if within is None else within.flatten()
    count = max(1, round(share * int(allowed.sum())))
    order = keys.masked_fill(~allowed, -math.inf).argsort(descending=True, stable=True)
    return torch.zeros_like(allowed).index_fill(0, order[:count], True).view(height, width)


def touched_tokens(mask: np.ndarray, side: int) -> torch.Tensor:
    """Return the tokens of side × side pixels that a mask touches: (H, W) bool → (H/side, W/side) bool."""
    rows, columns = mask.shape[0] // side, mask.shape[1] // side
    return torch.from_numpy(mask.reshape(rows, side, columns, side).any(axis=(1, 3)))


def _without_weak_groups(chosen: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
    """Return the selection without groups of neighbours whose summed loss is far below the largest group's."""
    labels = _groups(chosen)
    sums = torch.zeros(int(labels.max()) + 1, dtype=torch.float32, device=loss.device).index_add(
        0, labels.flatten(), (loss * chosen).flatten()
    )
    return chosen & (sums >= _LEAST_GROUP * sums.max())[labels]


def _groups(chosen: torch.Tensor) -> torch.Tensor:
    """Return the number of each selected token's group: (h, w) bool → (h, w) int64, 0 where none is selected.

    Tokens that touch, corners included, are of one group.
    """
    numbers = torch.arange(1, chosen.numel() + 1, dtype=torch.float64, device=chosen.device)
    numbers = numbers.view(chosen.shape) * chosen
    while True:
        # Each token takes the largest number around it, until every group has a single number.
        spread = F.max_pool2d(numbers[None, None], 3, stride=1, padding=1)[0, 0] * chosen
        if torch.equal(spread, numbers):
            return spread.to(torch.int64)
        numbers = spread
