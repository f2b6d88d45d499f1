"""Codes that look alike share what is learned about them: vectors of codes from a small network."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from smalti.model.denoiser import Denoiser

# Every weight of a network moves all vectors at once: at the tables' learning rate they would be thrown about.
_SCALE = 0.05
_FIT_STEPS = 300
_FIT_RATE = 3e-3
_FULL_WEIGHT = 300


class CodeNetwork(nn.Module):
    """Lets a network on each code's entry in the codebook learn, instead of a table's rows of codes.

    The rows stay what they are and are added to: zero, or what the network could not fit of another model's. A table
    learns every code by itself: the tip of a green star, if training never showed one, stays unknown however many green
    shapes and tips of stars it showed. What the network learns of one code holds for those beside it.
    """

    codes: torch.Tensor

    def __init__(self, codebook: torch.Tensor, dim: int, width: int) -> None:
        super().__init__()
        codes = F.normalize(codebook.detach().float(), dim=1) * codebook.shape[1] ** 0.5
        self.register_buffer("codes", codes, persistent=False)
        self.layers = nn.Sequential(
            nn.Linear(codes.shape[1], width),
            nn.GELU(),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, dim),
        )

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Start with vectors about as long as those of a table that training starts with."""
        for layer in self.layers[::2]:
            layer.weight.normal_(0.0, layer.in_features**-0.5, generator=generator)
            layer.bias.zero_()

    def forward(self, table: torch.Tensor) -> torch.Tensor:
        """(V + other rows, D) → the same. Of the table only the other rows, such as the mask's, learn."""
        rows, others = table.split([len(self.codes), len(table) - len(self.codes)])
        return torch.cat([rows.detach() + self.vectors(), others])

    def vectors(self) -> torch.Tensor:
        """(V, D), a vector a code."""
        return _SCALE * self.layers(self.codes)

    @torch.enable_grad()
    def fit(self, table: torch.Tensor, counts: torch.Tensor) -> None:
        """Learn the codes' rows of a table by least squares, and leave in them what that lacks.

        Args:
            table: (V + other rows, D), changed in place.
            counts: (V,) how often the codes were seen; one that hardly was has little to teach.
        """
        rows = table.detach()[: len(self.codes)]
        weight = (counts / _FULL_WEIGHT).clamp_max(1)[:, None]
        optimizer = torch.optim.Adam(self.parameters())
        for step in range(_FIT_STEPS):
            for group in optimizer.param_groups:
                group["lr"] = _FIT_RATE * (1 - step / _FIT_STEPS)
            error = ((self.vectors() - rows).square() * weight).sum()
            optimizer.zero_grad()
            (error / (rows.square() * weight).sum()).backward()
            optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            rows -= self.vectors()


def add_code_networks(
    denoiser: Denoiser, codebook: torch.Tensor, width: int, generator: torch.Generator
) -> list[CodeNetwork]:
    """Let a network give the tokens' embeddings and another the head's rows.

    Returns:
        The two. Their parameters are then parameters of the denoiser, in place of the codes' rows of its tables.
    """
    networks = []
    for module in (denoiser.gen_embedding, denoiser.gen_predictor):
        network = CodeNetwork(codebook, module.weight.shape[1], width)
        network.init_weights(generator)
        parametrize.register_parametrization(module, "weight", network)
        networks.append(network)
    return networks


def fold_code_networks(denoiser: Denoiser) -> None:
    """Write what the networks give into plain tables, and take them away."""
    for module in (denoiser.gen_embedding, denoiser.gen_predictor):
        parametrize.remove_parametrizations(module, "weight")
