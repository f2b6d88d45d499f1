"""The ten shapes of scenes as signed distance functions.

Each function takes float32 coordinates from -1 to 1 in the shape's own square: x to the right (1, w) and y downwards
(h, 1). It returns an (h, w) float32 field that is negative inside, zero on the edge and positive outside. The field has
slope 1 across the edge, which anti-aliasing needs. Shapes are centred by their bounding box and are never turned.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np


def _half_plane(x: np.ndarray, y: np.ndarray, degrees: float, offset: float) -> np.ndarray:
    """Return the distance to a line `offset` from the centre, with its normal at `degrees` (0 right, 90 down)."""
    angle = math.radians(degrees)
    return (x * np.float32(math.cos(angle)) - np.float32(offset)) + y * np.float32(math.sin(angle))


def _radius(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.sqrt(x * x + y * y)


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _radius(x, y) - np.float32(1)


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # It fills 0.9 of its square, and so looks as large as a circle of the same size.
    return np.maximum(np.abs(x), np.abs(y)) - np.float32(0.9)


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # Equilateral, side 2, moved down so that its bounding box is centred.
    y = y - np.float32(math.sqrt(3) / 6)
    inner = 1 / math.sqrt(3)
    sides = np.maximum(_half_plane(x, y, -30, inner), _half_plane(x, y, 210, inner))
    return np.maximum(sides, y - np.float32(inner))


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # A pentagram is what lies outside at most one of five half planes: the second largest of five distances.
    y = y - np.float32(0.1)
    inner = 1.05 * math.cos(math.radians(72))
    largest = _half_plane(x, y, -90, inner)
    second = np.full_like(largest, -np.inf)
    for step in range(1, 5):
        distance = _half_plane(x, y, -90 + 72 * step, inner)
        second = np.maximum(second, np.minimum(largest, distance))
        largest = np.maximum(largest, distance)
    return second


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # A square on its corner with half discs on its two upper sides.
    side = 2 / (1 + 1 / math.sqrt(2))
    lobe = side / (2 * math.sqrt(2))
    x = np.abs(x)
    y = y - np.float32(0.0732 * side)
    corner = (x + np.abs(y)) * np.float32(1 / math.sqrt(2)) - np.float32(side / 2)
    disc = _radius(x - np.float32(lobe), y + np.float32(lobe)) - np.float32(side / 2)
    return np.minimum(corner, disc)


def _diamond(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    width = 0.7
    norm = math.hypot(1, width)
    return np.abs(x) * np.float32(1 / norm) + (np.abs(y) - np.float32(1)) * np.float32(width / norm)


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.maximum(x, y) - np.float32(0.97), np.minimum(x, y) - np.float32(0.34))


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(_radius(x, y) - np.float32(0.72)) - np.float32(0.28)


def _crescent(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # A disc less a smaller one to its right; moved right so that its bounding box is centred.
    x = x - np.float32(0.195)
    return np.maximum(_radius(x, y) - np.float32(1), np.float32(0.8) - _radius(x - np.float32(0.5), y))


def _arrow(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # Points to the right: a bar, and a head that starts at `neck`.
    y = np.abs(y)
    neck, half_height = -0.05, 0.9
    norm = math.hypot(1 - neck, half_height)
    slope = (x - np.float32(1)) * np.float32(half_height / norm) + y * np.float32((1 - neck) / norm)
    head = np.maximum(slope, np.float32(neck) - x)
    shaft = np.maximum(np.abs(x + np.float32(0.425)) - np.float32(0.575), y - np.float32(0.34))
    return np.minimum(head, shaft)


SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "diamond": _diamond,
    "cross": _cross,
    "ring": _ring,
    "crescent": _crescent,
    "arrow": _arrow,
}
