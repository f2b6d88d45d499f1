"""From a segmentation to single things: cells vote for centres, and each centre that many cells point to is a thing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from smalti.evaluation.suites.objects.networks import FINE, STRIDE

LEAST_AREA = 0.0035
"""Smallest area of a thing, as a fraction of the image; smaller specks are noise."""

_COVERED = 0.5  # probability from which a cell belongs to a thing
_BLUR = (1.0, 4.0, 6.0, 4.0, 1.0)  # votes are smoothed, because centres are not exact
_WINDOW = 9  # cells a side in which one centre is the strongest
_LEAST_DISTANCE = 1.2  # of two centres, in mean distances of their cells
_LEAST_PEAK = 0.02  # smoothed votes of a centre, in votes of the whole image's cells per thousand


@dataclass(frozen=True)
class Instances:
    """The things in one image.

    Attributes:
        owners: (h, w) int64, the number of the thing that covers each cell; −1 for the ground.
        covered: (2h, 2w) float32, the probability that a thing covers a cell of half the side.
    """

    owners: np.ndarray
    covered: np.ndarray

    @property
    def count(self) -> int:
        """Number of things."""
        return int(self.owners.max()) + 1


def find_instances(cover: torch.Tensor, offsets: torch.Tensor) -> Instances:
    """Return the things in the output of the segmenter for one image.

    Args:
        cover: (1, 2h, 2w) logits, as in `Found`.
        offsets: (2, h, w) in cells, as in `Found`.
    """
    fine = cover.float().sigmoid()
    covered = F.avg_pool2d(fine, STRIDE // FINE)[0]
    height, width = covered.shape
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    x, y = columns + offsets[0].float(), rows + offsets[1].float()
    inside = covered > _COVERED
    owners = torch.full((height, width), -1)
    if not bool(inside.any()):
        return Instances(owners.numpy(), fine[0].numpy())
    x, y, weight = x[inside], y[inside], covered[inside]
    reach = offsets.float().norm(dim=0)[inside]
    centres = _centres(x, y, weight, (height, width))
    if len(centres):
        own = _nearest(centres, x, y)
        centres = _merged(centres, own, reach, weight)
        owners[inside] = _nearest(centres, x, y)
    return Instances(_without_specks(owners.numpy()), fine[0].numpy())


def _nearest(centres: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the number of the centre nearest to each point, (n,) int64."""
    return ((x[:, None] - centres[:, 0]) ** 2 + (y[:, None] - centres[:, 1]) ** 2).argmin(dim=1)


def _merged(
    centres: torch.Tensor, own: torch.Tensor, reach: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """Return the centres without those that are nearer to a stronger one than the cells of their things.

    Args:
        centres: (k, 2) x and y in cells.
        own: (n,) number of each cell's centre.
        reach: (n,) distance of each cell from the centre that it points to, in cells.
        weight: (n,) weight of each cell.
    """
    strength = torch.zeros(len(centres)).index_add_(0, own, weight)
    size = torch.zeros(len(centres)).index_add_(0, own, weight * reach) / strength.clamp_min(1e-6)
    kept: list[int] = []
    for number in strength.argsort(descending=True).tolist():
        # Centres of two discs that touch are three times their cells' mean distance apart.
        apart = [
            float((centres[number] - centres[other]).norm())
            > _LEAST_DISTANCE * max(size[number], size[other])
            for other in kept
        ]
        if all(apart):
            kept.append(number)
    return centres[sorted(kept)]


def _centres(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Return the centres (n, 2), x and y in cells, that most of the votes point to."""
    height, width = grid
    votes = torch.zeros(height * width)
    left, top = x.floor(), y.floor()
    for dx in (0, 1):
        for dy in (0, 1):
            column, row = left + dx, top + dy
            share = (1 - (x - column).abs()) * (1 - (y - row).abs()) * weight
            place = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
            votes.index_add_(0, place.long(), share)
    kernel = torch.tensor(_BLUR) / sum(_BLUR)
    smooth = votes.reshape(1, 1, height, width)
    smooth = F.conv2d(smooth, kernel.reshape(1, 1, 1, -1), padding=(0, len(_BLUR) // 2))
    smooth = F.conv2d(smooth, kernel.reshape(1, 1, -1, 1), padding=(len(_BLUR) // 2, 0))
    highest = F.max_pool2d(smooth, _WINDOW, 1, _WINDOW // 2)
    least = _LEAST_PEAK * height * width / 1000
    peaks = ((smooth == highest) & (smooth >= max(least, 0.04 * float(smooth.max()))))[0, 0].nonzero()
    return peaks.flip(1).float()


def _without_specks(owners: np.ndarray) -> np.ndarray:
    """Return the owners with things that are too small left out, and the others numbered from 0."""
    numbers, areas = np.unique(owners[owners >= 0], return_counts=True)
    kept = numbers[areas >= LEAST_AREA * owners.size]
    table = np.full(int(owners.max()) + 2, -1)
    table[kept] = np.arange(len(kept))
    return table[owners]
