"""Masks of a reading: how many tokens each hides, and which. All candidates of a reading share them."""

from __future__ import annotations

import torch

from smalti.common.checks import check_pair, check_whole
from smalti.common.randomness import stream

MOST_MASKS = 4096
"""Largest number of masks of a reading. They exist at once."""

RATIOS = (0.6, 1.0)
"""Smallest and largest mask ratio of a reading. Below, neighbours explain a token, and the prompt adds little."""


def reading_masks(
    height: int,
    width: int,
    count: int,
    *,
    ratios: tuple[float, float] = RATIOS,
    seed: int = 0,
) -> torch.Tensor:
    """Draw the masks of a reading: the first hides everything that its ratio allows, and every prefix is spread out.

    The number of masked tokens is fixed, not random (LLaDA, arXiv 2502.09992). It follows the radical inverse in base
    2, so that any number of masks covers the range of ratios evenly. The tokens of a mask are a random subset.

    Args:
        height: rows of the grid.
        width: columns of the grid.
        count: number of masks.
        ratios: smallest and largest fraction of masked tokens.
        seed: seed of the subsets; mask k depends on the seed and k alone.

    Returns:
        (count, height, width) bool, True where masked; at least one token each.

    Raises:
        SmaltiError: `count` is no whole number from 1 to `MOST_MASKS`, or the ratios are not two rising numbers from 0
            to 1.

    Example:
        >>> reading_masks(4, 4, 3).float().mean(dim=(1, 2))
        tensor([1.0000, 0.8125, 0.8750])
    """
    check_whole("masks", count, 1, MOST_MASKS)
    low, high = check_pair("ratios", ratios)
    masks = []
    for index in range(count):
        masked = max(1, round((high - (high - low) * _inverse(index)) * height * width))
        order = torch.randperm(height * width, generator=stream(seed, "reading", index), device="cpu")
        grid = torch.zeros(height * width, dtype=torch.bool, device="cpu")
        masks.append(grid.index_fill(0, order[:masked], True).view(height, width))
    return torch.stack(masks)


def _inverse(index: int) -> float:
    """Return the radical inverse in base 2: 0, 1/2, 1/4, 3/4, 1/8, ..."""
    value, unit = 0.0, 0.5
    while index:
        value += unit * (index % 2)
        index, unit = index // 2, unit / 2
    return value
