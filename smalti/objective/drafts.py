"""The model's own mistakes as training data: it fills some masks itself and learns to revise them to the truth."""

from __future__ import annotations

import torch

from smalti.model.denoiser import Denoiser
from smalti.model.prompt import PromptBatch
from smalti.objective.corruption import Corrupted
from smalti.ops.sample import sample_tokens


@torch.no_grad()
def draft(
    denoiser: Denoiser,
    corrupted: Corrupted,
    prompt: PromptBatch,
    *,
    share: float,
    passes: int,
    generator: torch.Generator,
) -> Corrupted:
    """Let the denoiser fill part of the masks of some grids, as if it were sampling at temperature 1.

    Random wrong tokens look like nothing that a sampler lays; these look exactly like it: likely each for itself, and
    wrong together. Drafted positions become visible ones, so the loss asks for the true token there with the weight of
    visible tokens.

    Args:
        denoiser: as it is; nothing is learned here.
        corrupted: tokens and masked (B, h, w), on the denoiser's device.
        prompt: B prompts.
        share: the probability that a grid is drafted. Of its masks a share that is uniform over (0, 1) is filled.
        passes: of the denoiser; each fills an equal part, and the later ones see what the earlier ones laid.
        generator: of every random number, on the CPU.
    """
    tokens, masked = corrupted
    B, h, w = tokens.shape
    device = tokens.device
    # All are drawn for every grid, so that a grid's numbers do not depend on the others.
    chosen = torch.rand(B, generator=generator) < share
    filled = torch.rand(B, 1, 1, generator=generator)
    place = torch.rand(B, h, w, generator=generator)
    uniform = torch.rand(B, h, w, generator=generator)
    images = chosen.nonzero()[:, 0].to(device)
    if len(images) == 0:
        return corrupted
    place, uniform = (place / filled)[chosen].to(device), uniform[chosen].to(device)
    part, still, prompt = tokens[images], masked[images], prompt.select(images)
    for index in range(passes):
        # A place below 1 is to be filled; each pass fills a slice of those.
        now = still & (place < (index + 1) / passes)
        rows = now.flatten().nonzero()[:, 0]
        if len(rows) == 0:
            continue
        hidden = denoiser(part, prompt).flatten(0, 1)[rows]
        choice = sample_tokens(
            hidden,
            denoiser.head,
            uniform.flatten()[rows],
            hidden_uncond=None,
            guidance_scale=0.0,
            temperature=1.0,
        )
        part = part.flatten().scatter(0, rows, choice.candidate).view(part.shape)
        still = still & ~now
    tokens, masked = tokens.clone(), masked.clone()
    tokens[images], masked[images] = part, still
    return Corrupted(tokens, masked)
