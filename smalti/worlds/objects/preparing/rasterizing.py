"""Which triangle shows at each sample of an image: scan lines, spans and a depth buffer, all in NumPy.

A triangle is cut into an upper and a lower half. Every half becomes the rows of samples that it crosses, every row a
span, and every span its samples. Depth and triangle are packed into one integer, and the smallest one of a sample wins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

_EMPTY = np.iinfo(np.int64).max
_TRIANGLE_BITS = 22
_DEPTHS = 2.0**36

MOST_TRIANGLES = 2**_TRIANGLE_BITS
"""Largest number of triangles of an image."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples of an image and the triangles that cover them.

    Attributes:
        index: (S,) int64 places in the image, row by row.
        triangle: (S,) int64 rows of the triangles.
    """

    index: np.ndarray
    triangle: np.ndarray


Keep = Callable[[Samples], np.ndarray]
"""Function that returns (S,) bool for samples of transparent triangles: whether the triangle covers them."""


@dataclass(frozen=True, eq=False)
class _Halves:
    """Halves of triangles: rows from `first` on, between two edges, each with its column and its depth.

    Attributes:
        triangle: (H,) int64 row of the triangle.
        first: (H,) int64 first row of samples.
        rows: (H,) int64 number of rows.
        edges: (8, H) float32: left column and its change by row, right column and change, left depth and change, right
            depth and change. They hold for the middle of the first row.
    """

    triangle: np.ndarray
    first: np.ndarray
    rows: np.ndarray
    edges: np.ndarray


def rasterize(
    points: np.ndarray, size: int, doubtful: np.ndarray | None = None, keep: Keep | None = None
) -> Samples:
    """Return what shows at each sample of a square image.

    Args:
        points: (3, 3, T) float32 columns, rows and nearness of the corners, in samples. Nearness is larger for what is
            nearer, and linear in the image (one over the distance). Triangles lie inside the image and show from
            both sides.
        size: samples in a row.
        doubtful: (T,) bool, triangles that may let others through, or None.
        keep: tells which samples such triangles cover.
    """
    low = float(points[2].min(initial=1e9))
    extent = max(float(points[2].max(initial=-1e9)) - low, 1e-12)
    index, key = _fragments(_halves(points, low, extent), size)
    if doubtful is not None and keep is not None and doubtful.any():
        triangle = key & (MOST_TRIANGLES - 1)
        kept = ~doubtful[triangle]
        rows = np.flatnonzero(~kept)
        kept[rows] = keep(Samples(index[rows], triangle[rows]))
        index, key = index[kept], key[kept]
    nearest = np.full(size * size, _EMPTY)
    np.minimum.at(nearest, index, key)
    index = np.flatnonzero(nearest != _EMPTY)
    return Samples(index, nearest[index] & (MOST_TRIANGLES - 1))


def _halves(points: np.ndarray, low: float, extent: float) -> _Halves:
    """Return the halves of triangles that may cover the middle of a sample."""
    bounds = np.ceil(points[:2] - np.float32(0.5))
    lowest = np.minimum(np.minimum(bounds[:, 0], bounds[:, 1]), bounds[:, 2])
    highest = np.maximum(np.maximum(bounds[:, 0], bounds[:, 1]), bounds[:, 2])
    kept = np.flatnonzero((highest > lowest).all(axis=0))
    corners = points[:, :, kept]
    corners[2] = 1 - (corners[2] - low) / extent
    top, middle, bottom = _sorted_by_row(corners)
    long_edge, upper, lower = _edge(top, bottom), _edge(top, middle), _edge(middle, bottom)
    rows = [np.ceil(corner[1] - np.float32(0.5)) for corner in (top, middle, bottom)]
    # The middle corner lies on the left of the long edge or on its right.
    left = middle[0] < top[0] + long_edge[0] * (middle[1] - top[1])
    parts = []
    for short, first in ((upper, rows[0]), (lower, rows[1])):
        start = top if short is upper else middle
        steps, long_steps = first + np.float32(0.5) - start[1], first + np.float32(0.5) - top[1]
        ends = []
        for axis, change in ((0, 0), (2, 1)):
            one = (start[axis] + short[change] * steps, short[change])
            other = (top[axis] + long_edge[change] * long_steps, long_edge[change])
            ends += [np.where(left, a, b) for a, b in zip(one, other, strict=True)]
            ends += [np.where(left, b, a) for a, b in zip(one, other, strict=True)]
        parts.append(np.stack(ends))
    first = np.concatenate(rows[:2]).astype(np.int64)
    counts = np.concatenate([rows[1] - rows[0], rows[2] - rows[1]]).astype(np.int64)
    used = np.flatnonzero(counts > 0)
    edges = np.concatenate(parts, axis=1)[:, used]
    return _Halves(np.concatenate([kept, kept])[used], first[used], counts[used], edges)


def _sorted_by_row(corners: np.ndarray) -> list[np.ndarray]:
    """Return the (3, T) top, middle and bottom corners of (3, 3, T) triangles."""
    found = [corners[:, at] for at in range(3)]
    for one, other in ((0, 1), (1, 2), (0, 1)):
        a, b = found[one], found[other]
        swapped = a[1] > b[1]
        found[one], found[other] = np.where(swapped, b, a), np.where(swapped, a, b)
    return found


def _edge(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return by how much the column and the depth change from row to row along edges."""
    height = end[1] - start[1]
    height = np.where(height > 0, height, 1)
    return (end[0] - start[0]) / height, (end[2] - start[2]) / height


