"""Places of a scene's objects: inside the image, apart from each other, in the relation that is asked for.

All lengths are fractions of the image's side. A box is `(x, y, size)`, its centre and its side. With a lattice of L,
centres are multiples of 1/L and sides multiples of 2/L. The edges of boxes are then multiples of 1/L too.
"""

from __future__ import annotations

import math
from random import Random

MARGIN = 0.03
"""Least distance of a box from the image's edge."""

GAP = 0.04
"""Least distance between two boxes."""

SIZES = {1: (0.25, 0.55), 2: (0.22, 0.40), 3: (0.20, 0.30), 4: (0.20, 0.30)}
"""Smallest and largest side of a box, by the number of objects."""

RELATIONS: dict[str, tuple[float, float]] = {
    "left of": (-1, 0),
    "right of": (1, 0),
    "above": (0, -1),
    "below": (0, 1),
}
"""GenEval's relations, and the direction of the related object from its reference (y grows downwards)."""

Box = tuple[float, float, float]

_LAYOUT_ATTEMPTS = 8
_BOX_ATTEMPTS = 12


def draw_size(count: int, random: Random, lattice: int | None = None) -> float:
    """Return a random side within `SIZES` for one of `count` objects."""
    return _between(*SIZES[count], random, lattice and lattice / 2)


def place(sizes: list[float], random: Random, lattice: int | None = None) -> list[Box]:
    """Return boxes of these sides (one to four, each within `SIZES`) at random places, `GAP` apart.

    Rejection sampling comes first, with a few attempts. If all fail, every box gets a quarter of the image, where boxes
    of the allowed sizes always fit. The time is therefore bounded.
    """
    for _ in range(_LAYOUT_ATTEMPTS):
        boxes: list[Box] = []
        for size in sizes:
            low, high = MARGIN + size / 2, 1 - MARGIN - size / 2
            for _ in range(_BOX_ATTEMPTS):
                box = (_between(low, high, random, lattice), _between(low, high, random, lattice), size)
                if all(_apart(box, other) for other in boxes):
                    boxes.append(box)
                    break
            else:
                break
        if len(boxes) == len(sizes):
            return boxes
    return _place_in_cells(sizes, random, lattice)


def place_related(
    relation: str, sizes: tuple[float, float], random: Random, lattice: int | None = None
) -> tuple[Box, Box]:
    """Return the boxes of a reference and of the object that is "left of", "right of", "above" or "below" it.

    Along the relation's axis the boxes are `GAP` apart. Across it, the centres differ by at most half as much, so that
    people and GenEval's rule see one relation only.
    """
    reference, related = sizes
    dx, dy = RELATIONS[relation]
    # Along the axis one box comes first; the distance to the other one limits its place.
    first, second = (reference, related) if dx + dy > 0 else (related, reference)
    low, high = _inside(MARGIN + first / 2, 1 - MARGIN - second / 2, lattice)
    step = _between((first + second) / 2 + GAP, high - low, random, lattice)
    start = _between(low, high - step, random, lattice)
    along, along_related = (start, start + step) if dx + dy > 0 else (start + step, start)
    across = _between(MARGIN + reference / 2, 1 - MARGIN - reference / 2, random, lattice)
    across_related = _between(
        max(MARGIN + related / 2, across - step / 2),
        min(1 - MARGIN - related / 2, across + step / 2),
        random,
        lattice,
    )
    if dx:
        return (along, across, reference), (along_related, across_related, related)
    return (across, along, reference), (across_related, along_related, related)


def _between(low: float, high: float, random: Random, lattice: float | None) -> float:
    """Return a random number from low to high, a multiple of 1/lattice if there is one."""
    if lattice is None:
        return random.uniform(low, high)
    low, high = _inside(low, high, lattice)
    return random.randint(round(low * lattice), round(high * lattice)) / lattice


def _inside(low: float, high: float, lattice: float | None) -> tuple[float, float]:
    """Return the interval between the first and the last lattice point of an interval."""
    if lattice is None:
        return low, high
    # Rounding must not lose points of the lattice.
    return math.ceil(low * lattice - 1e-9) / lattice, math.floor(high * lattice + 1e-9) / lattice


def _apart(a: Box, b: Box) -> bool:
    return max(abs(a[0] - b[0]), abs(a[1] - b[1])) >= (a[2] + b[2]) / 2 + GAP


def _place_in_cells(sizes: list[float], random: Random, lattice: int | None = None) -> list[Box]:
    """Return boxes at random places, each in a quarter of the image that no other box has."""
    boxes: list[Box] = []
    for cell, size in zip(random.sample(range(4), len(sizes)), sizes, strict=True):
        near, far = MARGIN + size / 2, 0.5 - GAP / 2 - size / 2
        x, y = _between(near, far, random, lattice), _between(near, far, random, lattice)
        boxes.append((x if cell % 2 else 1 - x, y if cell // 2 else 1 - y, size))
    return boxes
