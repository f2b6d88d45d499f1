"""Aspect-ratio buckets: the few shapes that images of any shape are fitted to, all with about the same area."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from smalti.errors import SmaltiError

Shape = tuple[int, int]
"""Height and width in pixels."""


def bucket_shapes(size: int, step: int, shortest: int, longest: int) -> tuple[Shape, ...]:
    """Return the shapes whose area is at most that of a square, the tallest first.

    Args:
        size: side of the square, which is one of the shapes.
        step: unit of all sides.
        shortest, longest: limits of the sides.

    Raises:
        SmaltiError: the limits exclude the square, or a number is no multiple of the step.

    Example:
        >>> bucket_shapes(64, 16, 32, 128)
        ((128, 32), (80, 48), (64, 64), (48, 80), (32, 128))
    """
    for name, value in (("size", size), ("shortest", shortest), ("longest", longest)):
        if value % step:
            raise SmaltiError(
                f"{name} must be a multiple of buckets.step, {step}, not {value}", argument=name
            )
    if not shortest <= size <= longest:
        raise SmaltiError(
            f"shortest and longest must have size, {size}, between them, not {shortest} and {longest}"
        )
    shapes = set()
    for side in range(shortest, size + 1, step):
        other = min(longest, size * size // side // step * step)
        shapes |= {(side, other), (other, side)}
    return tuple(sorted(shapes, reverse=True))


def nearest_shape(width: int, height: int, shapes: Sequence[Shape]) -> Shape:
    """Return the shape whose aspect ratio is nearest to an image's; the larger area wins a tie.

    Example:
        >>> nearest_shape(1000, 990, bucket_shapes(64, 16, 32, 128))
        (64, 64)
    """
    ratio = math.log(width / height)

    def distance(shape: Shape) -> tuple[float, int]:
        return round(abs(math.log(shape[1] / shape[0]) - ratio), 9), -shape[0] * shape[1]

    return min(shapes, key=distance)


class Bucket(NamedTuple):
    """What a bucket holds.

    Attributes:
        height: of its images, in pixels.
        width: of its images, in pixels.
        images: number of them.
        cropped: mean share of an image that is cropped away.
        enlarged: number of images that are smaller than the bucket.
    """

    height: int
    width: int
    images: int
    cropped: float
    enlarged: int


def cropped_share(width: np.ndarray, height: np.ndarray, shape: Shape) -> np.ndarray:
    """Return the shares of images that are cropped away when they are scaled to cover a shape; sides are (n,)."""
    scale = np.minimum(width / shape[1], height / shape[0])
    share: np.ndarray = 1 - shape[0] * shape[1] * scale * scale / (width * height)
    return share


def bucket_table(buckets: Iterable[Bucket]) -> str:
    """Return a table of buckets, the fullest first, with their sums."""
    buckets = sorted(buckets, key=lambda bucket: (-bucket.images, bucket.height))
    total = sum(bucket.images for bucket in buckets)
    rows = [("width×height", "images", "share", "cropped away", "enlarged")]
    for bucket in buckets:
        rows.append(
            (
                f"{bucket.width}×{bucket.height}",
                f"{bucket.images:,}",
                f"{100 * bucket.images / total:.1f} %",
                f"{100 * bucket.cropped:.1f} %",
                f"{bucket.enlarged:,}",
            )
        )
    cropped = sum(bucket.images * bucket.cropped for bucket in buckets) / total
    enlarged = sum(bucket.enlarged for bucket in buckets)
    rows.append(("all", f"{total:,}", "100.0 %", f"{100 * cropped:.1f} %", f"{enlarged:,}"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(map(str.rjust, row, widths)) for row in rows)
