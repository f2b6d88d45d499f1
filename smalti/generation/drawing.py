"""One generation, step by step: `start` checks everything, the `Generation` takes the steps and decodes the images."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import torch

from smalti.common.checks import check_choice, check_whole, quoted
from smalti.common.images import to_images
from smalti.common.randomness import generator as seeded
from smalti.components import Components
from smalti.errors import SmaltiError
from smalti.generation.build import make_sampler
from smalti.generation.result import OUTPUT_TYPES, PipelineOutput
from smalti.generation.seeds import image_seeds
from smalti.generation.settings import GenerationSettings, check_settings
from smalti.sampling.sampler import Sampler, sample
from smalti.sampling.state import check_tokens
from smalti.sampling.verifier import Verifier
from smalti.sampling.view import Control, Step


class Generation:
    """A generation in progress: iterate over it for its `Step`s, then ask it for its `output`.

    Attributes:
        prompts, negative_prompts, seeds, settings: as in `PipelineOutput`, known from the start.
        preview: whether the next step's candidates are wanted at every masked position; it may be set between steps.
    """

    def __init__(
        self,
        components: Components,
        steps: Generator[Step, Control | None, None],
        prompts: list[str],
        negative_prompts: list[str] | None,
        seeds: list[int],
        settings: GenerationSettings,
        prompt_seconds: float,
        preview: bool = False,
        editable: torch.Tensor | None = None,
    ) -> None:
        self.prompts, self.negative_prompts = prompts, negative_prompts
        self.seeds, self.settings = seeds, settings
        self._components, self._steps = components, steps
        self._seconds = {"prompt": prompt_seconds, "denoise": 0.0}
        self._edited, self._remasked, self._passes = torch.zeros(
            3, len(prompts), dtype=torch.int64, device="cpu"
        )
        self._tokens: torch.Tensor | None = None
        self.preview, self._editable = preview, editable
        self._replaced: torch.Tensor | None = None
        self._wanted, self._told = torch.ones(len(prompts), dtype=torch.bool, device="cpu"), preview

    def drop(self, image: int) -> None:
        """Leave an image as it is from the next step on; the others are drawn as if nothing had happened.

        `output` cannot decode a dropped image: ask it for "tokens", which hold masks.

        Args:
            image: index of the image in the batch.

        Example:
            >>> import smalti
            >>> generation = smalti.load("scenes").start(["a red circle", "a blue square"], seed=[0, 1])
            >>> first = next(generation)
            >>> generation.drop(0)
            >>> next(generation).active.tolist()
            [False, True]
        """
        self._wanted[image] = False

    def replace(self, tokens: torch.Tensor) -> torch.Tensor:
        """Put other tokens in place of the grids after the latest step, and return the grids as they are then.

        Args:
            tokens: (B, h, w) int64, the mask id where unknown. Tokens that an edit keeps stay as they are.

        Returns:
            (B, h, w) int64: what the next step goes on from, or the result after the last step.

        Raises:
            SmaltiError: the tokens are of another shape or dtype, or no codes; there was no step yet.

        Example:
            >>> import smalti
            >>> generation = smalti.load("scenes").start("a red circle", seed=0)
            >>> step = next(generation)
            >>> int(generation.replace(torch.full_like(step.tokens, 7)).max())
            7
            >>> next(generation).revealed.sum().item()
            0
        """
        if self._tokens is None:
            raise SmaltiError("tokens can be replaced after a step, not before the first", argument="tokens")
        check_tokens("tokens", tokens, tuple(self._tokens.shape), self._components.denoiser.config)
        if self._editable is not None:
            kept = self._tokens.to(tokens.device)
            tokens = torch.where(self._editable.to(tokens.device), tokens, kept)
        self._tokens = self._replaced = tokens
        return tokens

    def __iter__(self) -> Iterator[Step]:
        return self

    def __next__(self) -> Step:
        started = time.perf_counter()
        with torch.inference_mode():
            step = self._steps.send(self._control())
            self._edited += step.edited.sum(dim=(1, 2)).cpu()
            self._remasked += step.remasked.sum(dim=(1, 2)).cpu()
            self._passes += step.active.cpu() * step.passed
        # Copying to the CPU waits for the device, so the clock sees all of the step.
        self._tokens = step.tokens
        self._seconds["denoise"] += time.perf_counter() - started
        return step

    def _control(self) -> Control | None:
        """Return what changed since the last step, or None."""
        tokens, self._replaced = self._replaced, None
        same = self.preview == self._told and bool(self._wanted.all()) and tokens is None
        if self._tokens is None or same:
            return None  # a generator that has not started takes nothing
        self._told = self.preview
        return Control(self.preview, self._wanted.clone(), tokens)

    def output(self, output_type: str = "pil") -> PipelineOutput:
        """Take the steps that are left, decode the tokens, and return the images and how they came about.

        Raises:
            SmaltiError: an unknown `output_type`.
        """
        check_choice("output_type", output_type, OUTPUT_TYPES)
        for _ in self:
            pass
        assert self._tokens is not None  # there is at least one step
        started = time.perf_counter()
        # Outside of inference mode, so that the caller may do with the tensors what they like.
        tokens = self._tokens.cpu().clone()
        images: Any = tokens
        if output_type != "tokens":
            pixels = self._components.decode(tokens)
            if output_type == "pil":
                images = to_images(pixels)
            else:
                images = pixels.float() / 255
                images = images.permute(0, 2, 3, 1).numpy() if output_type == "np" else images
        seconds = {**self._seconds, "decode": time.perf_counter() - started}
        return PipelineOutput(
            images=images,
            tokens=tokens,
            prompts=self.prompts,
            negative_prompts=self.negative_prompts,
            seeds=self.seeds,
            settings=self.settings,
            seconds={**seconds, "total": sum(seconds.values())},
            tokens_edited=self._edited.tolist(),
            tokens_remasked=self._remasked.tolist(),
            passes=self._passes.tolist(),
        )


def start(
    components: Components,
    prompt: str | Sequence[str],
    settings: GenerationSettings,
    *,
    negative_prompt: str | Sequence[str] | None = None,
    num_images_per_prompt: int = 1,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    seed: int | Sequence[int] | None = None,
    tokens: torch.Tensor | None = None,
    editable: torch.Tensor | None = None,
    preview: bool = False,
) -> Generation:
    """Begin a generation, to be taken step by step.

    An image depends on its prompt, its seed and the settings, not on what else is in the batch.

    Args:
        prompt: one prompt or a list.
        settings: how images are sampled; height and width must be set.
        negative_prompt: prompt of the unconditional pass, one for all or a list; it needs guidance.
        num_images_per_prompt: number of images of each prompt.
        seed, generator: as in `smalti.generation.seeds.image_seeds`.
        tokens: (B, h, w) int64, or (1, h, w) for all images: the grid to start from, with masks where it is to be
            filled; None is all masks.
        editable: the same shape, bool, False at tokens that must stay as they are; None is True everywhere.
        preview: whether `Step.candidate` is wanted at every masked position.

    Raises:
        SmaltiError: an argument that is wrong, by name, before the first step.

    Example:
        >>> import smalti
        >>> pipe = smalti.load("scenes")
        >>> generation = start(pipe.components, "a red circle", pipe.settings.replaced(num_inference_steps=4), seed=0)
        >>> [step.index for step in generation], generation.output().images[0].size
        ([0, 1, 2, 3], (256, 256))
    """
    started = time.perf_counter()
    check_settings(settings)
    prompts = _as_list("prompt", prompt)
    num_images_per_prompt = check_whole("num_images_per_prompt", num_images_per_prompt)
    seeds = image_seeds(seed, generator, len(prompts), num_images_per_prompt)
    grid = components.grid(*settings.size)
    _check_steps(settings.num_inference_steps, grid[0] * grid[1])
    sampler = make_sampler(settings, guidance_batched=components.guidance_batched)
    sampler.check(*grid)
    negatives = _negatives(negative_prompt, len(prompts), settings)
    batch, negative = (
        components.prompts(texts, *settings.size, name=name).repeat_interleave(num_images_per_prompt)
        if texts
        else None
        for name, texts in (("prompt", prompts), ("negative_prompt", negatives))
    )
    assert batch is not None
    steps = sample(
        components.denoiser,
        batch,
        grid=grid,
        sampler=sampler,
        generators=[seeded(number) for number in seeds],
        negative=negative,
        tokens=_for_all(tokens, len(batch)),
        editable=_for_all(editable, len(batch)),
        preview=preview,
        verifier=_verifier(components, prompts, settings, sampler, num_images_per_prompt),
        classifier=components.classifier,
    )
    return Generation(
        components,
        steps,
        _repeated(prompts, num_images_per_prompt),
        _repeated(negatives, num_images_per_prompt) if negatives else None,
        seeds,
        settings,
        time.perf_counter() - started,
        preview,
        editable,
    )


def _verifier(
    components: Components, prompts: list[str], settings: GenerationSettings, sampler: Sampler, count: int
) -> Verifier | None:
    """Return the second model with the prompts, each `count` times; None if the budget asks for none."""
    if not sampler.budget.verifies:
        return None
    second = components.verifier
    if second is None:
        name = settings.budget.partition(":")[0]
        raise SmaltiError(
            f"budget {name!r} asks a second model what to accept: load one with verifier=FOLDER (--verifier FOLDER)",
            argument="budget",
        )
    return Verifier(second.denoiser, second.prompts(prompts, *settings.size).repeat_interleave(count))


def _for_all(grids: torch.Tensor | None, count: int) -> torch.Tensor | None:
    """Return grids with one repeated for all images."""
    return grids.expand(count, -1, -1) if grids is not None and len(grids) == 1 else grids


def _as_list(name: str, prompt: Any) -> list[str]:
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, list | tuple) or not prompts:
        raise SmaltiError(f"{name} must be text or a list of texts, not {quoted(prompt)}", argument=name)
    return list(prompts)


def _negatives(negative_prompt: Any, count: int, settings: GenerationSettings) -> list[str] | None:
    """Return a negative prompt for each prompt, or None for the empty one."""
    if negative_prompt is None or (isinstance(negative_prompt, str) and not negative_prompt):
        return None
    negatives = _as_list("negative_prompt", negative_prompt)
    if isinstance(negative_prompt, str):
        negatives *= count
    if len(negatives) != count:
        raise SmaltiError(
            f"negative_prompt must be text or a list of {count}, one a prompt, not of {len(negatives)}",
            argument="negative_prompt",
        )
    if not settings.guidance_scale:
        raise SmaltiError(
            "negative_prompt needs guidance: set guidance_scale above 0", argument="negative_prompt"
        )
    return negatives


def _check_steps(steps: int, tokens: int) -> None:
    if steps > tokens:
        raise SmaltiError(
            f"num_inference_steps must be at most {tokens}, the number of tokens, not {steps}",
            argument="num_inference_steps",
        )


def _repeated(texts: list[str], count: int) -> list[str]:
    return [text for text in texts for _ in range(count)]
