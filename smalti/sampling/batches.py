"""The images of a batch that pass through the denoiser together: those with equally long prompts."""

from __future__ import annotations

from typing import NamedTuple

import torch

from smalti.model.prompt import PromptBatch


class Batch(NamedTuple):
    """Images that pass through the denoiser together.

    Attributes:
        images: (b,) int64, their indices.
        prompt: their prompts.
        guided: what a pass with guidance reads: one batch with both kinds of prompts, or two; empty without guidance.
    """

    images: torch.Tensor
    prompt: PromptBatch
    guided: list[PromptBatch]


def make_batches(
    prompt: PromptBatch, negative: PromptBatch | None, active: torch.Tensor, *, batched: bool
) -> list[Batch]:
    """Cut a batch by the lengths of the prompts.

    Padding would be computed for nothing, and it moves the last bits of the result, so that a token could depend on the
    prompts of other images.

    Args:
        prompt: B prompts.
        negative: B prompts of the unconditional pass, or None without guidance.
        active: (B,) bool; the others are left out.
        batched: whether a pass with guidance takes both kinds as one batch, where they are equally long.
    """
    lengths = [prompt.lengths, prompt.lengths if negative is None else negative.lengths]
    pairs = torch.stack(lengths, dim=1)
    batches = []
    for pair in sorted(set(map(tuple, pairs[active].tolist()))):
        images = (active & (pairs == pairs.new_tensor(pair)).all(dim=1)).nonzero()[:, 0]
        part = prompt.select(images)
        both = [] if negative is None else [part, negative.select(images)]
        together = batched and both and pair[0] == pair[1]
        batches.append(Batch(images, part, [PromptBatch.cat(*both)] if together else both))
    return batches
