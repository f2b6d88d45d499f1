"""The corruption of token grids in training: masks and wrong tokens (docs/format.md, section 7)."""

from __future__ import annotations

from typing import NamedTuple

import torch

from smalti.common.randomness import Draws
from smalti.objective.masking import Masking, MaskingContext


class Corrupted(NamedTuple):
    """A corrupted batch.

    Attributes:
        tokens: (B, h, w) int64, input of the denoiser: true tokens, wrong tokens and the mask id.
        masked: (B, h, w) bool, positions that hold the mask id. At least one in every grid.
    """

    tokens: torch.Tensor
    masked: torch.Tensor


def corrupt(
    tokens: torch.Tensor,
    masking: Masking,
    context: MaskingContext,
    *,
    codebook_size: int,
    mask_code: int,
    flip_ratio: float,
    draws: Draws,
) -> Corrupted:
    """Mask tokens of every grid by a rule, and replace some visible ones by random wrong tokens.

    Args:
        tokens: (B, h, w) int64, the true grids.
        masking: rule or mixture of rules that selects the masked positions.
        context: statistics of the data that rules may use.
        codebook_size: number of codes V; wrong tokens are uniform over the V − 1 others.
        mask_code: id of a masked token.
        flip_ratio: probability that a visible token is replaced. A rule may scale it down for its images.
        draws: source of all random numbers, B items.

    Returns:
        A corrupted batch on the device of `tokens`.

    Example:
        >>> import torch
        >>> from smalti.common.randomness import Draws
        >>> from smalti.objective.masking import UniformMasking
        >>> shown, masked = corrupt(
        ...     torch.zeros(2, 4, 4, dtype=torch.int64), UniformMasking(), MaskingContext(), codebook_size=8,
        ...     mask_code=9, flip_ratio=0.1, draws=Draws.of(0, "corruption", range(2)),
        ... )
        >>> bool(((shown == 9) == masked).all())
        True
    """
    device = tokens.device
    masked, flip_scale = masking.mask(tokens, context, draws)
    masked = masked.to(device)
    flips = flip_ratio * flip_scale[:, None, None]
    flipped = (draws.uniform(*tokens.shape[1:]) < flips).to(device)
    offset = 1 + draws.below(max(1, codebook_size - 1), *tokens.shape[1:]).to(device)
    shown = torch.where(flipped, (tokens + offset) % codebook_size, tokens)
    return Corrupted(shown.masked_fill(masked, mask_code), masked)
