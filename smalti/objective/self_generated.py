"""The model's own mistakes as training data: it fills some masks itself and learns to revise them to the truth."""

from __future__ import annotations

from collections.abc import Sequence

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
    order: Sequence[int] = (),
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
        share: the probability that a grid is drafted. Of its masks a share that is uniform over (0, 1) is filled,
            anywhere; or with `order` no more than are visible.
        passes: of the denoiser; each fills an equal part, and the later ones see what the earlier ones laid.
        order: n raster indices, if masks are to be filled as a sampler does that reveals tokens in that order: what
            comes first in it first, and with every step about as much as it has laid before. Where nothing is in sight
            nothing is drafted: no draft could be told from another truth there.
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
    place = _places_in_order(masked.cpu(), filled, order) if order else place / filled
    place, uniform = place[chosen].to(device), uniform[chosen].to(device)
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


def _places_in_order(masked: torch.Tensor, filled: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
    """(B, h, w) float, below 1 at the masks that are filled and growing in `order`.

    Args:
        masked: (B, h, w) bool.
        filled: (B, 1, 1), which share of the most that may be filled.
    """
    B, h, w = masked.shape
    order = torch.tensor(order)
    in_order = masked.flatten(1)[:, order]
    most = torch.minimum(in_order.sum(dim=1), (~in_order).sum(dim=1))[:, None]
    count = (filled.flatten(1) * most).ceil()
    place = (in_order.cumsum(dim=1) - 0.5) / count  # infinite where nothing is to be filled
    return torch.empty(B, h * w).scatter(1, order.expand(B, -1), place).view(B, h, w)
