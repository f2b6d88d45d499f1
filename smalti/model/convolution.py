"""Convolutions as single matrix products: kernels that do not overlap, or that slide over one dimension.

Each is a module with PyTorch's weights and PyTorch's shapes, so that adapters and sharding see an ordinary convolution.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class BlockConv(nn.Conv2d):
    """A k×k convolution with stride k, without padding. Its arguments are PyTorch's, as peft wants them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compress k×k blocks: (B, D, h, w) → (B, out, h/k, w/k)."""
        (B, D, h, w), k = x.shape, self.kernel_size[0]
        # Blocks do not overlap, so the convolution is one matrix product over (channel, row, column).
        blocks = x.reshape(B, D, h // k, k, w // k, k).permute(0, 2, 4, 1, 3, 5)
        blocks = blocks.reshape(B, h // k, w // k, k * k * D)
        return F.linear(blocks, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class BlockConvTranspose(nn.ConvTranspose2d):
    """A transposed 2×2 convolution with stride 2 and without bias."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim, 2, stride=2, bias=False)

    def forward(self, x: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        """Expand to 2×2 blocks: (B, D, h, w) → (B, D, 2h, 2w)."""
        B, D, h, w = x.shape
        blocks = F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1).T)
        # Channels come last in memory, as the denoiser wants them.
        blocks = blocks.reshape(B, h, w, D, 2, 2).permute(0, 1, 4, 2, 5, 3)
        return blocks.reshape(B, 2 * h, 2 * w, D).permute(0, 3, 1, 2)


class CausalConv(nn.Conv1d):
    """A convolution over a sequence without bias, in which a position sees itself and the positions before it."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__(dim, dim, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve: (B, D, L) → (B, D, L)."""
        width = self.kernel_size[0]
        windows = F.pad(x, (width - 1, 0)).unfold(2, width, 1).permute(0, 2, 1, 3)
        return F.linear(windows.flatten(2), self.weight.flatten(1)).transpose(1, 2)


class PromptConvolution(nn.Module):
    """A causal convolution over a prompt's embeddings, added to them.

    Without it a small model has to learn by attention which words are neighbours, before it can bind a colour to its
    object. Short causal convolutions in every layer are known as Canon layers (Allen-Zhu, Physics of Language Models,
    part 4.1); this is one at the embeddings alone.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.conv = CausalConv(dim, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve: (B, L, D) → (B, L, D)."""
        return x + self.conv(x.transpose(1, 2)).transpose(1, 2).to(x.dtype)
