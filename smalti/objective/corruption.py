"""What the denoiser is shown in training: a grid with masks and wrong tokens (docs/format.md, section 7)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch


class Corrupted(NamedTuple):
    """A corrupted batch.

    Attributes:
        tokens: (B, h, w) int64, what the denoiser sees: true tokens, wrong ones and the mask id.
        masked: (B, h, w) bool, positions that hold the mask id. At least one in every grid.
    """

    tokens: torch.Tensor
    masked: torch.Tensor


def cosine_mask_ratio(uniform: torch.Tensor, power: float = 1.0) -> torch.Tensor:
    """Mask ratio r = cos(π/2 · uᵏ) of u ~ U(0, 1): more often high than low (k = 1: MaskGIT, arXiv 2202.04200, eq. 3).

    A power k above 1 draws high ratios still more often. That is where a prompt decides; once a few tokens of every
    object are in sight, the rest follows from them. Of the ratios 20 % are above 0.95 at k = 1, 45 % at k = 2 and
    59 % at k = 3.
    """
    return torch.cos(math.pi / 2 * uniform**power)


def corrupt(
    tokens: torch.Tensor,
    *,
    codebook_size: int,
    mask_code: int,
    flip_ratio: float,
    mask_power: float = 1.0,
    ordered: float = 0.0,
    order: Sequence[int] = (),
    rare_first: float = 0.0,
    boxes: float = 0.0,
    frequency: torch.Tensor | None = None,
    generator: torch.Generator,
) -> Corrupted:
    """Mask a random share of every grid, and replace a share of what stays visible by random other tokens.

    Args:
        tokens: (B, h, w) int64, the true grids.
        codebook_size: number of codes V; wrong tokens are uniform over the V − 1 others.
        mask_code: the id that means unknown.
        flip_ratio: the probability that a visible token is replaced (`ordered` pictures have it only in full sight).
        mask_power: of `cosine_mask_ratio`.
        ordered: the probability that what stays visible of a picture is what comes first in `order`, as it is in a
            sampler that reveals tokens in that order: training then sees the very grids that sampling will. Their
            number is log-uniform from none to all, about as the steps of a shifted budget are spread. Wrong tokens are
            as rare among them as what is in sight is little: of an object of which one token is in sight nobody could
            tell a wrong one, and a model that doubts it draws the object elsewhere once more.
        order: n raster indices, the first to be revealed first; needed for that.
        rare_first: the probability that a picture's rare codes are masked first, as in the noise schedule of
            DiffusionBERT (arXiv 2211.15029, section 3.2). What is in sight then tells little, as plain areas do, and
            the rest has to follow from the prompt. Up to half of the tokens are masked, drawn with odds of one over
            their code's frequency.
        boxes: the probability that what is masked of a picture is a box, of sides up to half the grid's, wherever it
            lies. A hole all of whose surroundings are in sight then says nothing about what was in it; else one as
            large as an object tells that there was an object.
        frequency: (V,) float, of every code in the data; needed for that.
        generator: of every random number, on the CPU.
    """
    B, h, w = tokens.shape
    n, device = h * w, tokens.device
    ratio = cosine_mask_ratio(torch.rand(B, generator=generator), mask_power)
    count = (ratio * n).ceil().clamp(1, n).long()
    keys = uniform = torch.rand(B, n, generator=generator)
    flips = torch.full((B,), flip_ratio)
    if ordered:
        chosen = torch.rand(B, generator=generator) < ordered
        visible = ((n + 1) ** torch.rand(B, generator=generator) - 1).floor().clamp(max=n - 1)
        count = torch.where(chosen, n - visible.long(), count)
        flips = torch.where(chosen, flip_ratio * visible / n, flips)
        # Ranks from the last to be revealed on: the smallest keys are masked.
        ranks = torch.empty(n).scatter_(
            0, torch.tensor(order), torch.arange(n - 1, -1, -1, dtype=torch.float32)
        )
        keys = torch.where(chosen[:, None], ranks, keys)
    if rare_first:
        chosen = torch.rand(B, generator=generator) < rare_first
        count = torch.where(chosen, (torch.rand(B, generator=generator) * n / 2).ceil().long(), count)
        # The smallest of exponential variables with rates as the odds are a draw without replacement.
        odds = 1 / frequency[tokens.flatten(1).cpu()].clamp_min(1e-12)
        keys = torch.where(chosen[:, None], -torch.log1p(-uniform) / odds, keys)
    if boxes:
        chosen = torch.rand(B, generator=generator) < boxes
        inside = _boxes(B, h, w, generator).flatten(1)
        count = torch.where(chosen, inside.sum(dim=1), count)
        keys = torch.where(chosen[:, None], (~inside).float(), keys)
    places = keys.argsort(dim=1).argsort(dim=1)
    masked = (places < count[:, None]).reshape(B, h, w).to(device)
    flipped = (torch.rand(B, h, w, generator=generator) < flips[:, None, None]).to(device)
    offset = torch.randint(1, max(2, codebook_size), (B, h, w), generator=generator).to(device)
    shown = torch.where(flipped, (tokens + offset) % codebook_size, tokens)
    return Corrupted(shown.masked_fill(masked, mask_code), masked)


def _boxes(count: int, height: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """(count, height, width) bool, True in a box of sides from 1 to half the grid's that lies inside the grid."""

    def spans(side: int) -> torch.Tensor:
        draws = torch.rand(2, count, 1, generator=generator)
        length = 1 + (draws[0] * max(1, side // 2)).floor()
        start = (draws[1] * (side - length + 1)).floor()
        place = torch.arange(side)
        return (place >= start) & (place < start + length)

    return spans(height)[:, :, None] & spans(width)[:, None, :]
