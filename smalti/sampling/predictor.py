"""What the sampling loop asks a model: candidates and probabilities at some positions of a grid."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch

from smalti.common.checks import check_real, check_whole
from smalti.common.devices import autocast_off
from smalti.errors import SmaltiError
from smalti.model.denoiser import Denoiser
from smalti.model.prompt import PromptBatch
from smalti.model.reuse import PromptMemory
from smalti.ops.sample import TokenChoice, check_filters, sample_tokens
from smalti.sampling.batches import Batch, make_batches
from smalti.sampling.guidance import Guidance
from smalti.sampling.view import StepView


@dataclass(frozen=True)
class Draw:
    """How a candidate is drawn from the model's distribution.

    Attributes:
        temperature: sampling temperature; 0 means argmax.
        top_k: number of most probable tokens to draw from, or None for all.
        top_p: probability that the tokens to draw from reach, or None for all.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        check_filters(self.temperature, self.top_k, self.top_p)

    def cooled(self, factor: float) -> Draw:
        """Return the same draw at `factor` times the temperature."""
        return replace(self, temperature=self.temperature * factor)


class Predictor:
    """A denoiser with its prompts, guidance and prompt memories.

    Args:
        denoiser: the model.
        prompt: B prompts, on the denoiser's device.
        guidance: how strongly the prompt is followed.
        negative: B prompts in place of the empty one in the unconditional pass, or None.
        guidance_batched: whether the passes with and without the prompt are one batch.
        prompt_every: steps between passes that compute the prompt's positions. In the others their keys and values
            are those of an earlier step, which is an approximation; 1 is exact.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        prompt: PromptBatch,
        guidance: Guidance,
        *,
        negative: PromptBatch | None = None,
        guidance_batched: bool = True,
        prompt_every: int = 1,
    ) -> None:
        check_whole("prompt_every", prompt_every)
        check_real("guidance scale", guidance.scale)
        self.denoiser, self.prompt, self.guidance = denoiser, prompt, guidance
        self._negative = None
        if guidance.scale:
            self._negative = prompt.unconditional() if negative is None else negative
        self._batched, self._prompt_every = guidance_batched, prompt_every
        self._remembers = prompt_every > 1 and denoiser.config.conditioning == "sequence"
        self._active = torch.ones(len(prompt), dtype=torch.bool, device=denoiser.device)
        self._batches = self._make_batches()
        self._memories: list[dict[bool, list[PromptMemory]]] = []

    def keep(self, active: torch.Tensor) -> None:
        """Pass only the images in `active`, (B,) bool, from now on."""
        # Remembered prompts stay together: computed afresh, they would make an image depend on when others end.
        if not self._remembers and not torch.equal(self._active, active):
            self._active = active
            self._batches = self._make_batches()

    def look(
        self,
        view: StepView,
        asked: torch.Tensor,
        *,
        draw: Draw,
        uniform: torch.Tensor | None,
        current: bool,
        step: tuple[int, int],
    ) -> StepView:
        """Return the view with what the model says at some positions.

        Args:
            asked: (B, n) bool, the positions.
            draw: how candidates are drawn.
            uniform: (B, n) float in [0, 1), random numbers of the draw, or None for argmax.
            current: whether the probability of the tokens that are there is wanted.
            step: (index, steps), the number of the step from 0 and how many there are.

        Raises:
            SmaltiError: the model's output is not finite.
        """
        rows = asked.flatten().nonzero()[:, 0]
        drawn = None if uniform is None else uniform.flatten()[rows]
        choice = self._choose(view, rows, draw, drawn, current, step)
        if bool(choice.probability.isnan().any()):
            raise SmaltiError("the denoiser's output is not finite: its weights or its dtype are unfit")
        now = _spread(choice.current_probability, rows, view.current_probability)
        return replace(
            view,
            candidate=_spread(choice.candidate, rows, view.tokens),
            probability=_spread(choice.probability, rows, view.probability),
            current_probability=now,
            entropy=_spread(choice.entropy, rows, view.entropy),
            confidence=torch.maximum(view.confidence, now),
        )

    @torch.inference_mode()
    def _choose(
        self,
        view: StepView,
        rows: torch.Tensor,
        draw: Draw,
        uniform: torch.Tensor | None,
        current: bool,
        step: tuple[int, int],
    ) -> TokenChoice:
        """Return a choice for the rows of the flattened grid."""
        scale = self.guidance.at(*step)
        with autocast_off(self.denoiser.device):
            hidden, without = self._hidden(view.tokens.unflatten(1, view.grid), scale != 0, step[0])
            choose = partial(
                sample_tokens,
                uniform=uniform,
                hidden_uncond=None if without is None else without.flatten(0, 1)[rows],
                guidance_scale=scale,
                temperature=draw.temperature,
                top_k=draw.top_k,
                top_p=draw.top_p,
                current_tokens=view.tokens.flatten()[rows] if current else None,
            )
            return self.denoiser.gen_predictor.run(choose, hidden.flatten(0, 1)[rows])

    def _hidden(
        self, tokens: torch.Tensor, guided: bool, index: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the hidden states, (B, h·w, D), with the prompt and, with guidance, without it."""
        if self._remembers and index % self._prompt_every == 0:
            # One memory for every batch that is passed, by whether guidance is on.
            self._memories = [
                {False: [PromptMemory()], True: [PromptMemory() for _ in batch.guided]}
                for batch in self._batches
            ]
        shape = (*tokens.shape[:1], tokens[0].numel(), self.denoiser.config.hidden_size)
        hidden = without = None
        for number, batch in enumerate(self._batches):
            part = tokens[batch.images]
            prompts = batch.guided if guided else [batch.prompt]
            memories = self._memories[number][guided] if self._memories else [None] * len(prompts)
            passes = [
                self.denoiser(part, prompt, memory) for prompt, memory in zip(prompts, memories, strict=True)
            ]
            if guided:
                found, other = passes if len(passes) == 2 else passes[0].chunk(2)
                without = other.new_empty(shape) if without is None else without
                without[batch.images] = other
            else:
                found = passes[0]
            hidden = found.new_empty(shape) if hidden is None else hidden
            hidden[batch.images] = found
        assert hidden is not None  # at least one image is active
        return hidden, without

    def _make_batches(self) -> list[Batch]:
        return make_batches(self.prompt, self._negative, self._active, batched=self._batched)


def _spread(values: torch.Tensor | None, rows: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Return `values` at `rows` of the flattened (B, n) grid, `others` elsewhere, everywhere without values."""
    return others if values is None else others.flatten().scatter(0, rows, values).view(others.shape)
