"""Extra shapes for variety in training: forty named shapes and endless random blobs.

They are signed distance functions as in `smalti.worlds.scenes.shapes`. Scores ignore them. A model that sees few shapes
memorises every pair of shape and colour. A model that sees many shapes must learn what a colour is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, lru_cache
from random import Random

import numpy as np

from smalti.worlds.scenes.shapes import SHAPES

Field = Callable[[np.ndarray, np.ndarray], np.ndarray]


def polygon(*corners: tuple[float, float]) -> Field:
    """Return the field of a polygon: distance to its nearest side, negative inside (even-odd rule)."""
    points = np.array(corners, dtype=np.float32)

    def field(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        x, y = np.broadcast_arrays(x, y)
        nearest = np.full(x.shape, np.inf, dtype=np.float32)
        inside = np.zeros(x.shape, dtype=bool)
        for (ax, ay), (bx, by) in zip(points, np.roll(points, -1, axis=0), strict=True):
            dx, dy = bx - ax, by - ay
            along = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy), 0, 1)
            nearest = np.minimum(nearest, np.hypot(x - ax - along * dx, y - ay - along * dy))
            if dy:
                inside ^= ((ay > y) != (by > y)) & (x < ax + dx * (y - ay) / dy)
        return np.where(inside, -nearest, nearest).astype(np.float32)

    return field


def regular(sides: int, turn: float = 0.0) -> Field:
    """Return a regular polygon in the circle of radius 1, its first corner `turn` degrees from the top."""
    angles = (math.radians(turn - 90 + 360 * side / sides) for side in range(sides))
    return polygon(*((math.cos(angle), math.sin(angle)) for angle in angles))


def disc(x0: float, y0: float, radius: float) -> Field:
    """Return a disc around (x0, y0)."""
    return lambda x, y: np.hypot(x - np.float32(x0), y - np.float32(y0)) - np.float32(radius)


def union(*parts: Field) -> Field:
    """Return the union of parts."""
    return lambda x, y: np.minimum.reduce([part(x, y) for part in parts])


def common(*parts: Field) -> Field:
    """Return the intersection of parts."""
    return lambda x, y: np.maximum.reduce([part(x, y) for part in parts])


def without(whole: Field, part: Field) -> Field:
    """Return the whole without the part."""
    return lambda x, y: np.maximum(whole(x, y), -part(x, y))


def box(left: float, top: float, right: float, bottom: float) -> Field:
    """Return a rectangle."""
    return polygon((left, top), (right, top), (right, bottom), (left, bottom))


def box_union(*boxes: tuple[float, float, float, float]) -> Field:
    """Return the union of rectangles."""
    return union(*(box(*corners) for corners in boxes))


def box_at(degrees: float, distance: float, half: float) -> Field:
    """Return a square of half side `half` at `distance` from the middle, turned by `degrees` around it."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = ((distance + a * half, b * half) for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1)))
    return polygon(*((x * cos - y * sin, x * sin + y * cos) for x, y in corners))


def _mirrored(*right: tuple[float, float]) -> Field:
    """Return a polygon of the corners of its right half, from top to bottom, and their mirror images."""
    return polygon(*right, *((-x, y) for x, y in reversed(right) if x))


