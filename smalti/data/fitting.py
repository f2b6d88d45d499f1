"""How an image of any size becomes one of the shapes that a model takes: scaled until it covers it, then cropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from smalti.common.checks import check_choice, quoted
from smalti.data.buckets import Shape, nearest_shape
from smalti.errors import SmaltiError

CROPS = ("center", "random")
LARGEST_SIDE = 8192
"""Largest side of a shape in pixels."""

_TOLERANCE = 0.02  # of a mask's aspect ratio


@dataclass(frozen=True)
class Fitting:
    """The shapes of a source, and which part of an image is kept.

    Attributes:
        shapes: heights and widths in pixels; an image takes the one whose aspect ratio is nearest.
        crop: part that is kept, "center" or "random". A random crop depends on the seed and the image's number.
        seed: seed of random crops.
    """

    shapes: tuple[Shape, ...]
    crop: str = "center"
    seed: int = 0

    @classmethod
    def of(cls, size: Any, crop: str, seed: int, shapes: Sequence[Shape] | None = None) -> Fitting:
        """Return the fitting to a size, a side or (height, width), or to several shapes.

        Raises:
            SmaltiError: an argument is wrong.
        """
        sides = size if isinstance(size, tuple) and len(size) == 2 else (size, size)
        if not all(type(side) is int and 1 <= side <= LARGEST_SIDE for side in sides):
            raise SmaltiError(
                f"size must be a whole number of pixels from 1 to {LARGEST_SIDE}, or two, not {quoted(size)}",
                argument="size",
            )
        check_choice("crop", crop, CROPS)
        return cls(tuple(shapes) if shapes else (sides,), crop, seed)

    def fit(
        self, whole: Image.Image, mask: Image.Image | None, index: int
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return an image and its mask in one of the shapes.

        Args:
            whole: an image in mode RGB.
            mask: its mask in mode L, of any size with the image's proportions, or None.
            index: number of the image, for a random crop.

        Returns:
            (H, W, 3) uint8, and (H, W) uint8 or None.

        Raises:
            SmaltiError: the mask has other proportions.
        """
        height, width = nearest_shape(whole.width, whole.height, self.shapes)
        scale = min(whole.width / width, whole.height / height)
        spare_x, spare_y = whole.width - width * scale, whole.height - height * scale
        x = y = 0.5
        if self.crop == "random":
            random = Random(f"smalti crop {self.seed} {index}")
            x, y = random.random(), random.random()
        left, top = spare_x * x, spare_y * y
        box = (left, top, min(left + width * scale, whole.width), min(top + height * scale, whole.height))
        # Pillow's resize widens its filter when it shrinks, so that nothing aliases.
        pixels = np.array(whole.resize((width, height), Image.Resampling.LANCZOS, box=box))
        if mask is None:
            return pixels, None
        across, down = mask.width / whole.width, mask.height / whole.height
        if abs(across / down - 1) > _TOLERANCE:
            raise SmaltiError(
                f"its mask has {mask.width}×{mask.height} pixels, other proportions than "
                f"{whole.width}×{whole.height}"
            )
        box = (
            box[0] * across,
            box[1] * down,
            min(box[2] * across, mask.width),
            min(box[3] * down, mask.height),
        )
        return pixels, np.array(mask.resize((width, height), Image.Resampling.BOX, box=box))
