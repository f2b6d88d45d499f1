"""The building blocks of the VQGAN encoder and decoder (Esser et al., arXiv 2012.09841)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from smalti.vq.config import VQConfig


class PositionNorm(nn.Module):
    """Layer normalisation over the channels of each position alone, (B, C, H, W) → (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return position_norm(x, self.weight, self.bias)


def position_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Apply `PositionNorm` with the given weight and bias, (C,) each."""
    last = x.permute(0, 2, 3, 1)  # contiguous for channels-last maps
    return F.layer_norm(last, weight.shape, weight, bias, eps=1e-6).permute(0, 3, 1, 2)


def make_norm(channels: int, config: VQConfig) -> PositionNorm | nn.GroupNorm:
    """Build the configuration's normalisation: GroupNorm with the VQGAN's eps of 1e-6, or `PositionNorm`."""
    if config.norm == "position":
        return PositionNorm(channels)
    return nn.GroupNorm(config.norm_groups, channels, eps=1e-6)


def normalise(norm: PositionNorm | nn.GroupNorm, x: torch.Tensor) -> torch.Tensor:
    """Return `norm(x)`. A GPU's channels-last maps stay so, which PyTorch's own GroupNorm would copy."""
    last = x.is_cuda and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return scaled_and_shifted(norm, x) if last and isinstance(norm, nn.GroupNorm) else norm(x)


def scaled_and_shifted(norm: nn.GroupNorm, x: torch.Tensor) -> torch.Tensor:
    """Compute a GroupNorm by a scale and a shift a channel, which keeps the layout of x, (B, C, H, W)."""
    groups = x.unflatten(1, (norm.num_groups, -1)).float()
    variance, mean = torch.var_mean(groups, dim=(2, 3, 4), correction=0)
    repeats = x.shape[1] // norm.num_groups
    inverse, mean = (
        (variance + norm.eps).rsqrt().repeat_interleave(repeats, 1),
        mean.repeat_interleave(repeats, 1),
    )
    scale = inverse * norm.weight.float()
    shift = norm.bias.float() - mean * scale
    return torch.addcmul(shift[:, :, None, None], x.float(), scale[:, :, None, None]).to(x.dtype)


class ResnetBlock(nn.Module):
    """Two normalised convolutions, 3×3 by default, with a residual path: (B, in, H, W) → (B, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, config: VQConfig, kernel_size: int = 3) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.norm1 = make_norm(in_channels, config)
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding)
        self.norm2 = make_norm(out_channels, config)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size, padding=padding)
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Without gradients each map is freed or overwritten as soon as it has been read: three are alive at a time.
        in_place = not torch.is_grad_enabled()
        hidden = F.silu(normalise(self.norm1, x), inplace=in_place)
        hidden = self.conv1(hidden)
        hidden = F.silu(normalise(self.norm2, hidden), inplace=in_place)
        hidden = self.conv2(hidden)
        rest = self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x
        return hidden.add_(rest) if in_place else hidden + rest


class AttentionBlock(nn.Module):
    """Single-head attention over all positions of a map, with a residual path; scale channels^-0.5."""

    def __init__(self, channels: int, config: VQConfig) -> None:
        super().__init__()
        self.norm = make_norm(channels, config)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, C, H, W = x.shape
        hidden = self.norm(x)
        q, k, v = (
            layer(hidden).reshape(B, 1, C, H * W).transpose(2, 3) for layer in (self.q, self.k, self.v)
        )
        attended = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(attended.transpose(2, 3).reshape(B, C, H, W))


class Downsample(nn.Module):
    """Halve a map with a strided 3×3 convolution that pads one row and column at the bottom and right only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double a map: nearest neighbour, then a 3×3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The blocks of one resolution, with attention after each where the configuration asks for it.

    Its tensors are named `block.B.*`, `attn.B.*` and, where it changes the resolution, `downsample.*` or
    `upsample.*`.
    """

    downsample: Downsample
    upsample: Upsample

    def __init__(
        self, in_channels: int, out_channels: int, blocks: int, attends: bool, config: VQConfig
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            ResnetBlock(in_channels if index == 0 else out_channels, out_channels, config)
            for index in range(blocks)
        )
        self.attn = nn.ModuleList(
            AttentionBlock(out_channels, config) for _ in range(blocks if attends else 0)
        )

    def layers(self) -> Iterator[nn.Module]:
        """Yield the layers in the order in which they are applied."""
        for index, block in enumerate(self.block):
            yield block
            if self.attn:
                yield self.attn[index]
        if hasattr(self, "downsample"):
            yield self.downsample
        if hasattr(self, "upsample"):
            yield self.upsample

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers():
            x = layer(x)
        return x


class Middle(nn.Module):
    """The deepest part of encoder and decoder: block, attention, block."""

    def __init__(self, channels: int, config: VQConfig) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, config)
        self.attn_1 = AttentionBlock(channels, config)
        self.block_2 = ResnetBlock(channels, channels, config)

    def layers(self) -> Iterator[nn.Module]:
        """Yield the layers in the order in which they are applied."""
        yield from (self.block_1, self.attn_1, self.block_2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))
