"""Text in, pictures out: the `Pipeline`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image

from smalti.checks import check_choice, check_whole
from smalti.errors import SmaltiError
from smalti.generation import OUTPUT_TYPES, Generation, PipelineOutput, make_sampler, picture_seeds
from smalti.images import paint_unknown, to_pil
from smalti.memory import Mode
from smalti.model.denoiser import Denoiser
from smalti.model.prompt import TextTokenizer, build_prompts
from smalti.sampling.sampler import Step, sample
from smalti.settings import GenerationSettings, find_preset
from smalti.vq.tokenizer import ImageTokenizer


class Pipeline:
    """A model, ready to draw.

    Attributes:
        denoiser, image_tokenizer, text_tokenizer: its parts.
        settings: its default settings.
        name: what to call it in reports.
        mode: how it was loaded to fit into memory, or None.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        image_tokenizer: ImageTokenizer,
        text_tokenizer: TextTokenizer,
        *,
        name: str = "unnamed",
        mode: Mode | None = None,
    ) -> None:
        config = denoiser.config
        if image_tokenizer.config.codebook_size != config.codebook_size:
            raise SmaltiError(
                f"the image tokenizer must have the denoiser's {config.codebook_size} codes, "
                f"not {image_tokenizer.config.codebook_size}"
            )
        self.denoiser, self.image_tokenizer, self.text_tokenizer = denoiser, image_tokenizer, text_tokenizer
        self.name, self.mode = name, mode
        own_size = {"height": config.image_size, "width": config.image_size}
        try:
            self.settings = GenerationSettings().replaced({**own_size, **config.sampling})
        except SmaltiError as error:
            raise SmaltiError(f"sampling in the model's config.json: {error}") from error

    def preset(self, name: str | None) -> GenerationSettings:
        """The model's settings with those of a preset: "fast", "balanced", "quality", or None for no preset.

        Raises:
            SmaltiError: there is no such preset, or the model's `config.json` has it wrong.
        """
        if name is None:
            return self.settings
        config = self.denoiser.config
        changes = find_preset(name, config.presets, config.sampling)
        try:
            return self.settings.replaced(changes)
        except SmaltiError as error:
            raise SmaltiError(f"presets in the model's config.json: {error}") from error

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        height: int | None = None,
        width: int | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seed: int | Sequence[int] | None = None,
        output_type: str = "pil",
        callback_on_step_end: Callable[[Pipeline, int, float, dict[str, Any]], Any] | None = None,
        guidance_interval: tuple[float, float] | None = None,
        edit_threshold: float | None = None,
        budget: str | None = None,
        shift: float | None = None,
        order: str | None = None,
        order_temperature: float | None = None,
        order_temperature_schedule: str | None = None,
        draw: str | None = None,
        temperature: float | None = None,
        temperature_schedule: str | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        final: str | None = None,
        reuse: str | None = None,
        reuse_every: int | None = None,
        preset: str | None = None,
    ) -> PipelineOutput:
        """Draw pictures of what the prompts say.

        The settings are those of `GenerationSettings`; None is the model's own.

        Args:
            prompt: one, or a list.
            num_images_per_prompt: pictures of each prompt.
            preset: "fast", "balanced" or "quality" in place of the model's own settings; what is named beside it wins.
            generator, seed: as for `start`.
            output_type: "pil", "np", "pt" or "tokens"; see `PipelineOutput`.
            callback_on_step_end: called after every step with the pipeline, the step's index from 0, the
                share of tokens that are still unknown, and {"step": the `Step`}; what it returns is ignored.

        Raises:
            SmaltiError: an argument that is wrong, by name.
        """
        check_choice("output_type", output_type, OUTPUT_TYPES)
        settings = self.preset(preset).replaced(
            {
                "num_inference_steps": num_inference_steps,
                "guidance_scale": guidance_scale,
                "guidance_interval": guidance_interval,
                "edit_threshold": edit_threshold,
                "budget": budget,
                "shift": shift,
                "order": order,
                "order_temperature": order_temperature,
                "order_temperature_schedule": order_temperature_schedule,
                "draw": draw,
                "temperature": temperature,
                "temperature_schedule": temperature_schedule,
                "top_k": top_k,
                "top_p": top_p,
                "final": final,
                "reuse": reuse,
                "reuse_every": reuse_every,
                "height": height,
                "width": width,
            }
        )
        generation = self.start(
            prompt, settings, num_images_per_prompt=num_images_per_prompt, generator=generator, seed=seed
        )
        for step in generation:
            if callback_on_step_end is not None:
                unknown = step.tokens == self.denoiser.config.mask_code
                callback_on_step_end(self, step.index, float(unknown.float().mean()), {"step": step})
        return generation.output(output_type)

    def start(
        self,
        prompt: str | Sequence[str],
        settings: GenerationSettings | None = None,
        *,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seed: int | Sequence[int] | None = None,
    ) -> Generation:
        """Begin a generation, to be taken step by step:

            generation = pipe.start("a red circle", seed=0)
            for step in generation:
                print(step.index, int(step.revealed.sum()))
            generation.output().images[0]

        A picture depends on its prompt, its seed and the settings, not on what else is in the batch.

        Args:
            settings: None is the model's own, `self.settings`.
            seed: picture k of every prompt gets seed + k; a list has the seed of every picture, all pictures
                of the first prompt first; None draws one.
            generator: in place of a seed: one that every picture draws its seed from, or a list with one a
                picture.

        Raises:
            SmaltiError: an argument that is wrong, by name, before the first step.
        """
        started = time.perf_counter()
        settings = self.settings if settings is None else settings
        prompts = [prompt] if isinstance(prompt, str) else prompt
        if not isinstance(prompts, list | tuple) or not prompts:
            raise SmaltiError(f"prompt must be text or a list of texts, not {prompt!r}")
        check_whole("num_images_per_prompt", num_images_per_prompt)
        seeds = picture_seeds(seed, generator, len(prompts), num_images_per_prompt)
        grid = self._grid(settings)
        if settings.num_inference_steps > grid[0] * grid[1]:
            raise SmaltiError(
                f"num_inference_steps must be at most {grid[0] * grid[1]}, the number of tokens, "
                f"not {settings.num_inference_steps}"
            )
        sampler = make_sampler(settings, guidance_batched=self.mode is None or self.mode.guidance_batched)
        try:
            sampler.check(*grid)
        except SmaltiError as error:
            raise SmaltiError(f"order: {error}") from error
        config = self.denoiser.config
        batch = build_prompts(
            list(prompts),
            config.prompt,
            self.text_tokenizer,
            height=settings.height,
            width=settings.width,
            slots=config.slots(*grid),
        )
        batch = batch.to(self.denoiser.head.device).repeat_interleave(num_images_per_prompt)
        generators = [torch.Generator().manual_seed(number) for number in seeds]
        steps = sample(self.denoiser, batch, grid=grid, sampler=sampler, generators=generators)
        repeated = [text for text in prompts for _ in range(num_images_per_prompt)]
        return Generation(steps, self.decode, repeated, seeds, settings, time.perf_counter() - started)

    @torch.inference_mode()
    def decode(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, h, w) int64 ids → (B, 3, H, W) uint8 on the CPU."""
        weight = self.image_tokenizer.quant_conv.weight
        # One picture at a time, which bounds the memory.
        return torch.cat(
            [
                self.image_tokenizer.to_pixels(one.to(weight.device), dtype=weight.dtype).cpu()
                for one in tokens.split(1)
            ]
        )

    def frames(self, steps: Sequence[Step]) -> list[list[Image.Image]]:
        """The unmasking: for each picture of the batch a blank frame and one a step.

        A decoder needs a token everywhere: unknown positions are decoded as they will be in the end, then
        covered with blank tiles, so that the edges of what is known already fit what comes later.

        Args:
            steps: all the `Step`s of a generation.
        """
        final, mask = steps[-1].tokens, self.denoiser.config.mask_code
        grids = [torch.full_like(final, mask), *(step.tokens for step in steps)]
        result: list[list[Image.Image]] = [[] for _ in final]
        for tokens in grids:
            unknown = tokens == mask
            pixels = self.decode(torch.where(unknown, final, tokens)).permute(0, 2, 3, 1).numpy()
            for frames, image, covered in zip(result, pixels, unknown.cpu().numpy(), strict=True):
                frames.append(to_pil(paint_unknown(image, covered)))
        return result

    def _grid(self, settings: GenerationSettings) -> tuple[int, int]:
        """Rows and columns of tokens of a picture."""
        config, downscale = self.denoiser.config, self.image_tokenizer.config.downscale
        unit = downscale * (2 if config.downsample else 1)
        for name in ("height", "width"):
            side = getattr(settings, name)
            if side % unit:
                raise SmaltiError(f"{name} must be a multiple of {unit} pixels, not {side}")
        rows, columns = settings.height // downscale, settings.width // downscale
        positions = settings.height // unit * (settings.width // unit)
        # Beyond the length that the rotary positions are made for, nothing sensible comes out.
        longest = int(config.rope.original_max_position_embeddings * config.rope.factor)
        if positions > longest:
            raise SmaltiError(
                f"height and width must be at most {longest * unit**2} pixels together (height × width), "
                f"not {settings.height}×{settings.width}"
            )
        return rows, columns
