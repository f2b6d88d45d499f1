"""What the scorer's classifiers see of a crop: the directions of edges by place, colours, and the mask.

Directions are alike in different drawings of one thing, so few drawings teach what it looks like.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

CROP = 40
"""Side in pixels of the crops that are named."""

DIRECTIONS = 8

MAPS = 4 * DIRECTIONS + 4
"""Number of maps of a crop, each 10×10."""

_CELL = 5  # pixels between two places of a description
_PLACES = CROP // _CELL - 1
DESCRIPTION = 2 * DIRECTIONS * _PLACES**2 + 3 * (CROP // _CELL) ** 2 + (CROP // 4) ** 2
"""Length of the description of a crop."""


def draw_maps(crops: torch.Tensor) -> torch.Tensor:
    """Return (B, MAPS, 10, 10) floats: strengths of edges by direction, colours, and the mask.

    Edges are those of the mask, of lightness and of two differences of colours, each in proportion to its surroundings.

    Args:
        crops: (B, 4, 40, 40) as `smalti.evaluation.suites.objects.crops` cuts them.
    """
    mask, colors = crops[:, 3:], _colors(crops)
    maps = []
    for image in (mask, *colors.split(1, dim=1)):
        found = _pool(directions(image))
        energy = F.avg_pool2d(found.pow(2).sum(dim=1, keepdim=True), 3, 1, 1, count_include_pad=False)
        maps.append(found / (energy.sqrt() + 0.05))
    middle = torch.tensor([0.5, 0.0, 0.0])[:, None, None]
    return torch.cat([*maps, (_pool(colors) - middle) * 4, _pool(mask) * 2 - 1], dim=1)


def describe(crops: torch.Tensor) -> torch.Tensor:
    """Return (B, DESCRIPTION) floats: edges of mask and lightness by direction and place, colours, and the mask.

    Args:
        crops: (B, 4, 40, 40) as `smalti.evaluation.suites.objects.crops` cuts them.
    """
    mask, colors = crops[:, 3:], _colors(crops)
    parts = [F.avg_pool2d(colors, _CELL), F.avg_pool2d(mask, 4)]
    for image in (colors[:, :1], mask):
        found = F.avg_pool2d(directions(image), 2 * _CELL, _CELL)
        parts.insert(0, found / (found.pow(2).sum(dim=1, keepdim=True).sqrt() + 0.05))
    return torch.cat([part.flatten(1) for part in parts], dim=1)


def directions(image: torch.Tensor) -> torch.Tensor:
    """Return (B, 8, H, W): the strength of the edges of one channel, (B, 1, H, W), by direction."""
    across = F.pad(image[:, :, :, 2:] - image[:, :, :, :-2], (1, 1))
    down = F.pad(image[:, :, 2:] - image[:, :, :-2], (0, 0, 1, 1))
    strength = (across**2 + down**2 + 1e-8).sqrt()
    # Opposite directions are one: the doubled angle tells them apart.
    doubled = torch.cat([across**2 - down**2, 2 * across * down], dim=1) / strength
    angles = torch.arange(DIRECTIONS) * (2 * torch.pi / DIRECTIONS)
    return F.conv2d(doubled, torch.stack([angles.cos(), angles.sin()], dim=1)[:, :, None, None]).relu()


def _colors(crops: torch.Tensor) -> torch.Tensor:
    """Return (B, 3, 40, 40): lightness, red less green, yellow less blue."""
    red, green, blue = crops[:, :3].split(1, dim=1)
    return torch.cat([(red + green + blue) / 3, red - green, (red + green) / 2 - blue], dim=1)


def _pool(maps: torch.Tensor) -> torch.Tensor:
    """Return means of overlapping windows of 8×8 pixels, (B, C, 10, 10)."""
    return F.avg_pool2d(F.pad(maps, (2, 2, 2, 2), mode="replicate"), 8, 4)
