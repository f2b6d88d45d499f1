"""How much less a model believes in a picture's tokens under one prompt than under another.

The loss of a token x is log p(x | what is seen, reference) − log p(x | what is seen, new prompt), with x itself hidden.
It needs no training and no second model: the denoiser predicts every token from any part of the others.
"""

from __future__ import annotations

import math

import torch

from smalti.common.checks import check_whole
from smalti.errors import SmaltiError
from smalti.model.denoiser import Denoiser
from smalti.model.prompt import PromptBatch
from smalti.ops.sample import sample_tokens

# The smallest normal float32: what a probability that underflowed counts as, 87 nats.
_LEAST = torch.finfo(torch.float32).tiny
# Of the probability that a code has by chance: what is far below it is believed under no prompt, and the ratio of two
# such probabilities says nothing.
_FLOOR = 1 / 16


def glimpses(height: int, width: int, block: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """Complementary random sights of a grid: `count` masks, each showing what no other shows.

    Whole blocks are shown or hidden, because a neighbour in the same block, which the denoiser sees as one vector,
    gives nearly everything away.

    Args:
        height, width: of the grid, multiples of `block`.
        block: side of a block in tokens: 2 for denoisers that compress 2×2 tokens into one position, else 1.
        count: of the sights; each shows one part in `count`.
        generator: on the CPU.

    Returns:
        (count, height, width) bool, True where hidden; every position is shown in exactly one.

    Raises:
        SmaltiError: there are fewer blocks than sights, or fewer than two sights.
    """
    rows, columns = height // block, width // block
    check_whole("count", count, 2)
    if rows * columns < count:
        raise SmaltiError(f"count must be at most {rows * columns}, the number of blocks, not {count}")
    place = torch.randperm(rows * columns, generator=generator) % count
    hidden = place.view(rows, columns) != torch.arange(count)[:, None, None]
    return hidden.repeat_interleave(block, 1).repeat_interleave(block, 2)


@torch.inference_mode()
def log_probabilities(
    denoiser: Denoiser, prompt: PromptBatch, tokens: torch.Tensor, hidden: torch.Tensor, *, at_once: int = 2
) -> torch.Tensor:
    """log p of a picture's own tokens in several sights of it; no logits are kept.

    Args:
        prompt: one prompt, with the slots of this grid, on the denoiser's device.
        tokens: (h, w) int64, without masks.
        hidden: (K, h, w) bool, what each sight hides.
        at_once: sights a pass of the denoiser.

    Returns:
        (K, h, w) float32 on the CPU, 0 where a token was in sight.
    """
    device = denoiser.head.device
    tokens, hidden = tokens.to(device), hidden.to(device)
    found = torch.zeros(hidden.shape, device=device)
    for first in range(0, len(hidden), at_once):
        part = hidden[first : first + at_once]
        grids = tokens.masked_fill(part, denoiser.config.mask_code)
        vectors = denoiser(grids, prompt.repeat_interleave(len(part)))
        rows = part.flatten().nonzero()[:, 0]
        asked = tokens.expand(part.shape).flatten()[rows]
        choice = sample_tokens(vectors.flatten(0, 1)[rows], denoiser.head, current_tokens=asked)
        values = choice.current_probability.clamp_min(_LEAST).log()
        if bool(values.isnan().any()):
            raise SmaltiError("the denoiser's output is not finite: its weights or its dtype are unfit")
        found[first : first + at_once].view(-1)[rows] = values
    return found.cpu()


def disbelief(
    denoiser: Denoiser, prompt: PromptBatch, tokens: torch.Tensor, hidden: torch.Tensor, *, at_once: int = 2
) -> torch.Tensor:
    """−log p of every token, the mean over the sights that hide it; (h, w) float32. Arguments as above."""
    found = log_probabilities(denoiser, prompt, tokens, hidden, at_once=at_once)
    return -found.sum(dim=0) / hidden.sum(dim=0).clamp_min(1)


def belief_loss(
    denoiser: Denoiser,
    prompt: PromptBatch,
    reference: PromptBatch,
    tokens: torch.Tensor,
    *,
    passes: int = 5,
    at_once: int = 2,
) -> torch.Tensor:
    """What every token loses when the prompt takes the place of the reference, in nats; (h, w) float32 on the CPU.

    The first pass hides everything, which asks whether the prompt alone speaks for a token: background and colours, of
    which any neighbour in sight tells more than a prompt. The others are complementary sights of the rest
    (`glimpses`), which ask whether it fits what is around it: outlines, and what is where. The loss is the mean of the
    two. It is a property of picture and prompts: the random sights are always the same. Probabilities far below chance
    count as equal.

    Args:
        prompt, reference: one prompt each, with the slots of this grid, on the denoiser's device.
        tokens: (h, w) int64, without masks.
        passes: of the denoiser with each prompt: 1, or at least 3 and at most 1 + the number of 2×2 blocks.
        at_once: as above.

    Raises:
        SmaltiError: `passes` is none of these.
    """
    check_whole("passes", passes)
    if passes == 2:
        raise SmaltiError("passes must be 1, or at least 3 for two complementary sights, not 2")
    height, width = tokens.shape
    sights = torch.ones(1, height, width, dtype=torch.bool)
    if passes > 1:
        block = 2 if denoiser.config.downsample else 1
        generator = torch.Generator().manual_seed(0)
        sights = torch.cat([sights, glimpses(height, width, block, passes - 1, generator)])
    new, old = (
        log_probabilities(denoiser, one, tokens, sights, at_once=at_once) for one in (prompt, reference)
    )
    floor = torch.tensor(math.log(_FLOOR / denoiser.config.codebook_size))
    difference = torch.logaddexp(old, floor) - torch.logaddexp(new, floor)
    if passes == 1:
        return difference[0]
    seen = difference[1:].sum(dim=0) / sights[1:].sum(dim=0)
    return (difference[0] + seen) / 2
