"""What the sampling loop asks a model: candidates and probabilities at some positions of a grid."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch

from smalti.common.checks import check_real
from smalti.common.devices import autocast_off
from smalti.errors import SmaltiError
from smalti.model.classifier import TokenClassifier
from smalti.model.denoiser import Denoiser
from smalti.model.prompt import PromptBatch
from smalti.ops.sample import TokenChoice, check_filters, sample_tokens
from smalti.ops.tilt import Tilt
from smalti.sampling.answers import Answers
from smalti.sampling.guidance import Guidance
from smalti.sampling.guidance_passes import GuidancePasses
from smalti.sampling.passes import Asked, Hidden, Passes
from smalti.sampling.recent import Recent
from smalti.sampling.reuse import Reuse
from smalti.sampling.steering import NoSteering, Steering
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
    """A denoiser with its prompts, guidance, and what is kept from step to step.

    Args:
        denoiser: the model.
        prompt: B prompts, on the denoiser's device.
        guidance: how strongly the prompt is followed.
        negative: B prompts in place of the empty one in the unconditional pass, or None.
        guidance_batched: whether the passes with and without the prompt are one batch.
        guidance_passes: which guided steps compute the unconditional pass; None is all.
        reuse: what passes take from earlier ones; None is nothing, which is exact.
        recent: how many passes `StepView.recent` compares, this one included; 0 is none.
        steering: what tilts the distributions; None is nothing.
        classifier: the classifier that the steering asks, or None.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        prompt: PromptBatch,
        guidance: Guidance,
        *,
        negative: PromptBatch | None = None,
        guidance_batched: bool = True,
        guidance_passes: GuidancePasses | None = None,
        reuse: Reuse | None = None,
        recent: int = 0,
        steering: Steering | None = None,
        classifier: TokenClassifier | None = None,
    ) -> None:
        check_real("guidance scale", guidance.scale)
        self.denoiser, self.prompt, self.guidance = denoiser, prompt, guidance
        if not guidance.scale:
            negative = None
        elif negative is None:
            negative = prompt.unconditional()
        self._passes = Passes(
            denoiser, prompt, negative, batched=guidance_batched, reuse=reuse, skipping=guidance_passes
        )
        self._steering, self._classifier = steering or NoSteering(), classifier
        self._answers: Answers | None = None
        self._compared = recent
        self._recent: Recent | None = None

    @property
    def guesses(self) -> bool:
        """Whether it helps to know which positions a step would reveal by the last predictions."""
        return self._passes.keeps_cells and self._answers is not None

    def keep(self, active: torch.Tensor) -> None:
        """Pass only the images in `active`, (B,) bool, from now on."""
        self._passes.keep(active)

    def last(self, view: StepView) -> StepView:
        """Return the view with what the model last said at each position."""
        if self._answers is None:
            return view
        return replace(self._answers.put(view, self._answers.known), recent=self._recent)

    def forget(self) -> None:
        """Compare the next pass with none of those before."""
        self._recent = None

    def look(
        self,
        view: StepView,
        asked: torch.Tensor,
        *,
        draw: Draw,
        uniform: torch.Tensor | None,
        current: bool,
        step: tuple[int, int],
        expected: torch.Tensor | None = None,
    ) -> StepView:
        """Return the view with what the model says at some positions.

        Args:
            asked: (B, n) bool, the positions.
            draw: how candidates are drawn.
            uniform: (B, n) float in [0, 1), random numbers of the draw, or None for argmax.
            current: whether the probability of the tokens that are there is wanted.
            step: (index, steps), the number of the step from 0 and how many there are.
            expected: (B, n) bool, positions that the step reveals, as far as that is known; None is all masked ones.

        Raises:
            SmaltiError: the model's output is not finite.
        """
        scale = self.guidance.at(*step)
        expected = view.masked if expected is None else expected
        with torch.inference_mode(), autocast_off(self.denoiser.device):
            hidden = self._passes.hidden(
                view.tokens.unflatten(1, view.grid), scale != 0, step, Asked(expected, self._doubt(view))
            )
            # Where nothing was computed, the last answer stands.
            rows = self._unanswered(asked, hidden.fresh, scale).flatten().nonzero()[:, 0]
            drawn = None if uniform is None else uniform.flatten()[rows]
            tilt = self._steering.tilt(view, asked, self._classifier)
            tilt = None if tilt is None else tilt.at(rows)
            choice = self._choose(view, rows, hidden, draw, drawn, current, scale, tilt)
        if bool(choice.probability.isnan().any()):
            raise SmaltiError("the denoiser's output is not finite: its weights or its dtype are unfit")
        answers = Answers.of(view, self._answers, rows, choice, hidden.fresh, scale)
        self._answers = answers if self._passes.keeps_cells else None
        if self._compared:
            self._recent = self._compare(hidden, view.masked & asked, scale)
        return replace(answers.put(view, asked), recent=self._recent)

    def _compare(self, hidden: Hidden, asked: torch.Tensor, scale: float) -> Recent:
        """Return this pass beside those before."""
        guided = hidden.prompted
        if hidden.without is not None:
            guided = (1 + scale) * guided.float() - scale * hidden.without.float()
        earlier = () if self._recent is None else self._recent.hidden
        return Recent(self.denoiser.gen_predictor, (guided, *earlier)[: self._compared], asked)

    def _doubt(self, view: StepView) -> torch.Tensor:
        """Return 1 − p(current) of visible tokens when last asked, (B, n); 0 elsewhere."""
        if self._answers is None:
            return torch.zeros_like(view.probability)
        return torch.where(view.visible & self._answers.known, 1 - self._answers.current_probability, 0.0)

    def _unanswered(self, asked: torch.Tensor, fresh: torch.Tensor, scale: float) -> torch.Tensor:
        """Return the positions whose answer would be another one, or was never asked for."""
        if self._answers is None or self._answers.scale != scale:
            return asked
        return asked & (fresh | ~self._answers.known)

    def _choose(
        self,
        view: StepView,
        rows: torch.Tensor,
        hidden: Hidden,
        draw: Draw,
        uniform: torch.Tensor | None,
        current: bool,
        scale: float,
        tilt: Tilt | None,
    ) -> TokenChoice:
        """Return a choice for the rows of the flattened grid."""
        without = hidden.without
        choose = partial(
            sample_tokens,
            uniform=uniform,
            hidden_uncond=None if without is None else without.flatten(0, 1)[rows],
            guidance_scale=scale,
            temperature=draw.temperature,
            top_k=draw.top_k,
            top_p=draw.top_p,
            current_tokens=view.tokens.flatten()[rows] if current else None,
            tilt=tilt,
        )
        return self.denoiser.gen_predictor.run(choose, hidden.prompted.flatten(0, 1)[rows])
