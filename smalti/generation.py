"""One generation: how it samples, the seeds of its pictures, its steps, and what comes out."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from smalti.common.checks import check_choice
from smalti.common.images import to_pil
from smalti.errors import SmaltiError
from smalti.sampling.adaptive import AdaptiveBudget
from smalti.sampling.guidance import Guidance
from smalti.sampling.orders import make_order
from smalti.sampling.refinement import Refinement
from smalti.sampling.revision import (
    Editing,
    NoEditing,
    RunningConfidenceEditing,
    ThresholdEditing,
    TokenToMaskEditing,
)
from smalti.sampling.sampler import Sampler, Step
from smalti.sampling.schedules import (
    CosineBudget,
    CosineTemperature,
    ExponentialTemperature,
    LinearBudget,
    LinearTemperature,
    ShiftBudget,
    ShiftTemperature,
)
from smalti.settings import GenerationSettings

OUTPUT_TYPES = ("pil", "np", "pt", "tokens")
_LARGEST_SEED = 2**63 - 1
_SCHEDULES = {
    "constant": None,
    "linear": LinearTemperature(),
    "cosine": CosineTemperature(),
    "shift": ShiftTemperature(),
    "exponential": ExponentialTemperature(),
}
_EDITINGS = {
    "threshold": ThresholdEditing,
    "token_to_mask": TokenToMaskEditing,
    "running_confidence": RunningConfidenceEditing,
}


@dataclass(frozen=True, eq=False)
class PipelineOutput:
    """Pictures and how they came about.

    Lists have an entry a picture, all pictures of the first prompt first.

    Attributes:
        images: what `output_type` asked for: "pil" a list of pictures, "np" (B, H, W, 3) float32 in [0, 1],
            "pt" (B, 3, H, W) float32 in [0, 1] on the CPU, "tokens" the same as `tokens`.
        tokens: (B, h, w) int64 on the CPU.
        prompts: the prompt of each picture.
        seeds: the seed of each picture; alone with its seed it comes out the same.
        settings: every setting, defaults included.
        seconds: "prompt", "denoise", "decode" and their sum, "total".
        tokens_edited: how often, in each picture, a token that was already set was changed.
        tokens_remasked: how often one was masked again.
        passes: of the denoiser, for each picture; only with the budget "adaptive" fewer than `num_inference_steps`.
    """

    images: list[Image.Image] | np.ndarray | torch.Tensor
    tokens: torch.Tensor
    prompts: list[str]
    seeds: list[int]
    settings: GenerationSettings
    seconds: dict[str, float]
    tokens_edited: list[int]
    tokens_remasked: list[int]
    passes: list[int]


class Generation:
    """A generation in progress: iterate over it for its `Step`s, ask it for its `output` at the end.

    Attributes:
        prompts, seeds, settings: as in `PipelineOutput`, known from the start.
    """

    def __init__(
        self,
        steps: Iterator[Step],
        decode: Callable[[torch.Tensor], torch.Tensor],
        prompts: list[str],
        seeds: list[int],
        settings: GenerationSettings,
        prompt_seconds: float,
    ) -> None:
        self.prompts, self.seeds, self.settings = prompts, seeds, settings
        self._steps, self._decode = steps, decode
        self._seconds = {"prompt": prompt_seconds, "denoise": 0.0}
        self._edited, self._remasked, self._passes = torch.zeros(3, len(prompts), dtype=torch.int64)
        self._tokens: torch.Tensor | None = None

    def __iter__(self) -> Iterator[Step]:
        return self

    def __next__(self) -> Step:
        started = time.perf_counter()
        with torch.inference_mode():
            step = next(self._steps)
            self._edited += step.edited.sum(dim=(1, 2)).cpu()
            self._remasked += step.remasked.sum(dim=(1, 2)).cpu()
            self._passes += step.active.cpu()
        # Copying to the CPU waits for the device, so the clock sees all of the step.
        self._tokens = step.tokens
        self._seconds["denoise"] += time.perf_counter() - started
        return step

    def output(self, output_type: str = "pil") -> PipelineOutput:
        """Take the steps that are left, decode the tokens; the pictures and how they came about."""
        check_choice("output_type", output_type, OUTPUT_TYPES)
        for _ in self:
            pass
        started = time.perf_counter()
        # Outside of inference mode, so that the caller may do with the tensors what they like.
        tokens = self._tokens.cpu().clone()
        images: Any = tokens
        if output_type != "tokens":
            pixels = self._decode(tokens)
            if output_type == "pil":
                images = [to_pil(image) for image in pixels.permute(0, 2, 3, 1).numpy()]
            else:
                images = pixels.float() / 255
                images = images.permute(0, 2, 3, 1).numpy() if output_type == "np" else images
        seconds = {**self._seconds, "decode": time.perf_counter() - started}
        return PipelineOutput(
            images=images,
            tokens=tokens,
            prompts=self.prompts,
            seeds=self.seeds,
            settings=self.settings,
            seconds={**seconds, "total": sum(seconds.values())},
            tokens_edited=self._edited.tolist(),
            tokens_remasked=self._remasked.tolist(),
            passes=self._passes.tolist(),
        )


def make_sampler(settings: GenerationSettings, *, guidance_batched: bool = True) -> Sampler:
    """The composition of rules that settings stand for; `guidance_batched` as in `Sampler`."""
    budgets = {
        "shift": ShiftBudget(settings.shift),
        "cosine": CosineBudget(),
        "linear": LinearBudget(),
        "adaptive": AdaptiveBudget(settings.adaptive_threshold, *settings.adaptive_range),
    }
    editing: Editing = NoEditing()
    if settings.edit_threshold:
        editing = _EDITINGS[settings.edit_rule](settings.edit_threshold)
    refinement = None
    if settings.refine_share and settings.budget != "adaptive":
        refinement = Refinement(settings.refine_share, settings.refine_frequency)
    return Sampler(
        steps=settings.num_inference_steps,
        budget=budgets[settings.budget],
        order=make_order(
            settings.order, settings.order_temperature, _SCHEDULES[settings.order_temperature_schedule]
        ),
        editing=editing,
        refinement=refinement,
        guidance=Guidance(settings.guidance_scale, settings.guidance_interval),
        draw=settings.draw,
        temperature=settings.temperature,
        temperature_schedule=_SCHEDULES[settings.temperature_schedule],
        top_k=settings.top_k or None,
        top_p=settings.top_p if settings.top_p < 1 else None,
        final=settings.final,
        prompt_every=settings.reuse_every if settings.reuse == "prompt" else 1,
        guidance_batched=guidance_batched,
    )


def picture_seeds(
    seed: int | Sequence[int] | None,
    generator: torch.Generator | Sequence[torch.Generator] | None,
    prompts: int,
    images_per_prompt: int,
) -> list[int]:
    """A seed for each of prompts · images_per_prompt pictures, all of the first prompt first.

    Args:
        seed: picture k of every prompt gets seed + k; a list has one a picture; None draws a seed.
        generator: in place of a seed: one that all pictures draw theirs from, or a list with one a picture.

    Raises:
        SmaltiError: both are given, or one of the wrong kind, range or length.
    """
    count = prompts * images_per_prompt
    if generator is not None:
        if seed is not None:
            raise SmaltiError("seed and generator must not both be given")
        generators = [generator] * count if isinstance(generator, torch.Generator) else generator
        known = isinstance(generators, list | tuple) and len(generators) == count
        if not known or not all(isinstance(entry, torch.Generator) for entry in generators):
            raise SmaltiError(f"generator must be a torch.Generator or a list of {count}, one a picture")
        return [
            int(torch.randint(2**53, (), generator=entry, device=entry.device).item()) for entry in generators
        ]
    if isinstance(seed, list | tuple):
        if len(seed) != count:
            raise SmaltiError(
                f"seed must be a number or a list of {count}, one a picture, not of {len(seed)}"
            )
        seeds = list(seed)
    else:
        # A process's own random state starts out the same every time, so it is no source of new seeds.
        first = secrets.randbelow(2**32) if seed is None else seed
        _check_seed(first)
        seeds = [first + index for _ in range(prompts) for index in range(images_per_prompt)]
    for number in seeds:
        _check_seed(number)
    return seeds


def _check_seed(seed: Any) -> None:
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= _LARGEST_SEED:
        raise SmaltiError(f"seed must be a whole number from 0 to {_LARGEST_SEED}, not {seed!r}")
