"""Fixed orders of a grid's positions in which every prefix covers the grid evenly (docs/format.md, section 5)."""

from __future__ import annotations

import random
from functools import lru_cache


@lru_cache(maxsize=16)
def stratified_order(side: int, seed: int = 42) -> tuple[int, ...]:
    """Raster indices of a side × side grid, side a power of two, such that every prefix covers it evenly.

    Level by level every cell is split into four, the children are shuffled, and each child that holds no
    point yet gets one at random.
    """
    generator = random.Random(seed)
    cells = [(0, 0)]
    size = side
    order: dict[int, None] = {}
    while size > 1:
        size //= 2
        # Top left, top right, bottom left, bottom right.
        cells = [
            (row + down * size, column + right * size)
            for row, column in cells
            for down in (0, 1)
            for right in (0, 1)
        ]
        generator.shuffle(cells)
        filled = {(index // side // size, index % side // size) for index in order}
        for row, column in cells:
            if (row // size, column // size) not in filled:
                x = generator.randrange(column, column + size)
                y = generator.randrange(row, row + size)
                order[y * side + x] = None
    # The last level has cells of one position, so only a grid of one position is left without an order.
    return tuple(order) or (0,)


@lru_cache(maxsize=16)
def halton_order(height: int, width: int) -> tuple[int, ...]:
    """Raster indices of a height × width grid in the order in which the Halton sequence first visits them.

    Rows follow the radical inverse in base 2, columns in base 3; visits to a position already seen are
    skipped.
    """
    order: dict[int, None] = {}
    point = 0
    while len(order) < height * width:
        point += 1
        row = int(_radical_inverse(point, 2) * height)
        column = int(_radical_inverse(point, 3) * width)
        order.setdefault(row * width + column)
    return tuple(order)


def _radical_inverse(number: int, base: int) -> float:
    """Return the digits of `number` in `base`, mirrored at the point."""
    value, scale = 0, 1
    while number:
        number, digit = divmod(number, base)
        value, scale = value * base + digit, scale * base
    return value / scale