EXTRA_SHAPES: dict[str, Field] = {
    "pentagon": regular(5),
    "hexagon": regular(6, 30),
    "octagon": regular(8, 22.5),
    "bar": box(-0.95, -0.45, 0.95, 0.45),
    "pillar": box(-0.45, -0.95, 0.45, 0.95),
    "trapezoid": _mirrored((0.5, -0.7), (0.95, 0.7)),
    "wedge": polygon((-0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)),
    "hourglass": _mirrored((0.8, -0.95), (0.15, 0), (0.8, 0.95)),
    "chevron": _mirrored((0, -0.8), (0.9, 0.1), (0.9, 0.8), (0, -0.1)),
    "house": _mirrored((0, -0.95), (0.95, -0.1), (0.75, -0.1), (0.75, 0.95)),
    "tree": _mirrored((0, -0.95), (0.75, 0.45), (0.2, 0.45), (0.2, 0.95)),
    "crown": _mirrored((0, -0.4), (0.4, 0.1), (0.9, -0.75), (0.9, 0.75)),
    "bolt": polygon((0.15, -0.95), (-0.6, 0.15), (-0.05, 0.15), (-0.25, 0.95), (0.6, -0.25), (0.05, -0.25)),
    "cup": union(box(-0.8, -0.75, 0.4, 0.8), without(disc(0.4, -0.05, 0.55), disc(0.4, -0.05, 0.3))),
    "dome": common(disc(0, 0.45, 0.95), box(-1, -1, 1, 0.45)),
    "leaf": common(disc(-0.5, 0, 1.05), disc(0.5, 0, 1.05)),
    "drop": union(disc(0, 0.3, 0.65), _mirrored((0, -0.95), (0.6, 0.08), (0, 0.3))),
    "cloud": union(
        disc(-0.5, 0.2, 0.45), disc(0.5, 0.2, 0.45), disc(0, -0.15, 0.55), box(-0.5, 0, 0.5, 0.65)
    ),
    "flower": union(
        *(disc(0.55 * math.cos(a), 0.55 * math.sin(a), 0.4) for a in np.arange(5) * 2 * np.pi / 5 - np.pi / 2)
    ),
    "fish": union(
        common(disc(0.2, -0.55, 0.93), disc(0.2, 0.55, 0.93)), polygon((-0.3, 0), (-0.95, -0.5), (-0.95, 0.5))
    ),
    "tee": box_union((-0.95, -0.95, 0.95, -0.3), (-0.33, -0.5, 0.33, 0.95)),
    "ell": box_union((-0.9, -0.9, -0.1, 0.9), (-0.3, 0.1, 0.9, 0.9)),
    "step": polygon(
        (-0.9, -0.9), (-0.3, -0.9), (-0.3, -0.3), (0.3, -0.3), (0.3, 0.3), (0.9, 0.3), (0.9, 0.9), (-0.9, 0.9)
    ),
    "frame": without(box(-0.9, -0.9, 0.9, 0.9), box(-0.4, -0.4, 0.4, 0.4)),
    "window": without(
        box(-0.7, -0.95, 0.7, 0.95), box_union((-0.4, -0.65, 0.4, -0.1), (-0.4, 0.1, 0.4, 0.65))
    ),
    "arch": without(box(-0.9, -0.8, 0.9, 0.8), union(disc(0, 0, 0.45), box(-0.45, -0.05, 0.45, 0.9))),
    "gem": _mirrored((0.55, -0.75), (0.95, -0.2), (0, 0.8)),
    "kite": _mirrored((0, -0.95), (0.7, -0.3), (0, 0.95)),
    "roof": _mirrored((0, -0.5), (0.98, 0.5)),
    "funnel": _mirrored((0.9, -0.85), (0.2, 0.1), (0.2, 0.9)),
    "spade": union(
        disc(-0.4, 0.2, 0.42),
        disc(0.4, 0.2, 0.42),
        _mirrored((0, -0.95), (0.72, -0.07), (0, 0.6)),
        _mirrored((0.05, 0.3), (0.35, 0.95)),
    ),
    "clover": union(
        disc(0, -0.5, 0.45), disc(-0.5, 0.2, 0.45), disc(0.5, 0.2, 0.45), box(-0.12, 0, 0.12, 0.95)
    ),
    "horseshoe": union(
        without(common(disc(0, -0.05, 0.9), box(-1, -1, 1, -0.05)), disc(0, -0.05, 0.45)),
        box_union((-0.9, -0.1, -0.45, 0.85), (0.45, -0.1, 0.9, 0.85)),
    ),
    "bean": without(disc(0, 0, 0.9), disc(0.9, 0, 0.5)),
    "egg": union(
        disc(0, 0.25, 0.7), common(disc(-0.6, 0.25, 1.3), disc(0.6, 0.25, 1.3), box(-1, -1, 1, 0.3))
    ),
    "eye": without(common(disc(0, -0.55, 1.1), disc(0, 0.55, 1.1)), disc(0, 0, 0.28)),
    "shield": common(disc(-0.6, -0.8, 1.5), disc(0.6, -0.8, 1.5), box(-0.85, -0.85, 0.85, 0.9)),
    "flag": box_union((-0.85, -0.95, -0.6, 0.95), (-0.85, -0.95, 0.85, 0.1)),
    "zigzag": polygon(
        (-0.9, -0.9),
        (0.9, -0.9),
        (0.9, -0.4),
        (0, 0.4),
        (0.9, 0.4),
        (0.9, 0.9),
        (-0.9, 0.9),
        (-0.9, 0.4),
        (0, -0.4),
        (-0.9, -0.4),
    ),
    "gear": union(disc(0, 0, 0.65), *(box_at(angle, 0.75, 0.2) for angle in range(0, 360, 45))),
}


