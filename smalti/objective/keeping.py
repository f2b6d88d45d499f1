"""What a model knew before it was adapted: images on which it keeps the frozen model's predictions."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch

from smalti.model.denoiser import Denoiser
from smalti.model.head import Head
from smalti.model.lora import adapters_off
from smalti.model.prompt import PromptBatch
from smalti.objective.loss import Mean
from smalti.ops.divergence import divergence_from


class Kept(NamedTuple):
    """The divergence from the frozen model on the images that are kept.

    Attributes:
        weighted_sum: scalar, sum of the positions' weighted divergences, in nats, with gradients.
        weight: scalar, detached, sum of the positions' weights.
        divergence: divergence at masked positions, in nats.
    """

    weighted_sum: torch.Tensor
    weight: torch.Tensor
    divergence: Mean


@torch.no_grad()
def frozen_hidden(
    denoiser: Denoiser, tokens: torch.Tensor, prompt: PromptBatch, images: torch.Tensor
) -> torch.Tensor:
    """Return what a denoiser computes without its adapters for some images of a batch.

    Args:
        denoiser: the model with adapters.
        tokens: (B, h, w) int64, its input.
        prompt: B prompts.
        images: (k,) int64, numbers of the images, at least one.

    Returns:
        (k, h·w, D) hidden vectors.
    """
    with adapters_off(denoiser):
        hidden: torch.Tensor = denoiser(tokens[images], prompt.select(images))
    # Autocast keeps weights that were cast without a gradient, and would use them for the pass that needs one.
    torch.clear_autocast_cache()
    return hidden


def keeping_loss(
    before: torch.Tensor, hidden: torch.Tensor, head: Head, masked: torch.Tensor, weights: torch.Tensor
) -> Kept:
    """Compute the divergence of an adapted model's predictions from the frozen model's.

    Args:
        before: (k, n, D) hidden vectors of the frozen model.
        hidden: (k, n, D) those of the adapted model.
        head: the denoiser's head.
        masked: (k, h, w) bool.
        weights: (k, h, w) float, weights of the positions. Positions of weight 0 count in no measurement.
    """
    flat, is_masked = weights.flatten(), masked.flatten() & (weights.flatten() != 0)
    operator = partial(divergence_from, before.flatten(0, 1), row_weight=flat)
    found = head.run(operator, hidden.flatten(0, 1))
    return Kept(found.total, flat.sum(), Mean((found.rows * is_masked).sum(), is_masked.sum()))
