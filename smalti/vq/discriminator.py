"""A small patch discriminator: it judges patches, not images (pix2pix, arXiv 1611.07004; VQGAN, 2012.09841)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class PatchDiscriminator(nn.Module):
    """The discriminator: (B, 3, H, W) → (B, 1, H/8, W/8) scores, high for patches that look real."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        widths = [3, channels, 2 * channels, 4 * channels]
        layers: list[nn.Module] = []
        for index in range(3):
            layers.append(nn.Conv2d(widths[index], widths[index + 1], 4, stride=2, padding=1))
            if index:
                layers.append(nn.GroupNorm(1, widths[index + 1]))
            layers.append(nn.LeakyReLU(0.2))
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)

    def generator_loss(self, reconstruction: torch.Tensor) -> torch.Tensor:
        """Return what the decoder minimises: −D(reconstruction), without gradient to the discriminator's weights."""
        frozen = {name: weight.detach() for name, weight in self.named_parameters()}
        return -torch.func.functional_call(self, frozen, (reconstruction,)).float().mean()

    def own_loss(self, images: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
        """Return what the discriminator minimises: hinge loss on real images and on detached reconstructions."""
        real, fake = self(images).float(), self(reconstruction.detach()).float()
        return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
