"""A second, smaller model that says which candidates of the first one to accept (FlashDLM, arXiv 2505.21467)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch

from smalti.common.devices import autocast_off
from smalti.model.denoiser import Denoiser
from smalti.model.prompt import PromptBatch
from smalti.ops.sample import sample_tokens
from smalti.sampling.batches import make_batches
from smalti.sampling.view import StepView


@dataclass(frozen=True, eq=False)
class Verifier:
    """A denoiser with its own prompts, which looks at a grid with all candidates in place.

    Attributes:
        denoiser: a model with the same codes.
        prompt: B prompts as it reads them, on its device.
    """

    denoiser: Denoiser
    prompt: PromptBatch

    @torch.inference_mode()
    def judge(self, view: StepView, active: torch.Tensor) -> StepView:
        """Return the view with `agreement` at the masked positions of active images, (B,) bool; 0 elsewhere."""
        device = self.denoiser.device
        filled = torch.where(view.masked, view.candidate, view.tokens).to(device)
        masked, active = (view.masked & active[:, None]).to(device), active.to(device)
        agreement = torch.zeros(masked.shape, dtype=torch.float32, device=device)
        # Prompts of one length pass together, so that an image does not depend on its batch mates.
        for batch in make_batches(self.prompt, None, active, batched=False):
            grids, asked = filled[batch.images], masked[batch.images]
            rows = asked.flatten().nonzero()[:, 0]
            with autocast_off(device):
                hidden = self.denoiser(grids.unflatten(1, view.grid), batch.prompt).flatten(0, 1)[rows]
                choose = partial(sample_tokens, current_tokens=grids.flatten()[rows])
                choice = self.denoiser.gen_predictor.run(choose, hidden)
            assert choice.current_probability is not None  # it was asked for
            share = choice.current_probability / choice.probability
            agreement[batch.images] = torch.zeros_like(asked, dtype=torch.float32).masked_scatter(
                asked, share
            )
        return replace(view, agreement=agreement.to(view.masked.device))
