"""Places of a scene's objects: inside the image, apart from each other, in the relation that is asked for.

All lengths are fractions of the image's side. A box is `(x, y, size)`, its centre and its side. With a lattice of L,
the left and upper edges of boxes are multiples of 1/L. If sides are multiples of 1/L too, all edges are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from smalti.errors import SmaltiError

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


@dataclass(frozen=True)
class Layout:
    """Rules for the places of one to four boxes.

    Attributes:
        margin: least distance of a box from the image's edge.
        gap: least distance between two boxes.
        lattice: number L of lattice cells per side; None for any place.
    """

    margin: float
    gap: float
    lattice: int | None = None

    def place(self, sizes: list[float], random: Random) -> list[Box]:
        """Return boxes of these sides, one to four, at random places.

        Three or four boxes must each fit into a quarter of the image. Rejection sampling comes first, with a few
        attempts. If all fail, every box gets a quarter of the image. The time is therefore bounded.
        """
        for _ in range(_LAYOUT_ATTEMPTS):
            boxes: list[Box] = []
            for size in sizes:
                low, high = self.margin + size / 2, 1 - self.margin - size / 2
                for _ in range(_BOX_ATTEMPTS):
                    x, y = (between(low, high, random, self.lattice, size / 2) for _ in range(2))
                    if all(self._apart((x, y, size), other) for other in boxes):
                        boxes.append((x, y, size))
                        break
                else:
                    break
            if len(boxes) == len(sizes):
                return boxes
        return self.place_in_quarters(sizes, random)

    def place_in_quarters(self, sizes: list[float], random: Random) -> list[Box]:
        """Return boxes at random places, each in a quarter of the image that no other box has."""
        boxes: list[Box] = []
        for cell, size in zip(random.sample(range(4), len(sizes)), sizes, strict=True):
            near, far = self.margin + size / 2, 0.5 - self.gap / 2 - size / 2
            x, y = (between(near, far, random, self.lattice, size / 2) for _ in range(2))
            boxes.append((x if cell % 2 else 1 - x, y if cell // 2 else 1 - y, size))
        return boxes

    def place_related(self, relation: str, sizes: tuple[float, float], random: Random) -> tuple[Box, Box]:
        """Return the boxes of a reference and of the object that is "left of", "right of", "above" or "below" it.

        Along the relation's axis the boxes are `gap` apart. Across it, the centres differ by at most half as much, so
        that people and GenEval's rule see one relation only.
        """
        reference, related = sizes
        dx, dy = RELATIONS[relation]
        lattice, margin = self.lattice, self.margin
        # Along the axis one box comes first; the distance to the other one limits its place.
        first, second = (reference, related) if dx + dy > 0 else (related, reference)
        low, high = margin + first / 2, 1 - margin - second / 2
        if lattice:
            low = (_steps(low, high, lattice, first / 2)[0] + first / 2 * lattice) / lattice
            high = (_steps(low, high, lattice, second / 2)[1] + second / 2 * lattice) / lattice
        # Centres of boxes of different sides differ by a multiple of 1/lattice plus half the difference.
        step = between((first + second) / 2 + self.gap, high - low, random, lattice, (second - first) / 2)
        start = between(low, high - step, random, lattice, first / 2)
        along, along_related = (start, start + step) if dx + dy > 0 else (start + step, start)
        across = between(margin + reference / 2, 1 - margin - reference / 2, random, lattice, reference / 2)
        across_related = between(
            max(margin + related / 2, across - step / 2),
            min(1 - margin - related / 2, across + step / 2),
            random,
            lattice,
            related / 2,
        )
        if dx:
            return (along, across, reference), (along_related, across_related, related)
        return (across, along, reference), (across_related, along_related, related)

    def _apart(self, a: Box, b: Box) -> bool:
        # Lengths are rounded: boxes that touch are apart by a gap of 0.
        return max(abs(a[0] - b[0]), abs(a[1] - b[1])) >= (a[2] + b[2]) / 2 + self.gap - 1e-12


def related_second(include: Sequence[dict[str, Any]]) -> str | None:
    """Return the relation of GenEval metadata's second object to its first, or None if no entry has a position.

    Raises:
        SmaltiError: the metadata relates anything else, or by an unknown relation.
    """
    positions = [entry["position"] for entry in include if "position" in entry]
    if not positions:
        return None
    pair = len(include) == 2 and all(entry["count"] == 1 for entry in include) and "position" in include[1]
    if not pair or len(positions) > 1 or positions[0][1] != 0:
        raise SmaltiError("position must relate the second of two single objects to the first (index 0)")
    relation: str = positions[0][0]
    if relation not in RELATIONS:
        raise SmaltiError(f"position must be one of {list(RELATIONS)}, not {relation!r}")
    return relation


def between(
    low: float, high: float, random: Random, lattice: float | None = None, offset: float = 0.0
) -> float:
    """Return a random number from low to high, on a lattice `offset` plus a multiple of 1/lattice."""
    if lattice is None:
        return random.uniform(low, high)
    first, last = _steps(low, high, lattice, offset)
    return (random.randint(first, last) + offset * lattice) / lattice


def _steps(low: float, high: float, lattice: float, offset: float) -> tuple[int, int]:
    # Rounding must not lose points of the lattice.
    return math.ceil((low - offset) * lattice - 1e-9), math.floor((high - offset) * lattice + 1e-9)