def resembles(field: Field) -> frozenset[str]:
    """Return the names of `SHAPES` that a shape resembles: at equal size, their overlap is 3/4 of their union."""
    mask = _centred(field)
    if not mask.any():
        return frozenset()
    return frozenset(
        name for name, other in _masks().items() if (mask & other).sum() >= _ALIKE * (mask | other).sum()
    )


_ALIKE = 0.75  # least intersection over union


@cache
def _masks() -> dict[str, np.ndarray]:
    return {name: _centred(field) for name, field in SHAPES.items()}


def _centred(field: Field, side: int = 48) -> np.ndarray:
    """Return (side, side) bool, the shape's inside, scaled so that its bounding box fills the mask."""
    axis = (np.arange(side, dtype=np.float32) + 0.5) * 2 / side - 1
    inside = field(axis[None, :], axis[:, None]) < 0
    if not inside.any():
        return inside
    (left, right), (top, bottom) = (axis[inside.any(axis=across)][[0, -1]] for across in (0, 1))
    half = max(right - left, bottom - top) / 2 + 1 / side
    x, y = (left + right) / 2 + half * axis, (top + bottom) / 2 + half * axis
    return field(x[None, :], y[:, None]) < 0


@lru_cache(1024)
def blob(number: int) -> Field:
    """Return a random outline that depends on the number alone: a polygon, steps or arcs."""
    random = Random(f"smalti blob {number}")
    kind = random.randrange(3)
    if kind == 0:
        corners = random.randint(3, 8)
        angles = [(side + random.uniform(-0.3, 0.3)) * 2 * math.pi / corners for side in range(corners)]
        turn = random.uniform(0, 2 * math.pi)
        reach = [random.uniform(0.45, 0.98) for _ in angles]
        return polygon(
            *(
                (far * math.cos(angle + turn), far * math.sin(angle + turn))
                for far, angle in zip(reach, angles, strict=True)
            )
        )
    if kind == 1:
        return box_union(*(_random_box(random) for _ in range(random.randint(1, 3))))
    discs = [
        disc(random.uniform(-0.4, 0.4), random.uniform(-0.4, 0.4), random.uniform(0.4, 0.58))
        for _ in range(3)
    ]
    whole = union(*discs[: random.randint(1, 3)])
    if random.random() < 0.5:
        return whole
    angle, far = random.uniform(0, 2 * math.pi), random.uniform(0.5, 1)
    return without(whole, disc(far * math.cos(angle), far * math.sin(angle), random.uniform(0.25, 0.5)))


def _random_box(random: Random) -> tuple[float, float, float, float]:
    """Return a box around the middle, so that several of them are connected."""
    left, top, right, bottom = (random.uniform(0.1, 0.98) for _ in range(4))
    return -left, -top, right, bottom
