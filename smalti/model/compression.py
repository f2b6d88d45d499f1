"""The 2×2 compression around the backbone: four token vectors into one, and one into four."""

from __future__ import annotations

import torch
from torch import nn

from smalti.model.backbone import RMSNorm
from smalti.model.convolution import BlockConv, BlockConvTranspose

# Epsilon of the compression's norms; the backbone's is in its configuration (docs/format.md, section 3).
_MAP_NORM_EPS = 1e-6


class Downsample(nn.Module):
    """Compression of 2×2 token vectors into one: RMSNorm over channels, then a 2×2 convolution without bias."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = RMSNorm(dim, _MAP_NORM_EPS)
        self.conv = BlockConv(dim, dim, 2, stride=2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compress 2×2 blocks: (B, h, w, D) → (B, h/2 · w/2, D)."""
        return self.conv(self.norm(x).permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)


class Upsample(nn.Module):
    """Expansion of one vector into 2×2: RMSNorm over channels, then a transposed convolution without bias."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = RMSNorm(dim, _MAP_NORM_EPS)
        self.conv = BlockConvTranspose(dim)

    def forward(self, x: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        """Expand to 2×2 blocks: (B, rows · columns, D) → (B, 4 · rows · columns, D), both in raster order."""
        maps = self.norm(x).transpose(1, 2).unflatten(2, (rows, columns))
        return self.conv(maps).permute(0, 2, 3, 1).flatten(1, 2)


class DownsampleStage(nn.Module):
    """The compression under the name of the reference model's tensors."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.downsample = Downsample(dim)


class UpsampleStage(nn.Module):
    """The expansion under the name of the reference model's tensors."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.upsample = Upsample(dim)
