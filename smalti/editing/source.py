"""What an edit starts from: an image on the model's canvas, with its tokens and its prompt where they are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from smalti.components import Components
from smalti.editing.canvas import Canvas, fit
from smalti.editing.kept import codebook_name, find_kept, keep
from smalti.editing.picture import Picture, open_picture
from smalti.editing.regions import touched_tokens
from smalti.editing.result import EditResult
from smalti.errors import SmaltiError
from smalti.generation.result import PipelineOutput


@dataclass(frozen=True, eq=False)
class SourceImage:
    """An image as the caller gave it.

    Attributes:
        picture: its pixels.
        canvas: where it is put.
        tokens: (h, w) int64 on the CPU, or None if it has to be encoded.
        prompt: the prompt that it was made with, or None.
    """

    picture: Picture
    canvas: Canvas
    tokens: torch.Tensor | None
    prompt: str | None


@dataclass(frozen=True, eq=False)
class WorkingImage:
    """An image as it is edited.

    Attributes:
        picture: its pixels, after growing.
        canvas: where it is put.
        tokens: (h, w) int64 on the CPU.
        fresh: (h, w) bool, the tokens beside the source image, or None if the image did not grow.
        fresh_pixels: (height, width) bool, the pixels of the canvas beside the source image, or None.
    """

    picture: Picture
    canvas: Canvas
    tokens: torch.Tensor
    fresh: torch.Tensor | None = None
    fresh_pixels: np.ndarray | None = None


def open_source(components: Components, image: Any, size: tuple[int, int], *, reuse: bool) -> SourceImage:
    """Open whatever the caller gave as `image`.

    Args:
        image: as for `start_edit`, or a `Picture`.
        size: (height, width) of the canvas for an image that has none.
        reuse: whether tokens that come with it may be used if their canvas has another size.

    Raises:
        SmaltiError: it is not an image, or a result with several.
    """
    prompt = None
    if isinstance(image, EditResult | PipelineOutput):
        count = len(image.tokens)
        if count != 1:
            raise SmaltiError(
                f"image must be one image, but the result holds {count}: choose one of its images",
                argument="image",
            )
        if isinstance(image, EditResult):
            picture, kept, prompt = Picture(np.array(image.image)), image.kept(), image.prompt
        else:
            picture = Picture(components.decode(image.tokens)[0].permute(1, 2, 0).contiguous().numpy())
            kept, prompt = keep(image.tokens[0], components.image_tokenizer), image.prompts[0]
        if kept.codebook != codebook_name(components.image_tokenizer):
            kept = None
    else:
        picture = image if isinstance(image, Picture) else open_picture(image)
        kept = find_kept(picture, components.image_tokenizer)
        if kept is not None:
            prompt = picture.text.get("prompt")
    if kept is None or not (reuse or kept.canvas.canvas == size):
        return SourceImage(picture, fit(picture.pixels.shape[:2], size), None, prompt)
    return SourceImage(picture, kept.canvas, kept.tokens, prompt)


def prepare(
    components: Components, source: SourceImage, grow: tuple[int, int, int, int] | None
) -> WorkingImage:
    """Put the image on its canvas, grow both if asked, and encode what has no tokens yet.

    Args:
        grow: pixels to add at the left, top, right and bottom, or None.

    Raises:
        SmaltiError: the image would grow by less than a token.
    """
    if grow is None:
        tokens = source.tokens
        if tokens is None:
            tokens = _encode(components, source.canvas.lay(source.picture.shown))
        return WorkingImage(source.picture, source.canvas, tokens)
    left, top, right, bottom = grow
    side = components.image_tokenizer.config.downscale
    canvas, (down, along) = source.canvas.grown(grow, side * components.denoiser.config.cell)
    pixels = np.pad(source.picture.pixels, ((top, bottom), (left, right), (0, 0)), mode="edge")
    picture = Picture(pixels, source.picture.text)
    tokens = _encode(components, canvas.lay(picture.shown))
    if source.tokens is not None:
        height, width = source.tokens.shape
        tokens[down // side : down // side + height, along // side : along // side + width] = source.tokens
    y, x, height, width = source.canvas.place
    old = np.zeros(canvas.canvas, dtype=bool)
    old[down + y : down + y + height, along + x : along + x + width] = True
    fresh = ~touched_tokens(old, side)
    if not bool(fresh.any()):
        least = -(-side * source.canvas.size[1] // width)
        raise SmaltiError(
            f"grow must reach a whole token somewhere, about {least} pixels of this image, not {max(grow)}",
            argument="grow",
        )
    return WorkingImage(picture, canvas, tokens, fresh, ~old)


def _encode(components: Components, pixels: np.ndarray) -> torch.Tensor:
    """Return the tokens, (h, w) int64 on the CPU, of pixels (height, width, 3) uint8."""
    return components.encode(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0]
