"""A light layer: one layer in place of the whole backbone, for grids that hardly differ from the last pass's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from smalti.model.backbone import Layer, RMSNorm
from smalti.model.config import DenoiserConfig
from smalti.model.rotary import RotaryTables


@dataclass
class LightMemory:
    """The backbone's output for one batch of prompts; empty before the first pass.

    Attributes:
        hidden: (B, S, D), the output of the last pass or light pass; None before the first pass.
    """

    hidden: torch.Tensor | None = None


class LightLayer(nn.Module):
    """Turn the backbone's output for a grid into that for a grid with more tokens.

    One transformer layer reads the last output and the new grid's vectors, and adds a change to the output. It sees the
    prompt only through that output. Before training the change is 0. The layer is that of ADJUST (arXiv 2509.22738),
    which also reads the new sequence and the last states; the change as a residual is a Smalti extension.

    Example:
        >>> import torch, smalti
        >>> denoiser = smalti.load("scenes").denoiser
        >>> light = LightLayer(denoiser.config)
        >>> sum(weight.numel() for weight in light.parameters()) < 0.2 * sum(
        ...     weight.numel() for weight in denoiser.layers.parameters())
        True
    """

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        dim = config.hidden_size
        self.image_norm = RMSNorm(dim, config.rms_norm_eps)
        self.join = nn.Linear(2 * dim, dim, bias=False)
        self.layer = Layer(config)
        self.norm = RMSNorm(dim, config.rms_norm_eps)
        self.change = nn.Linear(dim, dim, bias=False)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Set weights for training: normal with standard deviation 0.02, norms 1, the change 0."""
        for weight in self.parameters():
            if weight.ndim == 1:
                weight.fill_(1.0)
            else:
                weight.normal_(0.0, 0.02, generator=generator)
        self.change.weight.zero_()

    def forward(self, hidden: torch.Tensor, image: torch.Tensor, tables: RotaryTables) -> torch.Tensor:
        """Return the backbone's output for a new grid.

        Args:
            hidden: (B, S, D), its output for the grid before.
            image: (B, S, D), the new grid's vectors.
            tables: rotary positions of the map.
        """
        joined = torch.cat([hidden, self.image_norm(image)], dim=-1)
        return hidden + self.change(self.norm(self.layer(self.join(joined), tables)))
