"""The images of a batch that are passed through the denoiser together: those with equally long prompts."""

from __future__ import annotations

from typing import NamedTuple

import torch

from smalti.model.prompt import PromptBatch


class Group(NamedTuple):
    """Images with equally long prompts, (b,) indices; their prompts; what guidance passes, as one batch or two."""

    images: torch.Tensor
    prompt: PromptBatch
    guided: list[PromptBatch]


def make_groups(prompt: PromptBatch, active: torch.Tensor, *, guided: bool, batched: bool) -> list[Group]:
    """Cut a batch by the length of the prompt.

    Padding would be computed for nothing, and it moves the last bits of the result, so that a token could
    depend on the prompts of other images.

    Args:
        active: (B,) bool; the others are left out.
        guided: whether there are passes with guidance.
        batched: whether these take the images with and without the prompt as one batch.
    """
    groups = []
    for length in sorted(set(prompt.lengths[active].tolist())):
        images = (active & (prompt.lengths == length)).nonzero()[:, 0]
        part = prompt.select(images)
        both = [part, part.unconditional()] if guided else []
        groups.append(Group(images, part, [PromptBatch.cat(*both)] if guided and batched else both))
    return groups
