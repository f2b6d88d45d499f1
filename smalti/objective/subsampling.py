"""Subsampling of tokens whose codes are common, so that the loss is computed for fewer of them."""

from __future__ import annotations

import torch

from smalti.common.randomness import Draws


def subsampling_weights(
    tokens: torch.Tensor, frequency: torch.Tensor, threshold: float, draws: Draws
) -> torch.Tensor:
    """Draw which tokens the loss counts, and return their weights: 0 or one over the probability of counting.

    A token whose code has frequency f counts with probability √(t / f), at most 1, at threshold t: word2vec's
    subsampling of frequent words (arXiv 1310.4546, eq. 5). The weights keep the expected loss as it is.

    Args:
        tokens: (B, h, w) int64 on the CPU, the true tokens.
        frequency: (V,) float, fraction of the data's tokens that have each code.
        threshold: t, above 0.
        draws: source of all random numbers, B items.

    Returns:
        (B, h, w) float32.

    Example:
        >>> import torch
        >>> from smalti.common.randomness import Draws
        >>> tokens, frequency = torch.zeros(1, 500, 500, dtype=torch.int64), torch.tensor([0.64, 0.36])
        >>> weights = subsampling_weights(tokens, frequency, 0.01, Draws.of(0, "subsampling", [0]))
        >>> weights.unique().tolist(), round(weights.mean().item(), 1)
        ([0.0, 8.0], 1.0)
    """
    probability = (threshold / frequency.clamp_min(threshold)).sqrt()[tokens]
    counted = draws.uniform(*tokens.shape[1:]) < probability
    return torch.where(counted, 1 / probability, 0.0)
