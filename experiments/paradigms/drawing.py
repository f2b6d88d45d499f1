"""Draw images with a trained paradigm: prompts of one length together, passes counted, pixels apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from paradigms import autoregression, flow
from paradigms.training import PlainTask, denoiser_of
from smalti.common.randomness import stream
from smalti.generation.build import make_sampler
from smalti.generation.settings import GenerationSettings
from smalti.model.prompt import PromptBatch
from smalti.sampling.sampler import sample


@dataclass(frozen=True)
class Variant:
    """A way to draw with a trained paradigm.

    Attributes:
        paradigm: which training it uses.
        steps: numbers of steps to measure; (0,) where the number is the model's own.
        base: settings that the search starts from.
        choices: values that the search tries, setting by setting.
    """

    paradigm: str
    steps: tuple[int, ...]
    base: dict[str, Any]
    choices: dict[str, tuple[Any, ...]]


_STEPS = (4, 8, 16, 32, 64)
_GUIDANCE = (0.0, 1.0, 2.0, 4.0, 7.0)
_MASKED = {
    "order": "halton",
    "budget": "shift:20",
    "guidance_scale": 1.0,
    "temperature": 1.0,
    "temperature_schedule": "linear",
}
_MASKED_CHOICES: dict[str, tuple[Any, ...]] = {
    "guidance_scale": _GUIDANCE,
    "temperature": (0.5, 1.0),
    "budget": ("linear", "shift:5", "shift:20"),
    "order": ("halton", "confidence"),
}
_FLOW_CHOICES: dict[str, tuple[Any, ...]] = {
    "guidance_scale": _GUIDANCE,
    "shift": (0.5, 1.0, 2.0, 3.0),
    "snap": (True, False),
}
VARIANTS = {
    "masked": Variant("masked", _STEPS, {**_MASKED, "revision": "none"}, _MASKED_CHOICES),
    "masked, edited": Variant(
        "masked",
        _STEPS,
        {**_MASKED, "revision": "threshold:0.3"},
        {"revision": ("threshold:0.1", "threshold:0.3", "threshold:0.5"), **_MASKED_CHOICES},
    ),
    "autoregressive": Variant(
        "autoregressive",
        (0,),
        {"guidance_scale": 1.0, "temperature": 1.0, "top_p": 1.0},
        {"guidance_scale": _GUIDANCE, "temperature": (0.5, 0.75, 1.0), "top_p": (1.0, 0.9, 0.8)},
    ),
    "flow, Euler": Variant(
        "flow", _STEPS, {"solver": "euler", "guidance_scale": 1.0, "shift": 1.0, "snap": True}, _FLOW_CHOICES
    ),
    "flow, Heun": Variant(
        "flow",
        (2, *_STEPS[:-1]),
        {"solver": "heun", "guidance_scale": 1.0, "shift": 1.0, "snap": True},
        _FLOW_CHOICES,
    ),
}


def draw(
    task: PlainTask, prompt: PromptBatch, steps: int, settings: dict[str, Any], seeds: Sequence[int]
) -> torch.Tensor:
    """Draw images up to the image tokenizer: tokens (B, h, w) int64, or latents' vectors (B, C, h, w) of flows.

    Args:
        task: a trained paradigm.
        prompt: B prompts of one length.
        steps: number of steps, for those that have a choice.
        settings: settings of the paradigm.
        seeds: B seeds of the images.
    """
    model, grid = task.model, task.parts.grid
    generators = [stream(seed, "image") for seed in seeds]
    if isinstance(model, autoregression.Autoregressive):
        found = autoregression.AutoregressiveSettings(**settings)
        return autoregression.generate(model, prompt, grid, found, generators)
    if isinstance(model, flow.Flow):
        return flow.generate(model, prompt, grid, flow.FlowSettings(steps=steps, **settings), generators)
    sampler = make_sampler(GenerationSettings().replaced(num_inference_steps=steps, **settings))
    with torch.no_grad():
        *_, last = sample(model, prompt, grid=grid, sampler=sampler, generators=generators)
    return last.tokens


def decode(task: PlainTask, found: torch.Tensor, settings: dict[str, Any]) -> torch.Tensor:
    """Return the pixels of what `draw` found, (B, 3, H, W) uint8."""
    tokenizer = task.parts.image_tokenizer
    if found.is_floating_point():
        return flow.decode(tokenizer, found, settings["snap"])
    with torch.no_grad():
        return tokenizer.to_pixels(found)


def of_one_length(
    task: PlainTask, texts: Sequence[str], most: int
) -> Iterator[tuple[list[int], PromptBatch]]:
    """Yield prompts of one length each, at most so many, with their numbers. No paradigm computes padding."""
    prompt = task.prompts(list(texts)).to(task.device)
    for length in sorted(set(prompt.lengths.tolist())):
        numbers = (prompt.lengths == length).nonzero()[:, 0].tolist()
        for start in range(0, len(numbers), most):
            part = numbers[start : start + most]
            yield part, prompt.select(part)


class Passes:
    """Number of sequences that went through the backbone; an image with guidance is two of them a pass."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self.count += inputs[0].shape[0]


@contextmanager
def counting_passes(task: PlainTask) -> Iterator[Passes]:
    """Count the sequences that enter the first layer inside the block."""
    passes = Passes()
    handle = denoiser_of(task.model).layers[0].register_forward_pre_hook(passes.add)
    try:
        yield passes
    finally:
        handle.remove()
