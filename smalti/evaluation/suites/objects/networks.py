"""The network of the scorer that finds things in an image."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

STRIDE = 4
"""Side in pixels of the cells that point to centres."""

FINE = 2
"""Side in pixels of the cells that things cover."""

_ENCODER = (24, 32, 64, 96, 128)
_DECODER = (96, 64, 48)
_EDGES = 24


class Found(NamedTuple):
    """What the segmenter finds in images.

    Attributes:
        cover: (B, 1, H/2, W/2) logits of a thing that covers a cell.
        offsets: (B, 2, H/4, W/4), the way (x, y) to the thing's centre in cells of 4×4 pixels.
    """

    cover: torch.Tensor
    offsets: torch.Tensor


class Segmenter(nn.Module):
    """A small U-Net: for each cell, whether a thing covers it, and where that thing's centre is.

    Things that touch, and things in several pieces, are told apart by the centres that their cells point to.
    """

    def __init__(self) -> None:
        super().__init__()
        narrow = [3, *_ENCODER]
        self.down = nn.ModuleList(
            nn.Sequential(
                convolution(before, after, 5 if before == 3 else 3, 2),
                convolution(after, after) if before > 3 else nn.Identity(),
            )
            for before, after in zip(narrow, narrow[1:], strict=False)
        )
        self.whole = nn.Linear(_ENCODER[-1], _ENCODER[-1])
        above = [_ENCODER[-1], *_DECODER]
        skips = _ENCODER[-2:0:-1]
        self.up = nn.ModuleList(
            convolution(before + skip, after)
            for before, skip, after in zip(above, skips, above[1:], strict=False)
        )
        self.head = nn.Conv2d(_DECODER[-1], 2, 1)
        self.edges = convolution(_DECODER[-1] + _ENCODER[0], _EDGES)
        self.cover = nn.Conv2d(_EDGES, 1, 1)

    def forward(self, images: torch.Tensor) -> Found:
        """Return which cells things cover, and where their centres are.

        Args:
            images: (B, 3, H, W) floats from 0 to 1, with sides divisible by 32.
        """
        x = (images * 4 - 2).contiguous(memory_format=torch.channels_last)
        levels = []
        for layer in self.down:
            x = layer(x)
            levels.append(x)
        # What is ground shows in the whole image: every place gets the mean of all.
        x = x + self.whole(x.mean(dim=(2, 3)))[:, :, None, None]
        for layer, skip in zip(self.up, levels[-2:0:-1], strict=True):
            x = layer(torch.cat([F.interpolate(x, scale_factor=2), skip], dim=1))
        fine = self.edges(torch.cat([F.interpolate(x, scale_factor=2), levels[0]], dim=1))
        # A network starts with small outputs; offsets of half an image are 32 cells.
        return Found(self.cover(fine), self.head(x) * 16)


def convolution(before: int, after: int, side: int = 3, stride: int = 1) -> nn.Sequential:
    """Return a convolution, normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(before, after, side, stride, side // 2, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )
