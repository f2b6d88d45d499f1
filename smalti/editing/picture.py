"""Images and masks as callers have them: files of any format, any mode, and any orientation."""

from __future__ import annotations

import hashlib
import os
import struct
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from smalti.common.checks import quoted
from smalti.common.images import read_metadata, to_rgb
from smalti.errors import SmaltiError

LARGEST_PIXELS = 64_000_000
"""Largest number of pixels of an image. A larger file is refused by its header, before it is decoded."""

# What Pillow raises for files that are not images, are truncated or are damaged.
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error)
_HALF = 128


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded, upright image with the metadata of its file.

    Attributes:
        pixels: (H, W, 3) uint8, or (H, W, 4) if some may be transparent.
        text: texts of its file by key, such as those of a PNG.
    """

    pixels: np.ndarray
    text: Mapping[str, str] = field(default_factory=dict)

    @property
    def shown(self) -> np.ndarray:
        """The pixels over white, (H, W, 3) uint8."""
        if self.pixels.shape[2] == 3:
            return self.pixels
        return np.array(to_rgb(Image.fromarray(self.pixels)))

    @property
    def digest(self) -> str:
        """SHA-256 of size and pixels. It is the same for an image in another lossless format."""
        return hashlib.sha256(
            str(self.pixels.shape).encode() + np.ascontiguousarray(self.pixels).tobytes()
        ).hexdigest()


def open_picture(image: Any, name: str = "image") -> Picture:
    """Open and decode an image.

    Args:
        image: name of a file, open binary file, PIL image, or array, (H, W), (H, W, 3) or (H, W, 4) uint8.
        name: name of the argument, for errors.

    Raises:
        SmaltiError: it is none of these, is damaged, has no pixels, or has more than `LARGEST_PIXELS`.
    """
    opened = _open(image, name)
    text = read_metadata(opened)
    if opened.has_transparency_data:
        return Picture(np.array(opened.convert("RGBA")), text)
    return Picture(np.array(to_rgb(opened)), text)


def open_mask(mask: Any, size: tuple[int, int], grid: tuple[int, int]) -> np.ndarray:
    """Open a mask and return it as bool, True where the image is to change: (H, W) in pixels or (h, w) in tokens.

    Args:
        mask: name of a file, open binary file or PIL image, as large as the image; lighter than mid-grey means change.
            An array or a tensor, bool or uint8, may have the image's pixels (H, W) or the grid's tokens (h, w).
        size: (H, W) of the image in pixels.
        grid: (h, w) of the grid in tokens.

    Raises:
        SmaltiError: it is none of these, has another size, is empty, or covers everything.
    """
    if isinstance(mask, torch.Tensor):
        known = mask.dtype in (torch.bool, torch.uint8)
        # Other dtypes are refused as arrays are; NumPy lacks bfloat16.
        mask = (mask if known else mask.detach().double()).cpu().numpy()
    sizes = [size]
    if isinstance(mask, np.ndarray) and mask.ndim == 2 and mask.dtype in (np.bool_, np.uint8):
        values = mask if mask.dtype == np.bool_ else mask >= _HALF
        sizes.append(grid)
    else:
        values = np.array(_over_black(_open(mask, "mask"))) >= _HALF
    if values.shape not in sizes:
        allowed = f"as large as the image, {size[1]}×{size[0]} pixels"
        if len(sizes) > 1:
            allowed += f", or as its grid, {grid[1]}×{grid[0]} tokens"
        found = f"{values.shape[1]}×{values.shape[0]}"
        raise SmaltiError(f"mask must be {allowed}, not {found}", argument="mask")
    if not values.any():
        raise SmaltiError(
            "mask must not be empty: make it white where the image is to change", argument="mask"
        )
    if values.all():
        raise SmaltiError(
            "mask must not cover everything: nothing of the image would stay; generate a new one instead",
            argument="mask",
        )
    return values


def _open(image: Any, name: str) -> Image.Image:
    """Return an image decoded and upright, in its own mode, with the texts of its file in `info`."""
    if isinstance(image, np.ndarray):
        layout = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))
        if image.dtype != np.uint8 or not layout:
            raise SmaltiError(
                f"{name} as an array must be uint8 (H, W), (H, W, 3) or (H, W, 4), not {image.dtype} {image.shape}",
                argument=name,
            )
        _check_size(image.shape[1], image.shape[0], name)
        return Image.fromarray(np.ascontiguousarray(image))
    if isinstance(image, Image.Image):
        return _decode(image, name, "its content")
    if not isinstance(image, str | os.PathLike) and not hasattr(image, "read"):
        raise SmaltiError(
            f"{name} must be an image, its file or the file's name, not {type(image).__name__}", argument=name
        )
    what = quoted(str(image))[1:-1] if isinstance(image, str | os.PathLike) else "its content"
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images; here they are refused.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(image)
    except FileNotFoundError as error:
        raise SmaltiError(f"{name}: {what} does not exist", argument=name) from error
    except Image.DecompressionBombError as error:
        raise SmaltiError(
            f"{name}: {what} has more than {LARGEST_PIXELS // 10**6} megapixels", argument=name
        ) from error
    except _BROKEN as error:
        raise SmaltiError(f"{name}: {what} is not a readable image: {error}", argument=name) from error
    with opened:
        return _decode(opened, name, what)


def _decode(image: Image.Image, name: str, what: str) -> Image.Image:
    """Return an opened image decoded and upright; `what` names it in errors about its content."""
    _check_size(*image.size, name)
    try:
        image.load()
        upright = ImageOps.exif_transpose(image)
    except _BROKEN as error:
        raise SmaltiError(f"{name}: {what} is not a readable image: {error}", argument=name) from error
    upright.info.update({key: value for key, value in image.info.items() if isinstance(value, str)})
    return upright


def _check_size(width: int, height: int, name: str) -> None:
    """Raise SmaltiError if an image has no pixels or too many."""
    if width < 1 or height < 1:
        raise SmaltiError(f"{name} must have at least one pixel, not {width}×{height}", argument=name)
    if width * height > LARGEST_PIXELS:
        raise SmaltiError(
            f"{name} must have at most {LARGEST_PIXELS // 10**6} megapixels, "
            f"not {width}×{height}, which is {width * height / 1e6:.0f}",
            argument=name,
        )


def _over_black(mask: Image.Image) -> Image.Image:
    """Return a mask in grey, black where it is transparent."""
    if not mask.has_transparency_data:
        return to_rgb(mask).convert("L")
    layered = mask.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layered.size, (0, 0, 0, 255)), layered).convert("L")
