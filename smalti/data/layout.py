"""Where the objects of a scene go: inside the picture, apart from each other, and as the relation demands.

Everything is in fractions of the picture's side; a box is `(x, y, size)` with its centre and its side.
"""

from __future__ import annotations

from random import Random

MARGIN = 0.03
"""Least distance of a box from the picture's edge."""

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

_LAYOUT_TRIES = 8
_BOX_TRIES = 12


def place(sizes: list[float], random: Random) -> list[Box]:
    """Put boxes of these sides (one to four, each within `SIZES`) at random places, `GAP` apart.

    Rejection sampling with few tries; when they fail, a layout in halves or quarters of the picture, in which
    boxes of the sizes allowed always fit. So it ends in bounded time.
    """
    for _ in range(_LAYOUT_TRIES):
        boxes: list[Box] = []
        for size in sizes:
            low, high = MARGIN + size / 2, 1 - MARGIN - size / 2
            for _ in range(_BOX_TRIES):
                box = (random.uniform(low, high), random.uniform(low, high), size)
                if all(_apart(box, other) for other in boxes):
                    boxes.append(box)
                    break
            else:
                break
        if len(boxes) == len(sizes):
            return boxes
    return _place_in_cells(sizes, random)


def place_related(relation: str, sizes: tuple[float, float], random: Random) -> tuple[Box, Box]:
    """Boxes of a reference and of the object that is `relation` it ("left of", "right of", "above", "below").

    Along the relation's axis the boxes are `GAP` apart; across it, the centres differ by at most half as
    much as along it, so that a reader (and GenEval's rule) sees one relation and no other.
    """
    reference, related = sizes
    least = (reference + related) / 2 + GAP
    step = random.uniform(least, 1 - 2 * MARGIN - (reference + related) / 2)
    dx, dy = RELATIONS[relation]
    # Where the reference may be along the axis, so that the related box, `step` further on, is inside too.
    if dx + dy > 0:
        low, high = MARGIN + reference / 2, 1 - MARGIN - related / 2 - step
    else:
        low, high = MARGIN + related / 2 + step, 1 - MARGIN - reference / 2
    along = random.uniform(low, high)
    across = random.uniform(MARGIN + reference / 2, 1 - MARGIN - reference / 2)
    across_related = random.uniform(
        max(MARGIN + related / 2, across - step / 2), min(1 - MARGIN - related / 2, across + step / 2)
    )
    if dx:
        return (along, across, reference), (along + dx * step, across_related, related)
    return (across, along, reference), (across_related, along + dy * step, related)


def _apart(a: Box, b: Box) -> bool:
    return max(abs(a[0] - b[0]), abs(a[1] - b[1])) >= (a[2] + b[2]) / 2 + GAP


def _place_in_cells(sizes: list[float], random: Random) -> list[Box]:
    """Each box at a random place in a quarter of the picture that it has for itself."""
    boxes: list[Box] = []
    for cell, size in zip(random.sample(range(4), len(sizes)), sizes, strict=True):
        near, far = MARGIN + size / 2, 0.5 - GAP / 2 - size / 2
        x, y = random.uniform(near, far), random.uniform(near, far)
        boxes.append((x if cell % 2 else 1 - x, y if cell // 2 else 1 - y, size))
    return boxes
