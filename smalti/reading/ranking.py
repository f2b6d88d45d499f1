"""Ranking of images of one prompt by how well each reads: the rise of its likelihood through the prompt."""

from __future__ import annotations

import torch

from smalti.components import Components
from smalti.reading.candidates import masks_at_once
from smalti.reading.likelihood import log_probabilities
from smalti.reading.masks import reading_masks

MASKS = 6
RATIOS = (0.85, 1.0)
"""Mask ratios of the score. Where nearly all is masked, the prompt and not the neighbours explains a token."""


def prompt_gain(
    components: Components, tokens: torch.Tensor, prompt: str, *, masks: int = MASKS, seed: int = 0
) -> float:
    """Return how many nats the prompt adds to the log-likelihood of an image, a mean over masked tokens.

    The likelihood alone would favour plain images. Its rise over the empty prompt cancels how likely the image is by
    itself: it estimates the pointwise mutual information of image and prompt. All images share the masks.

    Args:
        components: the model.
        tokens: (h, w) int64, the image without masks.
        prompt: what the image is to show.
        masks: passes with the prompt, and as many without.
        seed: seed of the masks.

    Raises:
        SmaltiError: the prompt is blank or too long, or `masks` is no positive whole number.

    Example:
        >>> import smalti
        >>> pipe = smalti.load("scenes")
        >>> tokens = pipe("a red circle", seed=0).tokens[0]
        >>> true, wrong = (prompt_gain(pipe.components, tokens, text) for text in ("a red circle", "a blue star"))
        >>> true > 0 > wrong
        True
    """
    side = components.image_tokenizer.config.downscale
    shared = reading_masks(tokens.shape[0], tokens.shape[1], masks, ratios=RATIOS, seed=seed)
    batch = components.prompts([prompt], *(side * cells for cells in tokens.shape))
    at_once = masks_at_once(components, *tokens.shape)
    with_prompt, alone = (
        log_probabilities(components.denoiser, one, tokens, shared, at_once=at_once).double().sum()
        for one in (batch, batch.unconditional())
    )
    return float((with_prompt - alone) / shared.sum())


def best_of(
    components: Components, tokens: torch.Tensor, prompts: list[str], count: int
) -> tuple[list[int], list[float]]:
    """Return which image of every `count` in a row gains most from its prompt, and the gain of each image.

    Args:
        components: the model.
        tokens: (B, h, w) int64; images of one prompt are `count` in a row.
        prompts: the prompt of each image.
        count: images a choice.
    """
    gains = [prompt_gain(components, grid, text) for grid, text in zip(tokens, prompts, strict=True)]
    best = [
        max(range(first, first + count), key=lambda index: gains[index])
        for first in range(0, len(gains), count)
    ]
    return best, gains
