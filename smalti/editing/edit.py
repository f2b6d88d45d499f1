"""An edit from end to end: picture to tokens, which of them to fill again, the filling, and the pixels."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from smalti.common.checks import check_whole
from smalti.common.images import to_pil
from smalti.editing.blending import blend, redrawn
from smalti.editing.canvas import Canvas
from smalti.editing.kept import codebook_name
from smalti.editing.result import EditResult
from smalti.editing.selection import Selection, block_side, choose
from smalti.editing.start import Work, open_start, prepare
from smalti.errors import SmaltiError
from smalti.sampling.sampler import Step
from smalti.settings import GenerationSettings

if TYPE_CHECKING:
    from smalti.pipeline import Pipeline


def edit_picture(
    pipeline: Pipeline,
    image: Any,
    prompt: str,
    selection: Selection,
    settings: GenerationSettings,
    *,
    size: tuple[int, int] | None = None,
    keep_pixels: bool = True,
    num_images_per_prompt: int = 1,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    seed: int | Sequence[int] | None = None,
    on_step: Callable[[Step], Any] | None = None,
) -> EditResult:
    """Edit a picture; the arguments are those of `Pipeline.edit`.

    Args:
        size: (height, width) to work at; None takes the canvas of a picture that was edited before, else the settings'.
        on_step: called after every step.

    Raises:
        SmaltiError: an argument that is wrong, by name; nothing to change.
    """
    clock = _Clock()
    check_whole("num_images_per_prompt", num_images_per_prompt)
    start = open_start(pipeline, image, size or (settings.height, settings.width), reuse=size is None)
    source = selection.source_prompt if selection.source_prompt is not None else start.prompt
    if selection.automatic and source and isinstance(prompt, str) and prompt.split() == source.split():
        raise SmaltiError(
            "prompt and source_prompt are the same: the picture shows that already, so nothing was changed"
        )
    # Wrong prompts and sizes are found before anything slow.
    pipeline.prompts([prompt], _sized(settings, start.canvas))
    work = prepare(pipeline, start, selection.grow, block_side(pipeline))
    settings = _sized(settings, work.canvas)
    new = pipeline.prompts([prompt], settings)
    reference = pipeline.prompts([source], settings) if source else new.unconditional()
    clock.lap("encode")
    chosen = choose(pipeline, selection, work, new, reference, steps=settings.num_inference_steps, seed=seed)
    clock.lap("choose")
    hidden = work.tokens.masked_fill(chosen.region, pipeline.denoiser.config.mask_code)
    generation = pipeline.start(
        prompt,
        settings,
        num_images_per_prompt=num_images_per_prompt,
        generator=generator,
        seed=seed,
        tokens=hidden.expand(num_images_per_prompt, -1, -1),
        editable=chosen.region.expand(num_images_per_prompt, -1, -1),
    )
    for step in generation:
        if on_step is not None:
            on_step(step)
    drawn = generation.output("tokens")
    clock.seconds |= {name: drawn.seconds[name] for name in ("prompt", "denoise")}
    clock.restart()
    images = _pictures(pipeline, work, drawn.tokens, chosen.region, keep_pixels=keep_pixels)
    clock.lap("decode")
    return EditResult(
        images=images,
        tokens=drawn.tokens,
        tokens_before=work.tokens,
        region=chosen.region,
        loss=chosen.loss,
        prompt=prompt,
        source_prompt=(source or None) if selection.automatic else None,
        seeds=drawn.seeds,
        settings=settings,
        seconds={**clock.seconds, "total": sum(clock.seconds.values())},
        passes=chosen.passes,
        canvas=work.canvas,
        picture=work.picture,
        codebook=codebook_name(pipeline.image_tokenizer),
    )


def _sized(settings: GenerationSettings, canvas: Canvas) -> GenerationSettings:
    """The settings for a canvas."""
    return settings.replaced({"height": canvas.canvas[0], "width": canvas.canvas[1]})


def _pictures(
    pipeline: Pipeline, work: Work, tokens: torch.Tensor, region: torch.Tensor, *, keep_pixels: bool
) -> list[Image.Image]:
    """(B, h, w) tokens → pictures, with the original's pixels outside of the region if asked."""
    side = pipeline.image_tokenizer.config.downscale
    after = pipeline.decode(tokens).permute(0, 2, 3, 1).contiguous().numpy()
    if not keep_pixels:
        return [to_pil(redrawn(work.canvas, one)) for one in after]
    before = pipeline.decode(work.tokens[None])[0].permute(1, 2, 0).contiguous().numpy()
    drawn = work.fresh_pixels
    if drawn is None:
        drawn = region.numpy().repeat(side, axis=0).repeat(side, axis=1)
    return [to_pil(blend(work.picture.pixels, work.canvas, before, one, drawn, side)) for one in after]


class _Clock:
    """Seconds by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.restart()

    def restart(self) -> None:
        self._since = time.perf_counter()

    def lap(self, name: str) -> None:
        self.seconds[name] = time.perf_counter() - self._since
        self.restart()
