"""What the rules of a sampler see of a step: numbers a position, never logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class StepView:
    """One step, before anything is revealed or edited. All tensors are (B, n), n = h·w in raster order.

    Attributes:
        index: the step, from 0.
        steps: how many there are.
        grid: (h, w).
        masked: bool, positions that may be revealed.
        visible: bool, positions that may be edited; those that are neither are fixed by the caller.
        tokens: int64, the grid, with the mask id at masked positions.
        candidate: int64, what the model would put there (x₀). This and the following are meaningful at masked
            positions, and at visible ones while editing is on.
        probability: float32, p(x₀) at temperature 1.
        current_probability: float32, p of the token that is there; 0 at masked positions and while editing is
            off.
        entropy: float32, of p in nats.
        noise: float32 in [0, 1), a fresh random number a position from each image's own generator, or None if
            the order asks for none.
    """

    index: int
    steps: int
    grid: tuple[int, int]
    masked: torch.Tensor
    visible: torch.Tensor
    tokens: torch.Tensor
    candidate: torch.Tensor
    probability: torch.Tensor
    current_probability: torch.Tensor
    entropy: torch.Tensor
    noise: torch.Tensor | None
