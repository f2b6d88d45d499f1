"""Outlines of each shape for the detector, in a few proportions each.

The detector shares no code with the renderer, so that the two cannot agree on a mistake. An outline is a list of closed
polygons, points (x, y) with y downwards. Points inside an odd number of them are inside the shape. Size and place do
not matter: `masks` brings every outline to the same area and centroid, and the detector its blobs.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from skimage.draw import polygon2mask

SIDE = 64
"""Side of the normalised masks in pixels."""

AREA = 0.13
"""Fraction of the normalised mask that a shape covers."""

Polygon = np.ndarray


def _arc(radius: float, center: tuple[float, float] = (0, 0), start: float = 0, stop: float = 360) -> Polygon:
    angle = np.radians(np.linspace(start, stop, 73))
    return np.stack([center[0] + radius * np.cos(angle), center[1] + radius * np.sin(angle)], axis=-1)


def _star(inner: float) -> list[Polygon]:
    angle = np.radians(np.arange(10) * 36 - 90)
    radius = np.where(np.arange(10) % 2, inner, 1)
    return [np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)]


def _heart(shoulder: float) -> list[Polygon]:
    # Two arcs of radius `shoulder` are the lobes; two straight sides meet at the tip.
    right = _arc(shoulder, (shoulder * 0.85, 0), -150, 40)
    return [np.concatenate([right, [[0, 1.05]], (right * [-1, 1])[::-1]])]


def _cross(arm: float) -> list[Polygon]:
    corner = [(arm, -1), (arm, -arm), (1, -arm)]
    turns = ((1, 0), (0, 1), (-1, 0), (0, -1))
    points = [(x * c - y * s, x * s + y * c) for c, s in turns for x, y in corner]
    return [np.array(points, dtype=float)]


def _crescent(radius: float, offset: float) -> list[Polygon]:
    # The outer circle (radius 1) and the circle cut out of it, `offset` to the right, meet at this x.
    x = (1 - radius**2 + offset**2) / (2 * offset)
    outer = float(np.degrees(np.arccos(x)))
    inner = float(np.degrees(np.arccos((x - offset) / radius)))
    return [
        np.concatenate(
            [_arc(1, start=outer, stop=360 - outer), _arc(radius, (offset, 0), start=360 - inner, stop=inner)]
        )
    ]


def _arrow(shaft: float, head: float, neck: float) -> list[Polygon]:
    upper = [(-1, -shaft), (neck, -shaft), (neck, -head), (1, 0)]
    return [np.array(upper + [(x, -y) for x, y in upper[-2::-1]], dtype=float)]


def _polygon(*points: tuple[float, float]) -> list[Polygon]:
    return [np.array(points, dtype=float)]


OUTLINES: dict[str, list[list[Polygon]]] = {
    "circle": [[_arc(1)]],
    "square": [_polygon((-1, -1), (1, -1), (1, 1), (-1, 1))],
    "triangle": [_polygon((0, -height), (1, 0), (-1, 0)) for height in (1.5, 1.75, 2.0)],
    "star": [_star(0.38), _star(0.48)],
    "heart": [_heart(0.56), _heart(0.62)],
    "diamond": [_polygon((0, -1), (width, 0), (0, 1), (-width, 0)) for width in (0.6, 0.75, 0.9)],
    "cross": [_cross(0.27), _cross(0.35), _cross(0.43)],
    "ring": [[_arc(1), _arc(hole)] for hole in (0.35, 0.45, 0.6)],
    "crescent": [_crescent(0.8, 0.5), _crescent(0.85, 0.4), _crescent(0.75, 0.6)],
    "arrow": [_arrow(0.33, 0.9, 0.0), _arrow(0.4, 0.85, -0.1), _arrow(0.25, 0.8, 0.1)],
}

SHAPES = tuple(OUTLINES)


@cache
def masks() -> tuple[np.ndarray, tuple[str, ...]]:
    """Return all outlines as coverage, float32 (n, SIDE, SIDE), of equal area and centroid, and their n names."""
    drawn, names = [], []
    for name, variants in OUTLINES.items():
        for polygons in variants:
            coarse = _rasterise(polygons, np.zeros(2), 1 / 3, 4 * SIDE)
            points = (np.argwhere(coarse > 0.5)[:, ::-1] + 0.5) / (4 * SIDE) - 0.5
            scale = (AREA / coarse.mean()) ** 0.5 / 3
            drawn.append(_rasterise(polygons, points.mean(axis=0) * 3, scale, SIDE))
            names.append(name)
    return np.stack(drawn), tuple(names)


def _rasterise(polygons: list[Polygon], center: np.ndarray, scale: float, side: int) -> np.ndarray:
    """Return the coverage, (side, side) float32, of polygons with `center` in the middle of an image of side 1."""
    over = 4
    inside = np.zeros((side * over, side * over), dtype=bool)
    for polygon in polygons:
        points = ((polygon - center) * scale + 0.5) * side * over - 0.5
        inside ^= polygon2mask(inside.shape, points[:, ::-1])
    return inside.reshape(side, over, side, over).mean(axis=(1, 3), dtype=np.float32)
