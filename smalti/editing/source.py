"""The start of an edit: an image on the model's canvas, with its tokens and its prompt if they are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from smalti.common.checks import quoted
from smalti.components import Components
from smalti.editing.canvas import Canvas, fit
from smalti.editing.embedded import TEXT, EmbeddedTokens, embed_tokens, find_embedded
from smalti.editing.picture import LARGEST_PIXELS, Picture, open_picture
from smalti.editing.regions import touched_tokens
from smalti.editing.result import EditResult
from smalti.errors import SmaltiError
from smalti.generation.result import PipelineOutput
from smalti.vq.naming import codebook_name


@dataclass(frozen=True, eq=False)
class SourceImage:
    """An image as the caller gave it.

    Attributes:
        picture: pixels and texts of the image.
        canvas: place of the image on the model's canvas.
        tokens: (h, w) int64 on the CPU; None if the image has to be encoded.
        prompt: prompt that the image was made with; None if it is not known.
    """

    picture: Picture
    canvas: Canvas
    tokens: torch.Tensor | None
    prompt: str | None

    def described(self, prompt: str | None) -> str:
        """Return a prompt that is given, else the one that the image was made with.

        Raises:
            SmaltiError: there is neither.
        """
        text = self.prompt if prompt is None else prompt
        if text is None:
            raise SmaltiError(
                "prompt is needed, because the image does not say what it shows", argument="prompt"
            )
        return text


@dataclass(frozen=True, eq=False)
class WorkingImage:
    """An image as it is edited.

    Attributes:
        picture: pixels and texts of the image, after growing.
        canvas: place of the image on the model's canvas.
        tokens: (h, w) int64 on the CPU.
        fresh: tokens beyond the edges of the source image, (h, w) bool; None if the image did not grow.
        fresh_pixels: pixels of the canvas beyond these edges, (height, width) bool; None if the image did not grow.
    """

    picture: Picture
    canvas: Canvas
    tokens: torch.Tensor
    fresh: torch.Tensor | None = None
    fresh_pixels: np.ndarray | None = None


def open_source(components: Components, image: Any, size: tuple[int, int], *, reuse: bool) -> SourceImage:
    """Open the image of an edit and find its tokens and its prompt.

    Args:
        components: the model.
        image: image as for `smalti.editing.edit.start_edit`, or a `Picture`.
        size: (height, width) in pixels of the canvas of an image that has none.
        reuse: whether the image's own tokens may be used if their canvas has another size.

    Raises:
        SmaltiError: it is not an image, or it is a result with several.
    """
    embedded: EmbeddedTokens | None
    prompt = None
    if isinstance(image, EditResult | PipelineOutput):
        count = len(image.tokens)
        if count != 1:
            raise SmaltiError(
                f"image must be one image, but the result holds {count}: choose one of its images",
                argument="image",
            )
        if isinstance(image, EditResult):
            picture, embedded, prompt = Picture(np.array(image.image)), image.embedded(), image.prompt
        else:
            picture = Picture(components.decode(image.tokens)[0].permute(1, 2, 0).contiguous().numpy())
            embedded, prompt = embed_tokens(image.tokens[0], components.image_tokenizer), image.prompts[0]
        if embedded.codebook != codebook_name(components.image_tokenizer):
            embedded = None
    else:
        picture = image if isinstance(image, Picture) else open_picture(image)
        embedded = find_embedded(picture, components.image_tokenizer)
        # Embedded tokens that do not fit any more tell that something else changed the image.
        prompt = picture.prompt if embedded is not None or TEXT not in picture.text else None
    if embedded is None or not (reuse or embedded.canvas.canvas == size):
        return SourceImage(picture, fit(picture.pixels.shape[:2], size), None, prompt)
    return SourceImage(picture, embedded.canvas, embedded.tokens, prompt)


def read_image(components: Components, image: Any, size: tuple[int, int]) -> WorkingImage:
    """Return an image with its tokens: those that it brings along, else encoded ones.

    Args:
        components: the model.
        image: image as for `open_source`.
        size: (height, width) in pixels of the canvas of an image that has none.

    Raises:
        SmaltiError: it is not an image, or it is a result with several.
    """
    return prepare(components, open_source(components, image, size, reuse=True), None)


def prepare(
    components: Components, source: SourceImage, grow: tuple[int, int, int, int] | None
) -> WorkingImage:
    """Put the image on its canvas, grow both, and encode pixels that have no tokens.

    Args:
        components: the model.
        source: image, with its tokens if they are known.
        grow: pixels to add at the left, top, right and bottom; None means none.

    Raises:
        SmaltiError: the image would grow by less than a token.
    """
    if grow is None:
        tokens = source.tokens
        if tokens is None:
            tokens = _encode(components, source.canvas.put(source.picture.shown))
        return WorkingImage(source.picture, source.canvas, tokens)
    left, top, right, bottom = grow
    side = components.image_tokenizer.config.downscale
    canvas, (down, along) = source.canvas.grown(grow, side * components.denoiser.config.cell)
    _check_growth(components, canvas)
    pixels = np.pad(source.picture.pixels, ((top, bottom), (left, right), (0, 0)), mode="edge")
    picture = Picture(pixels, source.picture.text)
    tokens = _encode(components, canvas.put(picture.shown))
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
            f"grow must add a whole token at some edge, about {least} pixels of this image, not {max(grow)}",
            argument="grow",
        )
    return WorkingImage(picture, canvas, tokens, fresh, ~old)


def _check_growth(components: Components, canvas: Canvas) -> None:
    """Raise SmaltiError if a grown image or its canvas is too large, before either exists."""
    H, W = canvas.size
    if H * W > LARGEST_PIXELS:
        raise SmaltiError(
            f"grow must leave at most {LARGEST_PIXELS // 10**6} megapixels, not {quoted(W)}×{quoted(H)} pixels",
            argument="grow",
        )
    try:
        components.grid(*canvas.canvas)
    except SmaltiError as error:
        height, width = canvas.canvas
        raise SmaltiError(
            f"grow must leave an image that the model can place: {width}×{height} pixels of its canvas are too many",
            argument="grow",
        ) from error


def _encode(components: Components, pixels: np.ndarray) -> torch.Tensor:
    """Return the tokens, (h, w) int64 on the CPU, of pixels (height, width, 3) uint8."""
    return components.encode(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0]
