"""Sprites as images: decoded, turned and scaled, with caches; and the colours of their outlines."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image

from smalti.worlds.objects.archive import SIDE, SpriteArchive

_DECODED, _SCALED, _OUTLINES = 512, 512, 16384  # entries of the caches: 64 KiB, about 64 KiB, 0.3 KiB each

_OUTLINE_POINTS = 48

Box = tuple[int, int, int, int]


class Pictures:
    """Images of an archive's sprites, made when they are asked for."""

    def __init__(self, archive: SpriteArchive) -> None:
        self.archive = archive
        self.decoded = lru_cache(_DECODED)(self._decoded)
        self.scaled = lru_cache(_SCALED)(self._scaled)
        self.outline = lru_cache(_OUTLINES)(self._outline)

    def __reduce__(self) -> tuple[type[Pictures], tuple[SpriteArchive]]:
        return Pictures, (self.archive,)

    def _decoded(self, number: int) -> Image.Image:
        """Return a sprite, RGBA."""
        return Image.fromarray(self.archive.image(number), "RGBA")

    def _scaled(
        self, number: int, side: int, turn: float = 0.0, mirrored: bool = False
    ) -> tuple[Image.Image, Box]:
        """Return a sprite on a square, and the box of what is visible (left, top, right, bottom).

        Args:
            number: number of the sprite.
            side: side of the square in pixels.
            turn: angle in degrees, counter-clockwise. A turned sprite is a little smaller, so that nothing is cut off.
            mirrored: whether left and right are exchanged.
        """
        image = self.decoded(number)
        if mirrored:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if turn:
            image = image.convert("RGBa").rotate(turn, Image.Resampling.BILINEAR, expand=True).convert("RGBA")
            box = _visible(image)
            image = _centred(image.crop(box))
        image = image.resize((side, side), Image.Resampling.BICUBIC)
        return image, _visible(image)

    def _outline(self, number: int) -> np.ndarray:
        """Return (N, 3) float32, colours at the edge of a sprite's visible part, in Oklab."""
        pixels = np.asarray(self.decoded(number))[::2, ::2]
        solid = pixels[..., 3] > 127
        padded = np.pad(solid, 2)
        inner = padded[:-4, 2:-2] & padded[4:, 2:-2] & padded[2:-2, :-4] & padded[2:-2, 4:]
        colors = pixels[solid & ~inner][:, :3]
        if not len(colors):
            colors = pixels.reshape(-1, 4)[:, :3]
        return oklab(colors[:: -(-len(colors) // _OUTLINE_POINTS)])


def oklab(colors: np.ndarray) -> np.ndarray:
    """Return sRGB colours (..., 3) of 0 to 255 as float32 in Oklab, times 100."""
    linear = (np.asarray(colors, np.float32) / 255) ** np.float32(2.2)
    return np.cbrt(linear @ _TO_CONES) @ _TO_LAB


_TO_CONES = np.array(
    [
        [0.4122214708, 0.2119034982, 0.0883024619],
        [0.5363325363, 0.6806995451, 0.2817188376],
        [0.0514459929, 0.1073969566, 0.6299787005],
    ],
    np.float32,
)
_TO_LAB = 100 * np.array(
    [
        [0.2104542553, 1.9779984951, 0.0259040371],
        [0.7936177850, -2.4285922050, 0.7827717662],
        [-0.0040720468, 0.4505937099, -0.8086757660],
    ],
    np.float32,
)


def _visible(image: Image.Image) -> Box:
    box = image.getchannel("A").point(_SEEN).getbbox()
    return box or (0, 0, *image.size)


_SEEN = [0] * 24 + [255] * 232


def _centred(image: Image.Image) -> Image.Image:
    """Return an image in the middle of a square with a margin, like that of most sprites."""
    side = max(SIDE, round(max(image.size) * 1.06))
    canvas = Image.new("RGBA", (side, side))
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas
