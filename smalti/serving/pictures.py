"""Images and masks that clients send: three formats, sizes known from the header before anything is decoded."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from smalti.common.images import to_rgb
from smalti.common.opening import decode, readable
from smalti.editing.picture import Picture, open_picture
from smalti.errors import SmaltiError
from smalti.serving.errors import invalid
from smalti.serving.limits import Limits

FORMATS = ("PNG", "JPEG", "WEBP")
"""Formats that are read. Others have more parsers than a server should show to strangers."""

_HALF = 128


def read_picture(content: bytes, limits: Limits, name: str = "image") -> Picture:
    """Return the first frame of an image, upright, with its metadata.

    Args:
        content: the file.
        name: the field, for errors.

    Raises:
        ApiError: another format, a damaged file, or too many pixels.
    """
    with _named(name):
        opened = _open(content, limits)
        return open_picture(opened, name)


def read_mask(content: bytes, mode: str, size: tuple[int, int], limits: Limits) -> np.ndarray:
    """Return a mask as (H, W) bool, True where the image is to change.

    Args:
        content: the file.
        mode: "alpha", "white" or "auto"; auto is alpha where the mask is transparent in some places and not in others.
        size: (H, W) of the image.

    Raises:
        ApiError: it cannot be read, has another size, is empty, covers everything, or has no alpha.
    """
    with _named("mask"):
        opened = decode(_open(content, limits), "its content", limits.image_pixels)
        alpha = _alpha(opened)
        if mode == "alpha" and alpha is None:
            raise SmaltiError("must have an alpha channel with mask_mode alpha")
        by_alpha = alpha is not None and (mode == "alpha" or (mode == "auto" and alpha.min() < alpha.max()))
        if by_alpha:
            assert alpha is not None
            values = alpha < _HALF
        else:
            values = np.asarray(to_rgb(opened).convert("L")) >= _HALF
    if values.shape != size:
        found = f"{values.shape[1]}x{values.shape[0]}"
        raise invalid(f"mask must be as large as the image, {size[1]}x{size[0]} pixels, not {found}", "mask")
    if values.all() or not values.any():
        what = "covers everything" if values.all() else "is empty"
        marked, other = ("transparent", "white") if by_alpha else ("white", "alpha")
        message = (
            f"mask {what}: its {marked} pixels are what changes; mask_mode {other} reads it the other way"
        )
        raise invalid(message, "mask")
    return values


def read_data_url(text: str, name: str) -> bytes:
    """Return the content of a data URL; other URLs are refused, because the server fetches nothing.

    Raises:
        ApiError: it is none.
    """
    found = re.match(r"data:image/(?:png|jpeg|webp);base64,", text[:64])
    if found is None:
        raise invalid(
            f"{name} must be a file, or a data URL of a PNG, JPEG or WebP; the server fetches no URLs",
            name,
            "invalid_type",
        )
    try:
        return base64.b64decode(text[found.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid(f"{name} must be a data URL in base64", name) from error


def _open(content: bytes, limits: Limits) -> Image.Image:
    """Return an image whose header fits; nothing is decoded yet."""
    try:
        opened = Image.open(BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise SmaltiError("must be a PNG, JPEG or WebP file") from error
    width, height = opened.size
    if width * height > limits.image_pixels or max(width, height) > limits.image_side:
        raise SmaltiError(
            f"must have at most {limits.image_pixels / 1e6:g} megapixels and sides of at most {limits.image_side} "
            f"pixels, not {width}x{height}"
        )
    return opened


def _alpha(image: Image.Image) -> np.ndarray | None:
    """Return the alpha channel of an image (H, W) uint8, or None if it has none."""
    return np.asarray(image.convert("RGBA").getchannel("A")) if image.has_transparency_data else None


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Turn errors of reading into those of a field."""
    try:
        with readable("its content"):
            yield
    except SmaltiError as error:
        text = str(error).removeprefix(f"{name} ").removeprefix(f"{name}: ")
        separator = " " if text.startswith("must ") else ": "
        raise invalid(f"{name}{separator}{text}", name, "invalid_image") from error
