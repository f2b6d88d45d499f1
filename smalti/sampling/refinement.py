"""Refinement: when the grid is full, some tokens are masked again and filled while the others stay visible.

The first tokens of an image are drawn while almost nothing is visible. Later tokens agree with whatever they settled by
chance: the outline of a square where the prompt asks for a circle of that colour. No rule that judges one token at a
time finds fault with it, because the tokens around it say the same. Plain areas settle little: they say which colour is
where, but not the shape. So refinement keeps the tokens of common codes and samples those of rare codes again, all at
once; what they become follows from the plain areas and the prompt. Training with the masking rule "rare_first" shows
such grids.

Masking again and refilling is known (ReMDM, arXiv 2503.00307); which tokens, and when, is a Smalti extension.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from smalti.common.checks import check_real
from smalti.common.devices import autocast_off
from smalti.common.low_rank import LowRank
from smalti.model.denoiser import Denoiser
from smalti.model.prompt import PromptBatch

_LOGITS = 2**24  # at a time

Finder = Callable[[torch.Tensor], torch.Tensor]


class Refinement(Protocol):
    """A rule for how many of the last steps refine the grid, and which tokens they sample again.

    Example:
        >>> RareRefinement(share=0.25).steps(32)
        8
    """

    def steps(self, steps: int) -> int:
        """Return how many of so many steps refine; at least one is left to fill the grid."""
        return 0

    def finder(self, denoiser: Denoiser, prompt: PromptBatch, grid: tuple[int, int]) -> Finder:
        """Return a function of tokens, (B, n) int64, that gives the positions to mask again, (B, n) bool."""
        return lambda tokens: torch.zeros_like(tokens, dtype=torch.bool)


@dataclass(frozen=True)
class NoRefinement(Refinement):
    """Spend every step on filling the grid."""


@dataclass(frozen=True)
class RareRefinement(Refinement):
    """Spend the last steps on sampling tokens of rare codes again, while the others stay visible.

    Attributes:
        share: fraction of the steps, rounded down; 0 is no refinement.
        frequency: share of the positions below which a code is rare; the model expects the shares, from a grid of
            masks and without a prompt.
    """

    share: float = 0.3
    frequency: float = 0.004

    def __post_init__(self) -> None:
        check_real("share", self.share, 0, 1)
        check_real("frequency", self.frequency, 0, 1)

    def steps(self, steps: int) -> int:
        """Return how many of so many steps refine; at least one is left to fill the grid."""
        return min(int(self.share * steps + 1e-9), steps - 1)

    def finder(self, denoiser: Denoiser, prompt: PromptBatch, grid: tuple[int, int]) -> Finder:
        """Return a function of tokens, (B, n) int64, that gives the positions of rare codes, (B, n) bool."""
        frequencies = code_frequencies(denoiser, prompt, grid)
        return lambda tokens: frequencies.gather(1, tokens) < self.frequency


REFINEMENTS: dict[str, type[Refinement]] = {"none": NoRefinement, "rare": RareRefinement}
"""Every refinement by the name that settings use."""


@torch.inference_mode()
def code_frequencies(denoiser: Denoiser, prompt: PromptBatch, grid: tuple[int, int]) -> torch.Tensor:
    """Return how often the model expects each code where it knows nothing, (B, V) float32, each row summing to 1.

    This is the mean over positions of its prediction for a grid of masks without a prompt. Prompts that are the same
    without their words share a pass of one image; the logits are never all there.

    Args:
        prompt: B prompts with the slots of this grid, on the denoiser's device.
        grid: (h, w) in tokens.
    """
    device = prompt.ids.device
    tokens = torch.full((1, *grid), denoiser.config.mask_code, device=device)
    found: dict[tuple[int, ...], torch.Tensor] = {}
    frequencies = []
    for image in range(len(prompt)):
        alone = prompt.select([image]).unconditional()
        key = tuple(alone.ids[0].tolist())
        if key not in found:
            with autocast_off(device):
                found[key] = denoiser.gen_predictor.run(_mean_probability, denoiser(tokens, alone)[0])
        frequencies.append(found[key])
    return torch.stack(frequencies)


def _mean_probability(
    hidden: torch.Tensor, head: torch.Tensor, low_rank: LowRank | None = None
) -> torch.Tensor:
    """Return the mean over rows of the softmax of their logits, (V,) float32."""
    rows = max(1, _LOGITS // len(head))
    sums = []
    for part in hidden.split(rows):
        logits = part @ head.T
        if low_rank is not None:
            low_rank.add_to(logits, part)
        sums.append(logits.float().softmax(dim=-1).sum(dim=0))
    return torch.stack(sums).sum(dim=0) / len(hidden)
