"""Checks of arguments that all worlds take: split, seed, mix, lattice, index and size."""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Mapping
from typing import Any

from smalti.common.checks import check_choice, check_real, quoted
from smalti.errors import SmaltiError

SPLITS = ("train", "test")
"""Names of a world's parts: what training shows, and what it may not show."""

LARGEST_LATTICE = 2**16
"""Most lattice cells along an image's side, more than it has pixels."""

MIN_SIDE, MAX_SIDE = 16, 8192


def check_world(split: str, seed: Any, lattice: Any) -> None:
    """Raise SmaltiError unless the split exists, the seed is whole, and the lattice is None or a multiple of 8."""
    check_choice("split", split, SPLITS)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise SmaltiError(f"seed must be a whole number, not {quoted(seed)}", argument="seed")
    if lattice is not None and not (
        isinstance(lattice, int) and 8 <= lattice <= LARGEST_LATTICE and lattice % 8 == 0
    ):
        raise SmaltiError(
            f"lattice must be a multiple of 8 up to {LARGEST_LATTICE}, or None, not {quoted(lattice)}",
            argument="lattice",
        )


def check_weights(name: str, weights: Mapping[str, float], known: Collection[str]) -> None:
    """Raise SmaltiError unless the weights are numbers of at least 0, one above 0, for names that are known."""
    if not _are_weights(weights, known):
        raise SmaltiError(
            f"{name} must weight some of {quoted(list(known), 160)} with 0 or more, not {quoted(weights)}",
            argument=name,
        )


def _are_weights(weights: Any, known: Collection[str]) -> bool:
    if not isinstance(weights, Mapping) or set(weights) - set(known):
        return False
    try:
        values = [check_real("weight", value) for value in weights.values()]
        return 0 < sum(values) < math.inf
    except (SmaltiError, OverflowError):
        return False


def check_index(index: Any) -> int:
    """Return the number of a scene, 0 or more, as an int, or raise SmaltiError."""
    index = operator.index(index)
    if index < 0:
        raise SmaltiError(f"index must be 0 or more, not {index}", argument="index")
    return index


def sides(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) in pixels of a size argument, or raise SmaltiError."""
    height, width = size if isinstance(size, tuple) and len(size) == 2 else (size, size)
    for side in (height, width):
        if not isinstance(side, int) or isinstance(side, bool) or not MIN_SIDE <= side <= MAX_SIDE:
            raise SmaltiError(
                f"size must be {MIN_SIDE} to {MAX_SIDE} pixels, in whole numbers, not {quoted(size)}",
                argument="size",
            )
    return height, width
