"""Drawings trimmed to what they show and fitted into a sprite, so that things of all sources are equally large."""

from __future__ import annotations

import numpy as np
from PIL import Image

from smalti.errors import SmaltiError
from smalti.worlds.objects.archive import SIDE

_MARGIN = 3  # pixels
_VISIBLE = 8  # smallest alpha that counts


def fitted(image: Image.Image, name: str) -> np.ndarray:
    """Return what an image shows as (128, 128, 4) uint8, in the middle and with a margin of three pixels.

    Args:
        image: an image in mode RGBA.
        name: names the image in errors.

    Raises:
        SmaltiError: all of it is transparent.
    """
    box = image.getchannel("A").point(lambda alpha: 255 * (alpha >= _VISIBLE)).getbbox()
    if box is None:
        raise SmaltiError(f"{name} must show something, and all of it is transparent")
    cut = image.crop(box)
    inner = SIDE - 2 * _MARGIN
    scale = inner / max(cut.size)
    size = (max(round(cut.width * scale), 1), max(round(cut.height * scale), 1))
    # Colours are weighted by alpha, or transparent pixels would shine through at the edges.
    cut = cut.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    framed = Image.new("RGBA", (SIDE, SIDE))
    framed.paste(cut, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    picture = np.array(framed)
    picture[picture[..., 3] == 0] = 0
    return picture
