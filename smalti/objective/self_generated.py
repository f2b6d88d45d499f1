"""Self-generated inputs: the model fills some masks itself and learns to revise what it filled."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from smalti.common.randomness import Draws
from smalti.model.denoiser import Denoiser
from smalti.model.prompt import PromptBatch
from smalti.objective.corruption import Corrupted
from smalti.ops.sample import sample_tokens


@torch.no_grad()
def fill_with_samples(
    denoiser: Denoiser,
    corrupted: Corrupted,
    prompt: PromptBatch,
    *,
    share: float,
    passes: int,
    order: Sequence[int] = (),
    draws: Draws,
    in_step: bool = False,
) -> Corrupted:
    """Let the denoiser fill part of the masks of some grids by sampling at temperature 1.

    Random wrong tokens differ from the tokens that a sampler fills. Self-generated tokens do not: each is likely, and
    several are wrong together. Filled positions become visible, so the loss asks for the true token there
    with the weight of visible tokens.

    Args:
        denoiser: the model, which gets no gradient here.
        corrupted: tokens and masked (B, h, w), on the denoiser's device.
        prompt: B prompts.
        share: probability that masks of a grid are filled. The filled fraction of its masks is uniform over (0, 1).
        passes: number of passes of the denoiser. Each fills an equal part and sees what earlier passes filled.
        order: n raster indices, or () to fill masks anywhere. With an order, masks are filled as a sampler with that
            order fills them, and at most as many as there are visible tokens. A grid without visible tokens stays as
            it is, because any sample could be right there.
        draws: source of all random numbers, B items.
        in_step: whether all passes are computed even where nothing is filled. Processes that hold shards of the
            denoiser take part in each other's passes, so all of them need the same number.

    Returns:
        A new batch; `corrupted` stays as it is.
    """
    tokens, masked = corrupted
    B, h, w = tokens.shape
    device = tokens.device
    # Every grid gets its numbers, whether it is chosen or not.
    numbers = draws.uniform(2 + 2 * h * w)
    chosen, fraction = numbers[:, 0] < share, numbers[:, 1, None, None]
    place, uniform = numbers[:, 2:].view(B, 2, h, w).unbind(dim=1)
    images = chosen.nonzero()[:, 0].to(device)
    nothing = len(images) == 0
    if nothing and not in_step:
        return corrupted
    if nothing:
        images, chosen = torch.zeros(1, dtype=torch.int64, device=device), torch.arange(B) == 0
    place = _places_in_order(masked.cpu(), fraction, order) if order else place / fraction
    place, uniform = place[chosen].to(device), uniform[chosen].to(device)
    part, still = _fill(
        denoiser, tokens[images], masked[images], prompt.select(images), place, uniform, passes, in_step
    )
    if nothing:
        return corrupted
    tokens, masked = tokens.clone(), masked.clone()
    tokens[images], masked[images] = part, still
    return Corrupted(tokens, masked)


def _fill(
    denoiser: Denoiser,
    tokens: torch.Tensor,
    masked: torch.Tensor,
    prompt: PromptBatch,
    place: torch.Tensor,
    uniform: torch.Tensor,
    passes: int,
    in_step: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fill the masks whose place is below 1, a slice of them in each pass.

    Args:
        denoiser: the model.
        tokens, masked: (B, h, w) int64 and bool.
        prompt: B prompts.
        place, uniform: (B, h, w) float: the time at which a mask is filled, and the number that draws its token.
        passes: number of passes.
        in_step: whether a pass is computed even if it fills nothing.

    Returns:
        The tokens, and the positions that are still masked.
    """
    for index in range(passes):
        now = masked & (place < (index + 1) / passes)
        rows = now.flatten().nonzero()[:, 0]
        if len(rows) == 0 and not in_step:
            continue
        draw = partial(sample_tokens, uniform=uniform.flatten()[rows])
        choice = denoiser.gen_predictor.run(draw, denoiser(tokens, prompt).flatten(0, 1)[rows])
        tokens = tokens.flatten().scatter(0, rows, choice.candidate).view(tokens.shape)
        masked = masked & ~now
    return tokens, masked


def _places_in_order(masked: torch.Tensor, fraction: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
    """Return (B, h, w) floats that grow along `order` and are below 1 at the masks to fill.

    Args:
        masked: (B, h, w) bool.
        fraction: (B, 1, 1) float, filled fraction of the largest number of masks that may be filled.
        order: n raster indices.
    """
    B, h, w = masked.shape
    indices = torch.tensor(order)
    in_order = masked.flatten(1)[:, indices]
    most = torch.minimum(in_order.sum(dim=1), (~in_order).sum(dim=1))[:, None]
    count = (fraction.flatten(1) * most).ceil()
    place = (in_order.cumsum(dim=1) - 0.5) / count  # infinite where nothing may be filled
    return torch.empty(B, h * w).scatter(1, indices.expand(B, -1), place).view(B, h, w)
