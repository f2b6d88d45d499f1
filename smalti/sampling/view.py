"""What the rules of a sampler see of a step, numbers per position and never logits; what its caller sees and says."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from smalti.sampling.recent import Recent


@dataclass(frozen=True)
class StepView:
    """One step, before anything is revealed, edited or masked again. Tensors are (B, n), n = h·w in raster order.

    Attributes:
        index: number of the step, from 0, among those that fill the grid or, later, those that refine it.
        steps: how many of these there are.
        grid: (h, w) in tokens.
        masked: bool, positions that may be revealed.
        visible: bool, positions that may be edited or masked again. The caller fixes those that are neither.
        tokens: int64, the grid, with the mask id at masked positions.
        candidate: int64, what the model would put there (x₀). This and the following hold at masked positions, unless
            the order is fixed, and at visible ones while revision is on.
        probability: float32, p(x₀) at temperature 1.
        current_probability: float32, p of the token that is there; 0 at masked positions and without revision.
        entropy: float32, entropy of p in nats.
        noise: float32 in [0, 1), a fresh random number a position from each image's own generator, or None if the
            order asks for none.
        confidence: float32, the highest probability that the token which is there has had: its own when it was
            revealed, and `current_probability` at every step since, this one included. A new token starts afresh.
            0 at masked positions and where the head was never applied to a token.
        remaining: (B,) int64, how many positions the budget leaves masked after this step.
        past: (candidate, probability) of earlier steps, newest first, at most as many as the order asks for.
        agreement: float32 in [0, 1], a second model's p(x₀) at masked positions as a share of its largest p there. None
            unless the budget asks for it.
        recent: what the predictions of the last passes have in common at masked positions. None unless the order or the
            budget asks for it.
        remaskings: int64, how often each position has been masked again.
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
    confidence: torch.Tensor
    remaining: torch.Tensor
    past: tuple[tuple[torch.Tensor, torch.Tensor], ...] = ()
    agreement: torch.Tensor | None = None
    recent: Recent | None = None
    remaskings: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class Step:
    """The state after one step. The last step's tokens are the result.

    Attributes:
        index: number of the step, from 0.
        steps: largest number of steps; an adaptive budget may take fewer.
        tokens: (B, h, w) int64, the mask id where still unknown.
        candidate: (B, h, w) int64, what the model would put at each position; the token that was there where the head
            was not applied. With `preview` it is known at every masked position, and decodes to a preview.
        revealed: (B, h, w) bool, positions that this step filled.
        edited: (B, h, w) bool, visible tokens that this step changed.
        remasked: (B, h, w) bool, visible tokens that this step masked again.
        probability: (B, h, w) float32, p of this step's candidate where the head was applied, else 0.
        active: (B,) bool, images that this step worked on. False is a grid that an adaptive budget had filled before.
        passed: whether the denoiser ran; a light layer may have taken its place.
    """

    index: int
    steps: int
    tokens: torch.Tensor
    candidate: torch.Tensor
    revealed: torch.Tensor
    edited: torch.Tensor
    remasked: torch.Tensor
    probability: torch.Tensor
    active: torch.Tensor
    passed: bool = True


@dataclass(frozen=True, eq=False)
class Control:
    """What a caller may change between two steps, by sending it to the generator of `sample`.

    Attributes:
        preview: whether `Step.candidate` is wanted at every masked position from now on.
        images: (B,) bool, the images to go on with. The others stay as they are, and cost nothing more; what is left
            out once does not come back.
        tokens: (B, h, w) int64, grids in place of the state's, the mask id where unknown; None leaves them. Tokens that
            must not change stay.
    """

    preview: bool
    images: torch.Tensor
    tokens: torch.Tensor | None = None
