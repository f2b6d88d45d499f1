"""The order in which a training shows images: an endless row, of which any position can be computed by itself.

A position is one whole number. Passes over a set are permutations that follow from the seed and the pass's number. With
several shapes, images of one shape stand together in small groups, so that batches of one shape are full. Every image
is shown once a pass, those of rare shapes too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from smalti.common.randomness import stream

_PASSES = 2  # permutations that are kept: a batch may end one pass and begin the next


class Shuffled:
    """Endless shuffled passes over a finite set.

    Args:
        length: number of images.
        seed: seed of the permutations.
        purpose: name of the random streams.
        kinds: (length,) number of each image's shape, or None if all have one.
        together: images of one shape that stand together.

    Example:
        >>> order = Shuffled(4, seed=0)
        >>> sorted(order.row(position) for position in range(4, 8))
        [0, 1, 2, 3]
    """

    def __init__(
        self,
        length: int,
        seed: int,
        purpose: str = "shuffle",
        kinds: np.ndarray | None = None,
        together: int = 1,
    ) -> None:
        self.length, self._seed, self._purpose = length, seed, purpose
        self._kinds, self._together = kinds, together
        self._permutation = lru_cache(_PASSES)(self._make)

    def row(self, position: int) -> int:
        """Return the image at a position of the endless row."""
        number, offset = divmod(position, self.length)
        return int(self._permutation(number)[offset])

    def _make(self, number: int) -> np.ndarray:
        """Return the permutation of a pass, in as few bytes as hold it."""
        generator = stream(self._seed, self._purpose, number)
        order = torch.randperm(self.length, generator=generator).numpy()
        order = order.astype(np.int32 if self.length < 2**31 else np.int64)
        if self._kinds is None:
            return order
        kinds = self._kinds[order]
        order = order[np.argsort(kinds, kind="stable")]
        groups: list[np.ndarray] = []
        for part in np.split(order, np.cumsum(np.bincount(kinds))[:-1]):
            groups += np.split(part, range(self._together, len(part), self._together))
        groups = [group for group in groups if len(group)]
        places = torch.randperm(len(groups), generator=generator).tolist()
        return np.concatenate([groups[place] for place in places])


class Place(NamedTuple):
    """Where an image of the row comes from.

    Attributes:
        part: number of the set, 0 or 1.
        row: number of the image in it.
    """

    part: int
    row: int


class Order:
    """Images of one set, or of two sets of which the second has a share of the row.

    Args:
        first: the set.
        second: the other set, or None.
        share: share of the row that the second set has, evenly spread.

    Example:
        >>> order = Order(Shuffled(4, seed=0), Shuffled(2, seed=0), share=0.25)
        >>> [place.part for place in order.places(range(8))]
        [0, 0, 0, 1, 0, 0, 0, 1]
    """

    def __init__(self, first: Shuffled, second: Shuffled | None = None, share: float = 0.0) -> None:
        self._parts = (first, second)
        self._share = Fraction(share).limit_denominator(10**6) if second else Fraction(0)

    def places(self, positions: Iterable[int]) -> list[Place]:
        """Return where the images at some positions come from."""
        return [self._place(position) for position in positions]

    def _place(self, position: int) -> Place:
        # Whole numbers, so that no position is so far that it is rounded.
        top, bottom = self._share.numerator, self._share.denominator
        before, after = position * top // bottom, (position + 1) * top // bottom
        first, second = self._parts
        if after > before and second is not None:
            return Place(1, second.row(before))
        return Place(0, first.row(position - before))


def shuffled_rows(length: int, positions: Sequence[int], seed: int) -> list[int]:
    """Return the images at positions of endless shuffled passes over `length` images."""
    order = _shuffled(length, seed)
    return [order.row(position) for position in positions]


@lru_cache(16)
def _shuffled(length: int, seed: int) -> Shuffled:
    return Shuffled(length, seed)
