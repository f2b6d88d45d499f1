"""The size that a client asks for, and the size that a model draws."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from smalti.components import Components
from smalti.serving.errors import ApiError, invalid
from smalti.serving.limits import Limits

# The narrowest image, as its shorter side by its longer one.
_NARROWEST = 1 / 3


@dataclass(frozen=True)
class Size:
    """Sizes as (height, width) in pixels.

    Attributes:
        drawn: what the model draws.
        output: what it is resampled to, or None if that is the same.
    """

    drawn: tuple[int, int]
    output: tuple[int, int] | None = None


def parse_size(text: str, limits: Limits) -> tuple[int, int] | None:
    """Return (height, width) of "WIDTHxHEIGHT", or None for "auto".

    Raises:
        ApiError: it is neither, too large, or too narrow.

    Example:
        >>> parse_size("640x480", Limits()), parse_size("auto", Limits())
        ((480, 640), None)
    """
    if text == "auto":
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", text, re.ASCII)
    if found is None:
        raise invalid(f"size must be auto or WIDTHxHEIGHT, such as 512x512, not {text!r}", "size")
    width, height = int(found[1]), int(found[2])
    if width * height > limits.output_pixels:
        raise invalid(f"size must have at most {limits.output_pixels} pixels, not {text}", "size")
    if min(width, height) < 16 or min(width, height) / max(width, height) < _NARROWEST:
        raise invalid(f"size must have sides of at least 16 pixels, at most 1:3, not {text}", "size")
    return height, width


def plan_size(
    text: str, components: Components, native: tuple[int, int], *, strict: bool, limits: Limits
) -> Size:
    """Return what is drawn for a size: the model's own area in the asked shape, in whole units.

    Models draw well at the size that they were trained with, so a larger image is that size resampled.

    Args:
        text: "auto" or "WIDTHxHEIGHT".
        native: (height, width) of the model's own size.
        strict: whether a size that would be resampled is refused.

    Raises:
        ApiError: the size is wrong, or refused.
    """
    asked = parse_size(text, limits)
    if asked is None or asked == native:
        return Size(native)
    unit = components.image_tokenizer.config.downscale * components.denoiser.config.cell
    area, shape = native[0] * native[1], asked[0] / asked[1]
    height, width = (
        max(unit, round(side / unit) * unit) for side in (math.sqrt(area * shape), math.sqrt(area / shape))
    )
    if strict and (height, width) != asked:
        own = f"{native[1]}x{native[0]}"
        near = f"{width}x{height}"
        sizes = own if near == own else f"{own}, or {near} in this shape"
        raise ApiError(
            400, f"size must be one that the model draws: {sizes}, not {text}", "invalid_size", "size"
        )
    return Size((height, width), None if (height, width) == asked else asked)
