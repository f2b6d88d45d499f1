"""An edit from end to end: encoding, selection of tokens, filling, decoding and blending."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from smalti.common.checks import check_flag, check_whole, quoted
from smalti.common.images import to_pil
from smalti.components import Components
from smalti.editing.blending import blend, paste, redrawn
from smalti.editing.result import EditResult
from smalti.editing.selection import Region, Selection, choose
from smalti.editing.source import SourceImage, WorkingImage, open_source, prepare
from smalti.errors import SmaltiError
from smalti.generation.drawing import Generation, start
from smalti.generation.result import PipelineOutput
from smalti.generation.settings import MOST_IMAGES, GenerationSettings, check_settings
from smalti.model.prompt import PromptBatch
from smalti.sampling.view import Step
from smalti.vq.naming import codebook_name


@dataclass(frozen=True, eq=False)
class PreparedEdit:
    """An edit whose tokens are selected and not yet filled: plain values, for any device that holds the model.

    Attributes:
        work: the image on its canvas, with its tokens.
        region: the tokens to fill again.
        prompt: prompt of the edit.
        source_prompt: prompt that the selection compared with; None if there was none.
        settings: settings of the sampling, with the size of the canvas.
        keep_pixels, blend: as for `start_edit`.
        seconds: seconds of "encode" and "choose".
    """

    work: WorkingImage
    region: Region
    prompt: str
    source_prompt: str | None
    settings: GenerationSettings
    keep_pixels: bool
    blend: bool
    seconds: dict[str, float]

    def start_tokens(self, components: Components) -> torch.Tensor:
        """Return the grid to start from, (h, w) int64: the image's tokens, the mask id in the region."""
        return self.work.tokens.masked_fill(self.region.tokens, components.mask_code)

    def images(self, components: Components, tokens: torch.Tensor) -> list[Image.Image]:
        """Return the images of filled tokens (B, h, w), blended with the source's pixels if these are to be kept."""
        work, side = self.work, components.image_tokenizer.config.downscale
        after = components.decode(tokens).permute(0, 2, 3, 1).contiguous().numpy()
        if not self.keep_pixels:
            return [to_pil(redrawn(work.canvas, one)) for one in after]
        drawn = work.fresh_pixels
        if drawn is None:
            drawn = self.region.tokens.numpy().repeat(side, axis=0).repeat(side, axis=1)
        if not self.blend:
            return [to_pil(paste(work.picture.pixels, work.canvas, one, drawn)) for one in after]
        before = components.decode(work.tokens[None])[0].permute(1, 2, 0).contiguous().numpy()
        return [to_pil(blend(work.picture.pixels, work.canvas, before, one, drawn, side)) for one in after]

    def result(self, components: Components, drawn: PipelineOutput) -> EditResult:
        """Decode what was drawn, whose images are "tokens", and return the edited images."""
        started = time.perf_counter()
        images = self.images(components, drawn.tokens)
        seconds = {
            **self.seconds,
            "prompt": drawn.seconds["prompt"],
            "denoise": drawn.seconds["denoise"],
            "decode": time.perf_counter() - started,
        }
        return EditResult(
            images=images,
            tokens=drawn.tokens,
            tokens_before=self.work.tokens,
            region=self.region.tokens,
            loss=self.region.loss,
            prompt=self.prompt,
            source_prompt=self.source_prompt,
            negative_prompt=drawn.negative_prompts[0] if drawn.negative_prompts else None,
            seeds=drawn.seeds,
            settings=self.settings,
            seconds={**seconds, "total": sum(seconds.values())},
            passes=self.region.passes,
            canvas=self.work.canvas,
            picture=self.work.picture,
            codebook=codebook_name(components.image_tokenizer),
        )


class Edit:
    """An edit in progress: an iterator over its steps, which may be left at any of them. `output` finishes it.

    Attributes:
        region: tokens that are filled again, (h, w) bool.
        loss: drop of each token's log-likelihood in nats, (h, w) float32; None unless the selection was automatic.
        prompt: prompt of the edit.
        seeds: seed of each image.
        settings: every setting, defaults included.
    """

    def __init__(self, components: Components, prepared: PreparedEdit, generation: Generation) -> None:
        self.region, self.loss = prepared.region.tokens, prepared.region.loss
        self.prompt, self.seeds, self.settings = prepared.prompt, generation.seeds, generation.settings
        self._components, self._prepared, self._generation = components, prepared, generation

    def __iter__(self) -> Iterator[Step]:
        return self

    def __next__(self) -> Step:
        return next(self._generation)

    def output(self) -> EditResult:
        """Take the remaining steps, decode the tokens, and return the images."""
        return self._prepared.result(self._components, self._generation.output("tokens"))


def prepare_edit(
    components: Components,
    image: Any,
    prompt: str,
    selection: Selection,
    settings: GenerationSettings,
    *,
    size: tuple[int, int] | None = None,
    keep_pixels: bool = True,
    blend: bool = True,
    seed: int | Sequence[int] | None = None,
) -> PreparedEdit:
    """Put an image on its canvas, encode it, and select the tokens to fill again.

    The arguments and the errors are those of `start_edit`; `image` may also be a `SourceImage`, whose canvas stands.

    Example:
        >>> import smalti
        >>> pipe = smalti.load("scenes")
        >>> scene = pipe("a red circle", seed=0)
        >>> prepared = prepare_edit(pipe.components, scene, "a green circle", Selection(), pipe.settings)
        >>> prepared.start_tokens(pipe.components).shape
        torch.Size([16, 16])
    """
    keep_pixels, blend = check_flag("keep_pixels", keep_pixels), check_flag("blend", blend)
    clock = _Clock()
    work, source = _open(components, image, prompt, selection, settings, size)
    height, width = work.canvas.canvas
    settings = settings.replaced(height=height, width=width)
    new, reference = _prompts(components, prompt, source, height, width)
    clock.lap("encode")
    region = choose(
        components, selection, work, new, reference, steps=settings.num_inference_steps, seed=seed
    )
    clock.lap("choose")
    known = (source or None) if selection.automatic else None
    return PreparedEdit(work, region, prompt, known, settings, keep_pixels, blend, clock.seconds)


