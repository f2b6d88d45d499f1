"""From a drawn image to the bytes of its file: resampled to what was asked, with what made it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from smalti.common.images import encode_image, to_rgb
from smalti.components import Components
from smalti.editing.canvas import Canvas
from smalti.editing.embedded import TEXT, EmbeddedTokens
from smalti.editing.picture import Picture
from smalti.generation.metadata import describe
from smalti.serving.tasks import Drawn, Task
from smalti.vq.naming import codebook_name

FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
"""Formats of results by their name in requests."""

MEDIA_TYPES = {name: f"image/{name}" for name in FORMATS}
"""Media types of the formats."""

_THUMBNAIL = 256


@dataclass(frozen=True)
class Output:
    """How images are encoded.

    Attributes:
        form: "png", "jpeg" or "webp".
        quality: quality of JPEG and WebP, from 0 to 100.
        size: (height, width) in pixels to resample to, or None for the size that was drawn.
        metadata: whether the file says what made it.
    """

    form: str = "png"
    quality: int = 100
    size: tuple[int, int] | None = None
    metadata: bool = True


class Encoder:
    """Encodes the images of a model.

    Args:
        components: the model.
        version: Smalti's, for the metadata.
    """

    def __init__(self, components: Components, version: str) -> None:
        self._name, self._version = components.name, version
        self._codebook = codebook_name(components.image_tokenizer)
        self._side = components.image_tokenizer.config.downscale

    def encode(self, drawn: Drawn, task: Task, index: int, output: Output) -> tuple[bytes, Image.Image]:
        """Return the file of an image of a task, and the image as it is in the file."""
        image = drawn.image
        if output.size is not None and image.size != output.size[::-1]:
            image = image.resize(output.size[::-1], Image.Resampling.LANCZOS)
        if output.form == "jpeg" and image.mode != "RGB":
            image = to_rgb(image)
        text = self._text(drawn, task, index, image, output) if output.metadata else None
        return encode_image(image, FORMATS[output.form], text, output.quality), image

    def _text(
        self, drawn: Drawn, task: Task, index: int, image: Image.Image, output: Output
    ) -> dict[str, str]:
        seed = task.seeds[index]
        text = describe(task.prompt, task.negative_prompt, seed, task.settings, self._name, self._version)
        if drawn.edit is not None and drawn.edit.source_prompt:
            text["source prompt"] = drawn.edit.source_prompt
        if output.form == "png":
            # So that a later edit need not encode the image again.
            embedded = EmbeddedTokens(drawn.tokens, self._canvas(drawn, image), self._codebook)
            text[TEXT] = embedded.to_text(Picture(np.array(image)))
        return text

    def _canvas(self, drawn: Drawn, image: Image.Image) -> Canvas:
        """Return the place of the image, as it is in its file, on the canvas of its tokens."""
        size = (image.height, image.width)
        if drawn.edit is not None:
            return Canvas(size, drawn.edit.work.canvas.canvas, drawn.edit.work.canvas.place)
        height, width = (side * self._side for side in drawn.tokens.shape)
        return Canvas(size, (height, width), (0, 0, height, width))


def thumbnail(image: Image.Image) -> bytes:
    """Return a small WebP of an image.

    Example:
        >>> len(thumbnail(Image.new("RGB", (1024, 512)))) < 1000
        True
    """
    small = image.convert("RGBA" if image.mode == "RGBA" else "RGB")
    small.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BILINEAR)
    return encode_image(small, "WEBP", quality=80)


def encode_mask(mask: np.ndarray) -> bytes:
    """Return a mask (H, W) bool as a PNG that is white where it is True.

    Example:
        >>> len(encode_mask(np.ones((512, 512), dtype=bool))) < 1000
        True
    """
    return encode_image(Image.fromarray(mask), "PNG")
