"""A second classifier of crops, which sees the directions of edges instead of pixels.

Directions by place are alike in different drawings of one thing, so few drawings teach what it looks like.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from smalti.evaluation.suites.objects.networks import CROP

_DIRECTIONS = 8
_CELL = 5  # pixels between two places
_PLACES = CROP // _CELL - 1
_HIDDEN, _EMBEDDING = 512, 192
_SCALE = 16.0  # of cosines, so that a noun can be almost certain
FEATURES = 2 * _DIRECTIONS * _PLACES**2 + 3 * (CROP // _CELL) ** 2 + (CROP // 4) ** 2
"""Length of the description of a crop."""


class GradientClassifier(nn.Module):
    """A small network that names a crop by its edges: one logit for each noun and a last one for anything else.

    Args:
        nouns: number of nouns.
    """

    def __init__(self, nouns: int) -> None:
        super().__init__()
        self.scale = nn.BatchNorm1d(FEATURES, affine=False)
        self.hidden = nn.Linear(FEATURES, _HIDDEN)
        self.norm = nn.LayerNorm(_HIDDEN)
        self.out = nn.Linear(_HIDDEN, _EMBEDDING)
        self.head = nn.Linear(_EMBEDDING, nouns + 1, bias=False)

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """Return (B, nouns + 1) logits of crops (B, 4, 40, 40)."""
        return self.named(describe(crops))

    def named(self, features: torch.Tensor) -> torch.Tensor:
        """Return (B, nouns + 1) logits of what `describe` returns."""
        x = F.dropout(self.scale(features), 0.1, self.training)
        x = F.dropout(F.gelu(self.norm(self.hidden(x))), 0.2, self.training)
        return _SCALE * F.normalize(self.out(x), dim=1) @ F.normalize(self.head.weight, dim=1).T


def describe(crops: torch.Tensor) -> torch.Tensor:
    """Return (B, FEATURES) floats: edges of outline and lightness by direction and place, colours, and the mask.

    Args:
        crops: (B, 4, 40, 40) as `smalti.evaluation.suites.objects.crops` cuts them.
    """
    mask = crops[:, 3:]
    red, green, blue = crops[:, :3].split(1, dim=1)
    light = (red + green + blue) / 3
    colors = torch.cat([light, red - green, (red + green) / 2 - blue], dim=1)
    parts = [
        _directions(mask),
        _directions(light),
        F.avg_pool2d(colors, _CELL),
        F.avg_pool2d(mask, 4),
    ]
    return torch.cat([part.flatten(1) for part in parts], dim=1)


def _directions(image: torch.Tensor) -> torch.Tensor:
    """Return (B, 8, 7, 7): the strength of edges by direction and place, where the sum of squares is at most 1."""
    across = F.pad(image[:, :, :, 2:] - image[:, :, :, :-2], (1, 1))
    down = F.pad(image[:, :, 2:] - image[:, :, :-2], (0, 0, 1, 1))
    strength = (across**2 + down**2 + 1e-8).sqrt()
    # Opposite directions are one: the doubled angle tells them apart.
    doubled = torch.cat([across**2 - down**2, 2 * across * down], dim=1) / strength
    angles = torch.arange(_DIRECTIONS) * (2 * torch.pi / _DIRECTIONS)
    shares = F.conv2d(doubled, torch.stack([angles.cos(), angles.sin()], dim=1)[:, :, None, None]).relu()
    found = F.avg_pool2d(shares, 2 * _CELL, _CELL)
    return found / (found.pow(2).sum(dim=1, keepdim=True).sqrt() + 0.05)
