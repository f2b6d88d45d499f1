"""Images and masks as callers have them: files of any format, any mode, and any orientation."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image

from smalti.common.images import read_metadata, to_rgb, to_srgb
from smalti.common.opening import check_pixels, decode, open_image, readable
from smalti.errors import SmaltiError

LARGEST_PIXELS = 64_000_000
"""Largest number of pixels of an image. A larger file is refused by its header, before it is decoded."""

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
    def prompt(self) -> str | None:
        """Prompt that Smalti made the image with; None where its file does not say so."""
        return self._own("prompt")

    @property
    def model(self) -> str | None:
        """Name of the model that drew the image; None where its file does not say so."""
        return self._own("model")

    def _own(self, key: str) -> str | None:
        # Other programs write other things under these keys.
        return self.text.get(key) if self.text.get("Software", "").startswith("Smalti") else None

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
    with _named(name), readable("its content"):
        return Picture(np.array(to_srgb(opened)), text)


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
        mask = _to_array(mask)
    sizes = [size]
    if isinstance(mask, np.ndarray) and mask.ndim == 2 and mask.dtype in (np.bool_, np.uint8):
        values = mask if mask.dtype == np.bool_ else mask >= _HALF
        sizes.append(grid)
    else:
        opened = _open(mask, "mask")
        with _named("mask"), readable("its content"):
            values = np.array(_over_black(opened)) >= _HALF
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


def _to_array(mask: torch.Tensor) -> np.ndarray:
    """Return a tensor as an array; other dtypes than a mask's become float64, which are refused as arrays are."""
    known = mask.dtype in (torch.bool, torch.uint8)
    try:
        return mask.cpu().numpy() if known else mask.detach().cpu().double().numpy()
    except (RuntimeError, TypeError) as error:  # on the meta device, sparse, or quantized
        kind = f"{mask.dtype} {mask.layout} on {mask.device}".replace("torch.", "")
        raise SmaltiError(
            f"mask must be a dense tensor of bool or uint8, not {kind}", argument="mask"
        ) from error


def _open(image: Any, name: str) -> Image.Image:
    """Return an image decoded and upright, in its own mode, with the texts of its file in `info`."""
    if isinstance(image, np.ndarray):
        layout = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))
        if image.dtype != np.uint8 or not layout:
            raise SmaltiError(
                f"{name} as an array must be uint8 (H, W), (H, W, 3) or (H, W, 4), not {image.dtype} {image.shape}",
                argument=name,
            )
        with _named(name):
            check_pixels(image.shape[1], image.shape[0], LARGEST_PIXELS)
        return Image.fromarray(np.ascontiguousarray(image))
    named = isinstance(image, str | os.PathLike)
    if not isinstance(image, Image.Image) and not named and not hasattr(image, "read"):
        raise SmaltiError(
            f"{name} must be an image, its file or the file's name, not {type(image).__name__}", argument=name
        )
    with _named(name):
        if isinstance(image, Image.Image):
            return decode(image, "its content", LARGEST_PIXELS)
        if named:
            return open_image(image, LARGEST_PIXELS)
        with readable("its content"):  # the file may be closed, or of text in another encoding
            if image.seekable():
                image.seek(0)
            content = image.read()
        if not isinstance(content, bytes):
            raise SmaltiError("its content is not a readable image: it is text, not bytes")
        return open_image(BytesIO(content), LARGEST_PIXELS)


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Let errors in the block start with the argument's name."""
    try:
        yield
    except SmaltiError as error:
        separator = " " if str(error).startswith("must ") else ": "
        raise SmaltiError(f"{name}{separator}{error}", argument=name) from error


def _over_black(mask: Image.Image) -> Image.Image:
    """Return a mask in grey, black where it is transparent."""
    if not mask.has_transparency_data:
        return to_rgb(mask).convert("L")
    layered = mask.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layered.size, (0, 0, 0, 255)), layered).convert("L")
