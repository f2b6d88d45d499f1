"""How likely an image's tokens are under a prompt, and how much less likely under one prompt than under another.

The likelihood drop of a token x is log p(x | visible, reference) − log p(x | visible, prompt), with x itself masked.
It needs no training and no second model: the denoiser predicts every token from any part of the others.
"""

from __future__ import annotations

import math
from functools import partial

import torch

from smalti.common.checks import check_whole
from smalti.common.devices import autocast_off
from smalti.errors import SmaltiError
from smalti.model.denoiser import Denoiser
from smalti.model.prompt import PromptBatch
from smalti.ops.sample import sample_tokens

# A probability that underflowed counts as the smallest normal float32, 87 nats.
_LEAST = torch.finfo(torch.float32).tiny
# Fraction of chance (one in the codebook size). A ratio of two probabilities far below chance carries no information.
_FLOOR = 1 / 16


def complementary_masks(
    height: int, width: int, block: int, count: int, generator: torch.Generator
) -> torch.Tensor:
    """Draw random masks of a grid that complement each other: every position is visible in exactly one.

    Whole blocks are visible or masked, because the denoiser reads a block as one vector: a visible neighbour in the
    same block nearly determines a token.

    Args:
        height: rows of the grid, a multiple of `block`.
        width: columns of the grid, a multiple of `block`.
        block: side of a block in tokens: 2 for denoisers that compress 2×2 tokens into one position, else 1.
        count: number of masks, at least 2; each leaves one part in `count` visible.
        generator: on the CPU.

    Returns:
        (count, height, width) bool, True where masked.

    Raises:
        SmaltiError: `count` is below 2 or above the number of blocks.
    """
    rows, columns = height // block, width // block
    check_whole("count", count, 2)
    if rows * columns < count:
        raise SmaltiError(
            f"count must be at most {rows * columns}, the number of blocks, not {count}", argument="count"
        )
    place = torch.randperm(rows * columns, generator=generator, device=generator.device) % count
    masks = place.view(rows, columns) != torch.arange(count, device=place.device)[:, None, None]
    return masks.repeat_interleave(block, 1).repeat_interleave(block, 2)


@torch.inference_mode()
def log_probabilities(
    denoiser: Denoiser, prompt: PromptBatch, tokens: torch.Tensor, masks: torch.Tensor, *, at_once: int = 2
) -> torch.Tensor:
    """Return log p of an image's own tokens under several masks; no logits are kept.

    Args:
        denoiser: the model.
        prompt: one prompt, with the slots of this grid, on the denoiser's device.
        tokens: (h, w) int64, without masks.
        masks: (K, h, w) bool, True where a token is masked.
        at_once: masks a pass of the denoiser.

    Returns:
        (K, h, w) float32 on the CPU, in nats; 0 where a token is visible.

    Raises:
        SmaltiError: the denoiser's output is not finite.
    """
    device = denoiser.device
    tokens, masks = tokens.to(device), masks.to(device)
    result = torch.zeros(masks.shape, dtype=torch.float32, device=device)
    for first in range(0, len(masks), at_once):
        part = masks[first : first + at_once]
        grids = tokens.masked_fill(part, denoiser.config.mask_code)
        rows = part.flatten().nonzero()[:, 0]
        asked = tokens.expand(part.shape).flatten()[rows]
        with autocast_off(device):
            vectors = denoiser(grids, prompt.repeat_interleave(len(part)))
            choice = denoiser.gen_predictor.run(
                partial(sample_tokens, current_tokens=asked), vectors.flatten(0, 1)[rows]
            )
        assert choice.current_probability is not None  # current_tokens was given
        values = choice.current_probability.clamp_min(_LEAST).log()
        if bool(values.isnan().any()):
            raise SmaltiError("the denoiser's output is not finite: its weights or its dtype are unfit")
        result[first : first + at_once].view(-1)[rows] = values
    return result.cpu()


def negative_log_likelihood(
    denoiser: Denoiser, prompt: PromptBatch, tokens: torch.Tensor, masks: torch.Tensor, *, at_once: int = 2
) -> torch.Tensor:
    """Return −log p of every token, the mean over the masks that cover it.

    The arguments and errors are those of `log_probabilities`.

    Returns:
        (h, w) float32 on the CPU, in nats.
    """
    values = log_probabilities(denoiser, prompt, tokens, masks, at_once=at_once)
    return -values.sum(dim=0) / masks.sum(dim=0).clamp_min(1)


def likelihood_drop(
    denoiser: Denoiser,
    prompt: PromptBatch,
    reference: PromptBatch,
    tokens: torch.Tensor,
    *,
    passes: int = 5,
    at_once: int = 2,
) -> torch.Tensor:
    """Return by how much the log-likelihood of every token falls when `prompt` replaces `reference`.

    The first pass masks everything. It measures what the prompt alone says of a token, such as background and colours,
    which any visible neighbour would reveal. The other passes use complementary masks. They measure whether a token
    fits its surroundings: outlines and positions. The drop is the mean of the two. The masks are always the same, so
    the drop depends on image and prompts alone. Probabilities far below chance count as equal.

    Args:
        denoiser: the model.
        prompt: one prompt, with the slots of this grid, on the denoiser's device.
        reference: the prompt to compare with, likewise.
        tokens: (h, w) int64, without masks.
        passes: passes of the denoiser with each prompt: 1, or from 3 to 1 + the number of blocks.
        at_once: masks a pass of the denoiser.

    Returns:
        (h, w) float32 on the CPU, in nats.

    Raises:
        SmaltiError: `passes` is out of range, or the denoiser's output is not finite.
    """
    check_whole("passes", passes)
    if passes == 2:
        raise SmaltiError(
            "passes must be 1, or at least 3 for two complementary masks, not 2", argument="passes"
        )
    height, width = tokens.shape
    masks = torch.ones(1, height, width, dtype=torch.bool, device="cpu")
    if passes > 1:
        block = 2 if denoiser.config.downsample else 1
        generator = torch.Generator().manual_seed(0)
        masks = torch.cat([masks, complementary_masks(height, width, block, passes - 1, generator)])
    new, old = (
        log_probabilities(denoiser, one, tokens, masks, at_once=at_once) for one in (prompt, reference)
    )
    floor = torch.tensor(
        math.log(_FLOOR / denoiser.config.codebook_size), dtype=torch.float32, device=old.device
    )
    difference = torch.logaddexp(old, floor) - torch.logaddexp(new, floor)
    if passes == 1:
        return difference[0]
    in_context = difference[1:].sum(dim=0) / masks[1:].sum(dim=0)
    return (difference[0] + in_context) / 2
