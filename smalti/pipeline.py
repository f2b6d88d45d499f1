"""Text in, pictures out: the `Pipeline`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image

from smalti.common.checks import check_choice, check_whole
from smalti.common.images import paint_unknown, to_pil
from smalti.editing.edit import edit_picture
from smalti.editing.result import EditResult
from smalti.editing.selection import Selection
from smalti.errors import SmaltiError
from smalti.generation import OUTPUT_TYPES, Generation, PipelineOutput, make_sampler, picture_seeds
from smalti.model.denoiser import Denoiser
from smalti.model.prompt import PromptBatch, TextTokenizer, build_prompts
from smalti.runtime.memory import Mode
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
        edit_rule: str | None = None,
        edit_threshold: float | None = None,
        refine_share: float | None = None,
        refine_frequency: float | None = None,
        budget: str | None = None,
        shift: float | None = None,
        adaptive_threshold: float | None = None,
        adaptive_range: tuple[float, float] | None = None,
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
                "edit_rule": edit_rule,
                "edit_threshold": edit_threshold,
                "refine_share": refine_share,
                "refine_frequency": refine_frequency,
                "budget": budget,
                "shift": shift,
                "adaptive_threshold": adaptive_threshold,
                "adaptive_range": adaptive_range,
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
        tokens: torch.Tensor | None = None,
        editable: torch.Tensor | None = None,
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
            tokens: (B, h, w) int64, the grid of each picture to start from, the mask id where it is to be filled; None
                is all masks.
            editable: (B, h, w) bool, False at tokens that must stay as they are; None is True everywhere.

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
        batch = self.prompts(prompts, settings).repeat_interleave(num_images_per_prompt)
        generators = [torch.Generator().manual_seed(number) for number in seeds]
        steps = sample(
            self.denoiser,
            batch,
            grid=grid,
            sampler=sampler,
            generators=generators,
            tokens=tokens,
            editable=editable,
        )
        repeated = [text for text in prompts for _ in range(num_images_per_prompt)]
        return Generation(steps, self.decode, repeated, seeds, settings, time.perf_counter() - started)

    def edit(
        self,
        image: Any,
        prompt: str,
        *,
        source_prompt: str | None = None,
        mask: Any = None,
        grow: tuple[int, int, int, int] | None = None,
        strength: float | None = None,
        share: float | None = None,
        threshold: float | None = None,
        keep_pixels: bool = True,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seed: int | Sequence[int] | None = None,
        callback_on_step_end: Callable[[Pipeline, int, float, dict[str, Any]], Any] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        height: int | None = None,
        width: int | None = None,
        preset: str | None = None,
        settings: GenerationSettings | None = None,
    ) -> EditResult:
        """Change a picture into what the prompt says, by filling some of its tokens again:

            pipe.edit("scene.png", "a green circle and a blue square", source_prompt="a red circle and a blue square")
            pipe.edit("scene.png", "a blue square", mask="mask.png")         # inpainting, removal
            pipe.edit("scene.png", "a red circle", grow=(64, 0, 64, 0))      # outpainting
            pipe.edit("scene.png", "a red circle", strength=0.3)             # a variation

        Without mask, grow and strength the tokens are chosen that the model believes in less under the prompt than
        under the source prompt. Tokens that are not chosen stay as they are, bit for bit.

        Args:
            image: a file's name, a picture of any size and mode, an array, or the result of a generation or an edit
                with one picture, whose tokens are then taken over as they are.
            prompt: the whole picture as it should be.
            source_prompt: the whole picture as it is; "" compares with the model's belief without a prompt, None with
                the prompt that the picture was made with, if it is known.
            mask: white where the picture is to change: an image of its size or the name of its file, or an array, bool
                or uint8, of its pixels or of the grid's tokens. All tokens that it touches are filled again.
            grow: pixels to add at the left, top, right and bottom.
            strength: fill this share of the tokens again, drawn at random, the least believed first; beside a mask, of
                the tokens that it touches.
            share: choose this share of the tokens, those that lose most belief, instead of going by a threshold.
            threshold: choose the tokens whose loss is above this part of (nearly) the largest; by default 0.3.
            keep_pixels: take what was not chosen from the picture itself, not from its tokens.
            num_images_per_prompt, generator, seed, callback_on_step_end: as for drawing; all have the same region.
            num_inference_steps, guidance_scale, preset: as for drawing.
            height, width: to work at; None takes the model's own, or that of a picture that was edited before.
            settings: any others; None is the preset's or the model's own.

        Raises:
            SmaltiError: an argument that is wrong, by name, or an edit that would change nothing.
        """
        if settings is not None and preset is not None:
            raise SmaltiError("settings and preset must not both be given")
        settings = (self.preset(preset) if settings is None else settings).replaced(
            {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
        )
        given = settings.replaced({"height": height, "width": width})

        def on_step(step: Step) -> None:
            if callback_on_step_end is not None:
                unknown = step.tokens == self.denoiser.config.mask_code
                callback_on_step_end(self, step.index, float(unknown.float().mean()), {"step": step})

        return edit_picture(
            self,
            image,
            prompt,
            Selection(source_prompt, mask, grow, strength, share, threshold),
            settings,
            size=None if height is None and width is None else (given.height, given.width),
            keep_pixels=keep_pixels,
            num_images_per_prompt=num_images_per_prompt,
            generator=generator,
            seed=seed,
            on_step=on_step,
        )

    def prompts(self, texts: Sequence[str], settings: GenerationSettings | None = None) -> PromptBatch:
        """Texts as the denoiser takes them, on its device, for pictures of the settings' size.

        Raises:
            SmaltiError: a text that is blank or too long, or a size that the model cannot have.
        """
        settings = self.settings if settings is None else settings
        config = self.denoiser.config
        batch = build_prompts(
            list(texts),
            config.prompt,
            self.text_tokenizer,
            height=settings.height,
            width=settings.width,
            slots=config.slots(*self._grid(settings)),
        )
        return batch.to(self.denoiser.head.device)

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) uint8 → (B, h, w) int64 ids on the CPU.

        Raises:
            SmaltiError: a side is not a multiple of the image tokenizer's downscale.
        """
        device = self.image_tokenizer.quant_conv.weight.device
        return torch.cat([self.image_tokenizer.from_pixels(one.to(device)).cpu() for one in pixels.split(1)])

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
