"""Refinement: when the grid is full, tokens of rare codes are masked again and filled in sight of the others.

The first tokens of a picture are drawn with next to nothing in sight, and what they settle by chance, later ones agree
with: the outline of a square where the prompt asks for a circle of that colour. No rule that looks at one token at a
time finds fault with it, because the tokens around it say the same. Plain areas settle little: they say which colour is
where, but not of what. So refinement keeps the codes that are common and lays the rare ones again, all at once; what
they become then follows from the plain areas and the prompt. Training with `objective.rare_first` shows such grids.

That a sampler masks again and refills is known (ReMDM, arXiv 2503.00307); which tokens, and when, is our own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from smalti.common.checks import check_real
from smalti.model.denoiser import Denoiser
from smalti.model.prompt import PromptBatch

_LOGITS = 2**24  # at a time


@dataclass(frozen=True)
class Refinement:
    """Spend the last steps on laying rare tokens again.

    Attributes:
        share: of the steps, rounded down; 0 is no refinement.
        frequency: a code is rare if the model, of a grid without a prompt and with nothing in sight, expects it at a
            smaller share of the positions.
    """

    share: float = 0.3
    frequency: float = 0.004

    def __post_init__(self) -> None:
        check_real("refine share", self.share, 0, 1)
        check_real("refine frequency", self.frequency, 0, 1)

    def steps(self, steps: int) -> int:
        """How many of so many steps refine; at least one is left to fill the grid."""
        return min(int(self.share * steps + 1e-9), steps - 1)


@torch.inference_mode()
def code_frequencies(denoiser: Denoiser, prompt: PromptBatch, grid: tuple[int, int]) -> torch.Tensor:
    """How often the model expects each code where it knows nothing: (B, V) float32, each row summing to 1.

    The mean over positions of its prediction for a grid of masks without a prompt. Prompts that are the same without
    their words, as those of one length are, share a pass of one picture; the logits are never all there.

    Args:
        prompt: B prompts with the slots of this grid, on the denoiser's device.
        grid: (h, w) in tokens.
    """
    head = denoiser.head
    tokens = torch.full((1, *grid), denoiser.config.mask_code, device=head.device)
    found: dict[tuple[int, ...], torch.Tensor] = {}
    rows = max(1, _LOGITS // len(head))
    frequencies = []
    for image in range(len(prompt)):
        alone = prompt.select([image]).unconditional()
        key = tuple(alone.ids[0].tolist())
        if key not in found:
            hidden = denoiser(tokens, alone)[0]
            sums = [(part @ head.T).float().softmax(dim=-1).sum(dim=0) for part in hidden.split(rows)]
            found[key] = torch.stack(sums).sum(dim=0) / len(hidden)
        frequencies.append(found[key])
    return torch.stack(frequencies)
