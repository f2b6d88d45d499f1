"""Codebook-conditioned embedding and head: a network computes the vector of a code, so similar codes learn together."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from smalti.model.denoiser import Denoiser

# A network's weight moves all vectors at once, so it needs a smaller learning rate than a table's row does.
_SCALE = 0.05
_FIT_STEPS = 300
_FIT_RATE = 3e-3  # peak learning rate
_FULL_WEIGHT = 300  # occurrences from which a code has full weight


class CodebookConditioning(nn.Module):
    """Parametrize a table: each code's row is a network's output for the code plus a fixed row.

    The fixed rows are zero, or the residual of a fit to another model's table. A plain table learns every code by
    itself. If training never shows the tip of a green star, its code stays unknown. Green shapes and tips of other
    stars do not help. A network applies what it learns about one code to similar codes.

    Args:
        codebook: (V, C) float, the image tokenizer's codes.
        dim: width of the table.
        width: width of the network's hidden layers.
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
        """Draw weights whose vectors are about as long as the rows of a fresh table."""
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                layer.weight.normal_(0.0, layer.in_features**-0.5, generator=generator)
                layer.bias.zero_()

    def forward(self, table: torch.Tensor) -> torch.Tensor:
        """Return the table (V + other rows, D) plus the network's vectors; only the other rows get gradients."""
        rows, others = table.split([len(self.codes), len(table) - len(self.codes)])
        return torch.cat([rows.detach() + self.vectors(), others])

    def vectors(self) -> torch.Tensor:
        """Return the network's vectors, (V, D)."""
        return _SCALE * self.layers(self.codes)

    @torch.enable_grad()
    def fit(self, table: torch.Tensor, counts: torch.Tensor) -> None:
        """Fit the codes' rows of a table by least squares, and leave the residual in the table.

        Args:
            table: (V + other rows, D), changed in place.
            counts: (V,) occurrences of each code in the training data; rare codes weigh less.
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


def add_codebook_conditioning(
    denoiser: Denoiser, codebook: torch.Tensor, width: int, generator: torch.Generator
) -> list[CodebookConditioning]:
    """Condition the embedding of image tokens and the head on the codebook, by one network for each.

    Returns:
        The two networks. Their parameters become parameters of the denoiser.
    """
    networks = []
    for module in (denoiser.gen_embedding, denoiser.gen_predictor):
        network = CodebookConditioning(codebook, module.weight.shape[1], width)
        network.init_weights(generator)
        parametrize.register_parametrization(module, "weight", network)
        networks.append(network)
    return networks


def fold_codebook_conditioning(denoiser: Denoiser) -> None:
    """Write the networks' vectors into plain tables, and remove the networks."""
    for module in (denoiser.gen_embedding, denoiser.gen_predictor):
        parametrize.remove_parametrizations(module, "weight")
