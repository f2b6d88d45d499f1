"""What an edit starts from: a picture on the model's canvas, with its tokens and its prompt where they are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from smalti.editing.canvas import Canvas, fit
from smalti.editing.kept import codebook_name, find_kept, keep
from smalti.editing.picture import Picture, open_picture
from smalti.editing.regions import touched_tokens
from smalti.editing.result import EditResult
from smalti.errors import SmaltiError
from smalti.generation import PipelineOutput

if TYPE_CHECKING:
    from smalti.pipeline import Pipeline


@dataclass(frozen=True, eq=False)
class Start:
    """A picture as it came.

    Attributes:
        picture: its pixels.
        canvas: where it is put.
        tokens: (h, w) int64 on the CPU, or None if it has to be encoded.
        prompt: that it was made with, or None.
    """

    picture: Picture
    canvas: Canvas
    tokens: torch.Tensor | None
    prompt: str | None


@dataclass(frozen=True, eq=False)
class Work:
    """A picture as it is worked on.

    Attributes:
        picture: grown, if it is to grow.
        canvas: of it.
        tokens: (h, w) int64 on the CPU.
        fresh: (h, w) bool, the tokens that lie beside the picture that came, or None if it did not grow.
        fresh_pixels: (height, width) bool, the pixels of the canvas beside it, or None.
    """

    picture: Picture
    canvas: Canvas
    tokens: torch.Tensor
    fresh: torch.Tensor | None = None
    fresh_pixels: np.ndarray | None = None


def open_start(pipeline: Pipeline, image: Any, size: tuple[int, int], *, reuse: bool) -> Start:
    """Open whatever came as `image`.

    Args:
        image: as for `Pipeline.edit`, or a `Picture`.
        size: (height, width) of the canvas for a picture that has none.
        reuse: whether tokens that come with it may be used if their canvas has another size.

    Raises:
        SmaltiError: it is not a picture, or a result with several.
    """
    prompt = None
    if isinstance(image, EditResult | PipelineOutput):
        count = len(image.tokens)
        if count != 1:
            raise SmaltiError(
                f"image must be one picture, but the result holds {count}: choose one of its images"
            )
        if isinstance(image, EditResult):
            picture, kept, prompt = Picture(np.array(image.image)), image.kept(), image.prompt
        else:
            picture = Picture(pipeline.decode(image.tokens)[0].permute(1, 2, 0).contiguous().numpy())
            kept, prompt = keep(image.tokens[0], pipeline.image_tokenizer), image.prompts[0]
        if kept.codebook != codebook_name(pipeline.image_tokenizer):
            kept = None
    else:
        picture = image if isinstance(image, Picture) else open_picture(image)
        kept = find_kept(picture, pipeline.image_tokenizer)
        if kept is not None:
            prompt = picture.text.get("prompt")
    if kept is None or not (reuse or kept.canvas.canvas == size):
        return Start(picture, fit(picture.pixels.shape[:2], size), None, prompt)
    return Start(picture, kept.canvas, kept.tokens, prompt)


def prepare(pipeline: Pipeline, start: Start, grow: tuple[int, int, int, int] | None, block: int) -> Work:
    """Put the picture on its canvas, grow both if asked, and encode what has no tokens yet.

    Args:
        grow: pixels to add at the left, top, right and bottom, or None.
        block: side in tokens of what the denoiser sees as one.

    Raises:
        SmaltiError: the picture would grow by less than a token.
    """
    if grow is None:
        tokens = start.tokens
        if tokens is None:
            tokens = _encode(pipeline, start.canvas.lay(start.picture.shown))
        return Work(start.picture, start.canvas, tokens)
    left, top, right, bottom = grow
    side = pipeline.image_tokenizer.config.downscale
    canvas, (down, along) = start.canvas.grown(grow, side * block)
    pixels = np.pad(start.picture.pixels, ((top, bottom), (left, right), (0, 0)), mode="edge")
    picture = Picture(pixels, start.picture.text)
    tokens = _encode(pipeline, canvas.lay(picture.shown))
    if start.tokens is not None:
        height, width = start.tokens.shape
        tokens[down // side : down // side + height, along // side : along // side + width] = start.tokens
    y, x, height, width = start.canvas.place
    old = np.zeros(canvas.canvas, dtype=bool)
    old[down + y : down + y + height, along + x : along + x + width] = True
    fresh = ~touched_tokens(old, side)
    if not bool(fresh.any()):
        least = -(-side * start.canvas.size[1] // width)
        raise SmaltiError(
            f"grow must reach a whole token somewhere, about {least} pixels of this picture, not {max(grow)}"
        )
    return Work(picture, canvas, tokens, fresh, ~old)


def _encode(pipeline: Pipeline, pixels: np.ndarray) -> torch.Tensor:
    """(height, width, 3) uint8 → (h, w) int64 on the CPU."""
    return pipeline.encode(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0]
