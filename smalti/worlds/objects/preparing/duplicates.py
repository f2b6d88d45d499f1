"""Duplicates among sprites: images of one noun in one style that are equal, or nearly so."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from smalti.worlds.objects.archive import SIDE, Sprite

_CELLS = 16  # of a thumbnail in a row
_CLOSE = 2.0  # mean difference of two thumbnails, from 0 to 255, below which their images are duplicates


class Duplicates:
    """Images that were seen, by noun and style. Views of a model are compared with those from the same side.

    Example:
        >>> duplicates, image = Duplicates(), np.full((128, 128, 4), 255, np.uint8)
        >>> cat = Sprite("flat/cat", "cat", "cat", "flat")
        >>> duplicates.add(cat, image), duplicates.add(cat, image)
        (True, False)
    """

    def __init__(self) -> None:
        self._seen: defaultdict[tuple[object, ...], list[np.ndarray]] = defaultdict(list)

    def add(self, sprite: Sprite, pixels: np.ndarray) -> bool:
        """Remember an image, and return whether none like it was there.

        Args:
            sprite: what is known about the image.
            pixels: (128, 128, 4) uint8, RGBA.
        """
        color = sprite.color if sprite.recolored else None
        known = self._seen[sprite.style, sprite.noun or sprite.name, sprite.view, color]
        small = thumbnail(pixels)
        if any(float(np.abs(small - other).mean()) < _CLOSE for other in known):
            return False
        known.append(small)
        return True


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """Return (16, 16, 4) float32: the means of cells, with colours weighted by alpha."""
    values = pixels.astype(np.float32)
    values[..., :3] *= values[..., 3:] / 255
    cell = SIDE // _CELLS
    return values.reshape(_CELLS, cell, _CELLS, cell, 4).mean((1, 3))
