"""The VQGAN's encoder and decoder: images to feature maps and back (docs/format.md, section 1)."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from smalti.vq.config import VQConfig
from smalti.vq.layers import Downsample, Level, Middle, ResnetBlock, Upsample, make_norm, normalise


class Encoder(nn.Module):
    """The encoder: (B, 3, H, W) in [-1, 1] → (B, z_channels, H / downscale, W / downscale)."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        channels = [config.ch * mult for mult in config.ch_mult]
        self.conv_in = nn.Conv2d(config.in_channels * config.patch_size**2, config.ch, 3, padding=1)
        self.down = nn.ModuleList()
        for index, out_channels in enumerate(channels):
            in_channels = config.ch if index == 0 else channels[index - 1]
            level = Level(in_channels, out_channels, config.num_res_blocks, config.attends(index), config)
            if index < len(channels) - 1:
                level.downsample = Downsample(out_channels)
            self.down.append(level)
        self.mid = Middle(channels[-1], config)
        self.norm_out = make_norm(channels[-1], config)
        self.conv_out = nn.Conv2d(channels[-1], config.z_channels, 3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = F.pixel_unshuffle(images, self.patch_size) if self.patch_size > 1 else images
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class PatchEncoder(nn.Module):
    """An encoder that sees one token's square of pixels at a time; shapes as `Encoder`.

    A token then depends on its own square alone. Such grids are far easier to predict than grids whose tokens depend
    on their surroundings. The decoder still sees the whole grid.
    """

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.downscale = config.downscale
        channels = 4 * config.ch * config.ch_mult[-1]  # wide is cheap: it only ever works at the tokens' grid
        self.conv_in = nn.Conv2d(config.in_channels * config.downscale**2, channels, 1)
        self.block = nn.ModuleList(
            ResnetBlock(channels, channels, config, kernel_size=1) for _ in range(config.num_res_blocks)
        )
        self.norm_out = make_norm(channels, config)
        self.conv_out = nn.Conv2d(channels, config.z_channels, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.conv_in(F.pixel_unshuffle(images, self.downscale))
        for block in self.block:
            x = block(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class LinearEncoder(nn.Module):
    """A linear map of one token's square of pixels; shapes as `Encoder`. `smalti.vq.principal` finds its weights."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.downscale = config.downscale
        self.projection = nn.Conv2d(config.in_channels * config.downscale**2, config.z_channels, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.projection(F.pixel_unshuffle(images, self.downscale))


class Decoder(nn.Module):
    """The decoder: (B, z_channels, h, w) → (B, 3, h · downscale, w · downscale), about [-1, 1], not clamped.

    Beside a `LinearEncoder` its convolutions correct a linear map of each position to a square of pixels.
    """

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        channels = [config.ch * mult for mult in config.ch_mult]
        deepest = len(channels) - 1
        self.conv_in = nn.Conv2d(config.z_channels, channels[-1], 3, padding=1)
        self.mid = Middle(channels[-1], config)
        levels = []
        for index, out_channels in enumerate(channels):
            in_channels = channels[min(index + 1, deepest)]
            level = Level(in_channels, out_channels, config.num_res_blocks + 1, config.attends(index), config)
            if index > 0:
                level.upsample = Upsample(out_channels)
            levels.append(level)
        self.up = nn.ModuleList(levels)  # numbered from the finest; applied from the deepest
        self.norm_out = make_norm(config.ch * config.ch_mult[0], config)
        self.conv_out = nn.Conv2d(channels[0], config.out_ch * config.patch_size**2, 3, padding=1)
        self.downscale = config.downscale
        if config.encoder == "linear":
            self.linear = nn.Conv2d(config.z_channels, config.out_ch * config.downscale**2, 1)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        # Layer by layer: a level in a call of its own would keep its input alive to its end.
        x = self.mid(self.conv_in(z))
        for level in reversed(cast(list[Level], list(self.up))):
            for layer in level.layers():
                x = layer(x)
        x = F.silu(normalise(self.norm_out, x), inplace=not torch.is_grad_enabled())
        return self.assemble(self.conv_out(x), z)

    def assemble(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Return the image of the last convolution's output `x` and the input `z`."""
        if self.patch_size > 1:
            x = F.pixel_shuffle(x, self.patch_size)
        if hasattr(self, "linear"):
            x = x + F.pixel_shuffle(self.linear(z), self.downscale)
        return x