def start_edit(
    components: Components,
    image: Any,
    prompt: str,
    selection: Selection,
    settings: GenerationSettings,
    *,
    size: tuple[int, int] | None = None,
    negative_prompt: str | None = None,
    keep_pixels: bool = True,
    blend: bool = True,
    num_images_per_prompt: int = 1,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    seed: int | Sequence[int] | None = None,
    preview: bool = False,
) -> Edit:
    """Select the tokens to fill again, and return the edit, an iterator over the steps of the filling.

    Args:
        components: the model.
        image: name of a file, PIL image of any size and mode, array, or result of a generation or an edit with one
            image. A result brings its own tokens; anything else is encoded unless its file has embedded tokens.
        prompt: text of the whole image as it should be.
        selection: rule by which the tokens to fill again are selected.
        settings: settings of the sampling; height and width must be set.
        size: (height, width) of the canvas in pixels; None means that of the image's own tokens, else that of the
            settings.
        negative_prompt: prompt of the unconditional pass, as for `smalti.generation.drawing.start`.
        keep_pixels: whether pixels outside the region come from the image itself rather than from its tokens.
        blend: whether these pixels fade into the region over two tokens around it, so that there is no seam. Without
            it every pixel outside the region keeps its value, bit for bit. The region is all tokens that a mask
            touches.
        num_images_per_prompt: number of images; all have the same region.
        generator, seed: random generators, or seeds, as for `smalti.generation.drawing.start`.
        preview: whether steps hold a candidate for every masked token, as for `smalti.generation.drawing.start`.

    Raises:
        SmaltiError: an argument is wrong.
        NothingChosen: the prompt makes no token less likely.

    Example:
        >>> import smalti
        >>> pipe = smalti.load("scenes")
        >>> scene = pipe("a red circle", seed=0)
        >>> edit = start_edit(pipe.components, scene, "a green circle", Selection(), pipe.settings, seed=0)
        >>> for step in edit:
        ...     remaining = int((step.tokens == pipe.components.mask_code).sum())
        >>> edit.output().image.size
        (256, 256)
    """
    num_images_per_prompt = check_whole("num_images_per_prompt", num_images_per_prompt, 1, MOST_IMAGES)
    prepared = prepare_edit(
        components,
        image,
        prompt,
        selection,
        settings,
        size=size,
        keep_pixels=keep_pixels,
        blend=blend,
        seed=seed,
    )
    generation = start(
        components,
        prompt,
        prepared.settings,
        negative_prompt=negative_prompt,
        num_images_per_prompt=num_images_per_prompt,
        generator=generator,
        seed=seed,
        tokens=prepared.start_tokens(components).expand(num_images_per_prompt, -1, -1),
        editable=prepared.region.tokens.expand(num_images_per_prompt, -1, -1),
        preview=preview,
    )
    return Edit(components, prepared, generation)


def _open(
    components: Components,
    image: Any,
    prompt: str,
    selection: Selection,
    settings: GenerationSettings,
    size: tuple[int, int] | None,
) -> tuple[WorkingImage, str | None]:
    """Return the image on its canvas, and the source prompt; the arguments are those of `start_edit`."""
    check_settings(settings)
    if not isinstance(selection, Selection):
        raise SmaltiError(f"selection must be a Selection, not {quoted(selection)}", argument="selection")
    given = (
        image
        if isinstance(image, SourceImage)
        else open_source(components, image, size or settings.size, reuse=size is None)
    )
    source = selection.source_prompt if selection.source_prompt is not None else given.prompt
    if selection.automatic:
        check_prompts_differ(prompt, source)
    # This finds wrong prompts and sizes before anything slow starts.
    components.prompts([prompt], *given.canvas.canvas)
    if selection.automatic and source:
        components.prompts([source], *given.canvas.canvas, name="source_prompt")
    return prepare(components, given, selection.grow), source


def check_prompts_differ(prompt: Any, source: str | None) -> None:
    """Raise SmaltiError if the prompt asks for what the image already shows."""
    if source and isinstance(prompt, str) and prompt.split() == source.split():
        raise SmaltiError(
            "prompt and source_prompt are the same: the image already shows it, so nothing was changed",
            argument="prompt",
        )


def _prompts(
    components: Components, prompt: str, source: str | None, height: int, width: int
) -> tuple[PromptBatch, PromptBatch]:
    """Return the prompt and what the drop is measured against: the source prompt, or none."""
    new = components.prompts([prompt], height, width)
    return new, components.prompts([source], height, width) if source else new.unconditional()


class _Clock:
    """A stop watch that keeps the seconds between laps by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, name: str) -> None:
        """Record the seconds since the last lap."""
        now = time.perf_counter()
        self.seconds[name], self._since = now - self._since, now
