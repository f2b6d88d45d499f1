"""Which triangle shows at each sample of a picture: scan lines, spans and a depth buffer, all in NumPy.

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
"""Largest number of triangles of a picture."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples of a picture and the triangles that cover them.

    Attributes:
        index: (S,) int64 places in the picture, row by row.
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
        edges: (8, H) float64: left column and its change by row, right column and change, left depth and change, right
            depth and change. They hold for row 0.
    """

    triangle: np.ndarray
    first: np.ndarray
    rows: np.ndarray
    edges: np.ndarray


def rasterize(
    points: np.ndarray, size: int, doubtful: np.ndarray | None = None, keep: Keep | None = None
) -> Samples:
    """Return what shows at each sample of a square picture.

    Args:
        points: (T, 3, 3) corners: column and row in samples, and nearness, which is larger for what is nearer and
            linear in the picture (one over the distance). Triangles show from both sides.
        size: samples in a row.
        doubtful: (T,) bool, triangles that may let others through, or None.
        keep: tells which samples such triangles cover.
    """
    low = float(points[..., 2].min(initial=1e9))
    extent = max(float(points[..., 2].max(initial=-1e9)) - low, 1e-12)
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
    bounds = np.ceil(points[..., :2] - 0.5)
    kept = np.flatnonzero((bounds.max(axis=1) > bounds.min(axis=1)).all(axis=1))
    corners = points[kept]
    order = np.argsort(corners[..., 1], axis=1)
    corners = np.take_along_axis(corners, order[..., None], axis=1).astype(np.float64)
    corners[..., 2] = 1 - (corners[..., 2] - low) / extent
    top, middle, bottom = corners[:, 0], corners[:, 1], corners[:, 2]
    long_edge, upper, lower = _edge(top, bottom), _edge(top, middle), _edge(middle, bottom)
    rows = np.maximum(np.ceil(corners[..., 1] - 0.5), 0).astype(np.int64)
    # The middle corner lies on the left of the long edge or on its right.
    left = middle[:, 0] < long_edge[0] + long_edge[1] * middle[:, 1]
    edges = np.concatenate(
        [
            np.where(left, _woven(short, long_edge), _woven(long_edge, short))
            for short in (upper, lower)
        ],
        axis=1,
    )
    first = np.concatenate([rows[:, 0], rows[:, 1]])
    counts = np.concatenate([rows[:, 1] - rows[:, 0], rows[:, 2] - rows[:, 1]])
    used = np.flatnonzero(counts > 0)
    return _Halves(np.tile(kept, 2)[used], first[used], counts[used], edges[:, used])


def _edge(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return (4, T): column in row 0 and its change by row, depth in row 0 and its change, along edges."""
    height = end[:, 1] - start[:, 1]
    slopes = (end - start) / np.where(height > 0, height, 1)[:, None]
    at_zero = start - slopes * start[:, 1:2]
    return np.stack([at_zero[:, 0], slopes[:, 0], at_zero[:, 2], slopes[:, 2]])


def _woven(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return (8, T): columns of the left and the right edge, then their depths."""
    return np.concatenate([left[:2], right[:2], left[2:], right[2:]])


def _fragments(halves: _Halves, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the samples inside all halves, hidden ones too: (F,) places and (F,) packed depths and triangles."""
    starts = np.cumsum(halves.rows) - halves.rows
    row = np.arange(int(halves.rows.sum())) + np.repeat(halves.first - starts, halves.rows)
    middle = row + 0.5
    edges = np.repeat(halves.edges, halves.rows, axis=1)
    left, right = edges[0] + edges[1] * middle, edges[2] + edges[3] * middle
    begin = np.maximum(np.ceil(left - 0.5), 0)
    counts = np.minimum(np.ceil(right - 0.5), size) - begin
    used = np.flatnonzero((counts > 0) & (row < size))
    left, right, begin, row, middle = left[used], right[used], begin[used], row[used], middle[used]
    z_left, z_right = (edges[at][used] + edges[at + 1][used] * middle for at in (4, 6))
    lengths = counts[used].astype(np.int64)
    slope = np.where(lengths > 1, (z_right - z_left) / np.maximum(right - left, 0.5), 0)
    share = ((begin + 0.5 - left) / np.maximum(right - left, 1e-9)).clip(0, 1)
    depth = z_left + share * (z_right - z_left)
    # Whole numbers keep the sums exact, whatever the number of the first sample of a span is.
    change = (slope * _DEPTHS).astype(np.int64) << _TRIANGLE_BITS
    key = (depth * _DEPTHS).astype(np.int64) << _TRIANGLE_BITS
    key += np.repeat(halves.triangle, halves.rows)[used]
    spans = np.cumsum(lengths) - lengths
    steps = np.arange(int(lengths.sum()))
    index = steps + np.repeat(row * size + begin.astype(np.int64) - spans, lengths)
    packed = np.repeat(change, lengths)
    packed *= steps
    packed += np.repeat(key - spans * change, lengths)
    return index, packed


def interpolate(points: np.ndarray, values: np.ndarray, samples: Samples, size: int) -> np.ndarray:
    """Return (S, k) float32 values at samples, correct in perspective.

    Args:
        points: (T, 3, 3) corners as in `rasterize`.
        values: (T, 3, k) values at the corners.
        samples: where.
        size: samples in a row.
    """
    seen = np.zeros(len(points), bool)
    seen[samples.triangle] = True
    visible = np.flatnonzero(seen)
    places = np.zeros(len(points), np.int32)
    places[visible] = np.arange(len(visible), dtype=np.int32)
    corners = points[visible].astype(np.float64)
    near = corners[..., 2:]
    flat = np.concatenate([near, values[visible] * near], axis=2)
    (ax, ay), (bx, by) = ((corners[:, at, :2] - corners[:, 0, :2]).T[..., None] for at in (1, 2))
    area = ax * by - ay * bx
    area = np.where(np.abs(area) > 1e-9, area, 1e-9)
    first, second = flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0]
    by_column, by_row = (first * by - second * ay) / area, (second * ax - first * bx) / area
    # From the first corner on: sums of large numbers that cancel would lose digits.
    width = flat.shape[2]
    table = np.concatenate([flat[:, 0], by_column, by_row, corners[:, 0, :2]], axis=1).astype(np.float32)
    rows = np.take(table, places[samples.triangle], axis=0)
    column, row = samples.index % size + np.float32(0.5), samples.index // size + np.float32(0.5)
    right, down = (column - rows[:, -2]).astype(np.float32), (row - rows[:, -1]).astype(np.float32)
    found = rows[:, :width] + right[:, None] * rows[:, width : 2 * width]
    found += down[:, None] * rows[:, 2 * width : 3 * width]
    return np.asarray(found[:, 1:] / np.maximum(found[:, :1], 1e-9))