def _fragments(halves: _Halves, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the samples inside all halves, hidden ones too: (F,) places and (F,) packed depths and triangles."""
    starts = np.cumsum(halves.rows) - halves.rows
    owner = np.repeat(np.arange(len(halves.rows)), halves.rows)
    step = (np.arange(len(owner)) - starts[owner]).astype(np.float32)
    left, right = (halves.edges[at][owner] + halves.edges[at + 1][owner] * step for at in (0, 2))
    begin = np.ceil(left - np.float32(0.5))
    counts = np.ceil(right - np.float32(0.5)) - begin
    used = np.flatnonzero(counts > 0)
    owner, step, begin, left, right = owner[used], step[used], begin[used], left[used], right[used]
    z_left, z_right = (halves.edges[at][owner] + halves.edges[at + 1][owner] * step for at in (4, 6))
    # Thin triangles have ends that are near each other, and their slopes would be noise.
    slope = (z_right - z_left) / np.maximum(right - left, np.float32(0.5))
    depth = (z_left + slope * (begin + np.float32(0.5) - left)).clip(0, 1).astype(np.float64)
    # Whole numbers keep the sums exact, whatever the number of the first sample of a span is.
    change = (slope.clip(-1, 1) * _DEPTHS).astype(np.int64) << _TRIANGLE_BITS
    key = ((depth * _DEPTHS).astype(np.int64) << _TRIANGLE_BITS) + halves.triangle[owner]
    lengths = counts[used].astype(np.int64)
    spans = np.cumsum(lengths) - lengths
    place = (halves.first[owner] + step.astype(np.int64)) * size + begin.astype(np.int64) - spans
    steps = np.arange(int(lengths.sum()))
    packed = np.repeat(change, lengths)
    packed *= steps
    packed += np.repeat(key - spans * change, lengths)
    steps += np.repeat(place, lengths)
    return steps, packed


def interpolate(points: np.ndarray, values: np.ndarray, samples: Samples, size: int) -> np.ndarray:
    """Return (k, S) float32 values at samples, correct in perspective.

    Args:
        points: (3, 3, T) corners as in `rasterize`.
        values: (k, 3, T) values at the corners.
        samples: where.
        size: samples in a row.
    """
    seen = np.zeros(points.shape[2], bool)
    seen[samples.triangle] = True
    visible = np.flatnonzero(seen)
    places = np.zeros(points.shape[2], np.int64)
    places[visible] = np.arange(len(visible))
    owner = places[samples.triangle]
    corners = points[:, :, visible].astype(np.float64)
    near = corners[2:]
    flat = np.concatenate([near, values[:, :, visible] * near])
    (ax, ay), (bx, by) = (corners[:2, at] - corners[:2, 0] for at in (1, 2))
    area = ax * by - ay * bx
    area = np.where(np.abs(area) > 1e-9, area, 1e-9)
    first, second = flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0]
    by_column = ((first * by - second * ay) / area).astype(np.float32)
    by_row = ((second * ax - first * bx) / area).astype(np.float32)
    # From the first corner on: sums of large numbers that cancel would lose digits.
    origin = corners[:2, 0].astype(np.float32)
    right = (samples.index % size).astype(np.float32) + np.float32(0.5) - origin[0][owner]
    down = (samples.index // size).astype(np.float32) + np.float32(0.5) - origin[1][owner]
    found = np.empty((len(flat), len(owner)), np.float32)
    for row, start in enumerate(flat[:, 0].astype(np.float32)):
        found[row] = start[owner]
        found[row] += right * by_column[row][owner]
        found[row] += down * by_row[row][owner]
    return np.asarray(found[1:] / np.maximum(found[0], np.float32(1e-9)))
