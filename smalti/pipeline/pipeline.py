"""`Pipeline`: a model that draws, edits and reads, the one object that a user holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from smalti.common.checks import check_choice, quoted
from smalti.components import Components
from smalti.editing.edit import start_edit
from smalti.editing.result import EditResult
from smalti.editing.scaffold import Scaffold
from smalti.editing.selection import Selection
from smalti.errors import SmaltiError
from smalti.generation.drawing import Generation, start
from smalti.generation.frames import make_frames
from smalti.generation.result import OUTPUT_TYPES, PipelineOutput
from smalti.generation.settings import GenerationSettings, check_settings, model_settings, preset_settings
from smalti.model.denoiser import Denoiser
from smalti.model.text import TextTokenizer
from smalti.pipeline.callbacks import Callback, check_callback, report_step
from smalti.pipeline.reading import classify, explain, features, ground
from smalti.pipeline.words import train_word
from smalti.sampling.view import Step
from smalti.vq.tokenizer import ImageTokenizer


class Pipeline:
    """A model, ready to draw, to edit and to read.

    Attributes:
        components: its loaded parts.
        settings: its default settings.

    Raises:
        SmaltiError: the model's `config.json` has a setting wrong.
    """

    def __init__(self, components: Components) -> None:
        config = components.denoiser.config
        self.components = components
        self.settings = model_settings(config.image_size, config.sampling)
        height, width = self.settings.size
        try:
            components.grid(height, width)
        except SmaltiError as error:
            field = "image_size" if height == width == config.image_size else "sampling"
            raise SmaltiError(f"{field} in the model's config.json: {error}") from error

    @property
    def denoiser(self) -> Denoiser:
        """The denoiser of `components`."""
        return self.components.denoiser

    @property
    def image_tokenizer(self) -> ImageTokenizer:
        """The image tokenizer of `components`."""
        return self.components.image_tokenizer

    @property
    def text_tokenizer(self) -> TextTokenizer:
        """The text tokenizer of `components`."""
        return self.components.text_tokenizer

    def preset(self, name: str | None) -> GenerationSettings:
        """Return the model's settings with those of a preset: "fast", "balanced", "quality", or None for no preset.

        Raises:
            SmaltiError: there is no such preset, or the model's `config.json` has it wrong.
        """
        config = self.denoiser.config
        return preset_settings(self.settings, name, config.presets, config.sampling)

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str | Sequence[str] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        height: int | None = None,
        width: int | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seed: int | Sequence[int] | None = None,
        output_type: str = "pil",
        callback_on_step_end: Callback | None = None,
        preset: str | None = None,
        settings: GenerationSettings | None = None,
        scaffold: Scaffold | None = None,
    ) -> PipelineOutput:
        """Draw images from prompts.

        Args:
            prompt: one prompt or a list.
            negative_prompt: what the images should not show; it takes the place of the empty prompt in the
                unconditional pass.
            num_inference_steps: number of passes of the denoiser; None is the model's own.
            guidance_scale: s in (1 + s)·conditional − s·unconditional, which is diffusers' guidance_scale less 1.
            height, width: size in pixels; None is the model's own.
            num_images_per_prompt: number of images of each prompt.
            generator, seed, scaffold: as for `start`.
            output_type: "pil", "np", "pt" or "tokens"; see `PipelineOutput`.
            callback_on_step_end: called after every step with the pipeline, the step's index from 0, the share of
                tokens that are still unknown, and {"step": the `Step`}; what it returns is ignored.
            preset: "fast", "balanced" or "quality" in place of the model's own settings.
            settings: all other settings, such as `pipe.settings.replaced(order="halton", top_p=0.9)`.

        Raises:
            SmaltiError: an argument that is wrong, by name.

        Example:
            >>> import smalti
            >>> smalti.load("scenes")("three blue stars", seed=1, num_inference_steps=8).seeds
            [1]
        """
        check_choice("output_type", output_type, OUTPUT_TYPES)
        check_callback(callback_on_step_end)
        settings = self._settings(preset, settings).replaced(
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            height=height,
            width=width,
        )
        generation = self.start(
            prompt,
            settings,
            negative_prompt=negative_prompt,
            num_images_per_prompt=num_images_per_prompt,
            generator=generator,
            seed=seed,
            scaffold=scaffold,
        )
        for step in generation:
            report_step(self, callback_on_step_end, step)
        return generation.output(output_type)

    def start(
        self,
        prompt: str | Sequence[str],
        settings: GenerationSettings | None = None,
        *,
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seed: int | Sequence[int] | None = None,
        preview: bool = False,
        scaffold: Scaffold | None = None,
    ) -> Generation:
        """Begin a generation, to be taken step by step; the arguments are those of `smalti.generation.drawing.start`.

        Args:
            settings: None is the model's own, `self.settings`.
            scaffold: tokens that all images keep, from `smalti.editing.scaffold.read_scaffold`.

        Raises:
            SmaltiError: an argument that is wrong, by name, before the first step.

        Example:
            >>> import smalti
            >>> generation = smalti.load("scenes").start("a red circle", seed=0)
            >>> revealed = [int(step.revealed.sum()) for step in generation]
            >>> sum(revealed), generation.output().images[0].size
            (256, (256, 256))
        """
        if scaffold is not None and not isinstance(scaffold, Scaffold):
            raise SmaltiError(
                f"scaffold must be what read_scaffold returns, not {quoted(scaffold)}", argument="scaffold"
            )
        return start(
            self.components,
            prompt,
            self.settings if settings is None else settings,
            negative_prompt=negative_prompt,
            num_images_per_prompt=num_images_per_prompt,
            generator=generator,
            seed=seed,
            tokens=scaffold.tokens if scaffold is not None else None,
            editable=scaffold.editable if scaffold is not None else None,
            preview=preview,
        )

    def edit(
        self,
        image: Any,
        prompt: str,
        *,
        negative_prompt: str | None = None,
        source_prompt: str | None = None,
        mask: Any = None,
        grow: tuple[int, int, int, int] | None = None,
        strength: float | None = None,
        share: float | None = None,
        threshold: float | None = None,
        keep_pixels: bool = True,
        blend: bool = True,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        height: int | None = None,
        width: int | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seed: int | Sequence[int] | None = None,
        callback_on_step_end: Callback | None = None,
        preset: str | None = None,
        settings: GenerationSettings | None = None,
    ) -> EditResult:
        """Edit an image to match the prompt, by filling some of its tokens again.

            pipe.edit("scene.png", "a green circle and a blue square", source_prompt="a red circle and a blue square")
            pipe.edit("scene.png", "a blue square", mask="mask.png")         # inpainting, removal
            pipe.edit("scene.png", "a red circle", grow=(64, 0, 64, 0))      # outpainting
            pipe.edit("scene.png", "a red circle", strength=0.3)             # a variation

        Without mask, grow and strength Smalti selects the tokens that are less likely under the prompt than under the
        source prompt. The other tokens stay as they are, bit for bit.

        Args:
            image: a file's name, a PIL image of any size and mode, or an array. The result of a generation or an edit
                with one image brings its tokens along, which stay as they are.
            prompt: the whole image as it should be.
            source_prompt, mask, grow, strength, share, threshold: as in `smalti.editing.selection.Selection`.
            keep_pixels: whether pixels outside the region are taken from the image itself, not from its tokens.
            blend: whether these pixels fade into the region over two tokens around it. Without it they keep their
                values, bit for bit, and a seam may show.
            negative_prompt, num_images_per_prompt, generator, seed, callback_on_step_end: as for drawing; all results
                have the same region.
            num_inference_steps, guidance_scale, preset, settings: as for drawing.
            height, width: size to work at; None takes the model's own, or that of an image that was edited before.

        Raises:
            SmaltiError: an argument that is wrong, by name, or an edit that would change nothing.

        Example:
            >>> import smalti
            >>> pipe = smalti.load("scenes")
            >>> scene = pipe("a red circle", seed=0)
            >>> pipe.edit(scene, "a green circle", seed=0).image.size
            (256, 256)
        """
        check_callback(callback_on_step_end)
        settings = self._settings(preset, settings).replaced(
            num_inference_steps=num_inference_steps, guidance_scale=guidance_scale
        )
        sized = settings.replaced(height=height, width=width)
        edit = start_edit(
            self.components,
            image,
            prompt,
            Selection(source_prompt, mask, grow, strength, share, threshold),
            sized,
            size=None if height is None and width is None else sized.size,
            negative_prompt=negative_prompt,
            keep_pixels=keep_pixels,
            blend=blend,
            num_images_per_prompt=num_images_per_prompt,
            generator=generator,
            seed=seed,
        )
        for step in edit:
            report_step(self, callback_on_step_end, step)
        return edit.output()

    classify = classify
    ground = ground
    explain = explain
    features = features
    train_word = train_word

    def frames(self, steps: Sequence[Step]) -> list[list[Image.Image]]:
        """Return the unmasking of each image of a batch, from all its steps: a blank frame and one a step."""
        return make_frames(self.components, steps)

    def _settings(self, preset: str | None, settings: GenerationSettings | None) -> GenerationSettings:
        """Return the settings that were given, else the preset's or the model's own."""
        if settings is None:
            return self.preset(preset)
        if preset is not None:
            raise SmaltiError("settings and preset must not both be given", argument="settings")
        check_settings(settings)
        return settings
