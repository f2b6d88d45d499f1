"""Fixed orders of the positions of a grid whose every prefix is spread evenly over it."""

from __future__ import annotations

import random
from functools import lru_cache


@lru_cache(maxsize=16)
def stratified_order(side: int, seed: int = 42) -> tuple[int, ...]:
    """Return the raster indices of a side × side grid in an order whose every prefix covers it evenly.

    Each level splits every cell into four and shuffles the children. A child without a point then gets one at random.

    Args:
        side: rows and columns of the grid, a power of two.
        seed: seed of the shuffles and points.

    Example:
        >>> sorted(stratified_order(2))
        [0, 1, 2, 3]
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
    """Return the raster indices of a height × width grid in the order in which the Halton sequence visits them.

    Rows follow the radical inverse in base 2, columns in base 3. Repeated visits to a position are skipped.

    Example:
        >>> halton_order(2, 2)
        (2, 1, 0, 3)
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
