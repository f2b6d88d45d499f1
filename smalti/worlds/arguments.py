"""Checks of arguments that all worlds take: split, seed, mix, lattice, index and size."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping
from typing import Any

from smalti.common.checks import check_choice, quoted
from smalti.errors import SmaltiError

SPLITS = ("train", "test")
"""Names of a world's parts: what training shows, and what it may not show."""

MIN_SIDE, MAX_SIDE = 16, 8192


def check_world(split: str, seed: Any, lattice: Any) -> None:
    """Raise SmaltiError unless the split exists, the seed is whole, and the lattice is None or a multiple of 8."""
    check_choice("split", split, SPLITS)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise SmaltiError(f"seed must be a whole number, not {quoted(seed)}", argument="seed")
    if lattice is not None and (not isinstance(lattice, int) or lattice < 8 or lattice % 8):
        raise SmaltiError(f"lattice must be a multiple of 8, or None, not {lattice!r}", argument="lattice")


def check_weights(name: str, weights: Mapping[str, float], known: Collection[str]) -> None:
    """Raise SmaltiError unless the weights are numbers of at least 0, one above 0, for names that are known."""
    if set(weights) - set(known) or min(weights.values(), default=0) < 0 or not sum(weights.values()) > 0:
        raise SmaltiError(
            f"{name} must weight some of {quoted(list(known), 160)} with 0 or more, not {quoted(dict(weights))}",
            argument=name,
        )


def check_index(index: Any) -> int:
    """Return the number of a scene, 0 or more, as an int, or raise SmaltiError."""
    index = operator.index(index)
    if index < 0:
        raise SmaltiError(f"index must be 0 or more, not {index}", argument="index")
    return index


def sides(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) in pixels of a size argument, or raise SmaltiError."""
    height, width = size if isinstance(size, tuple) else (size, size)
    for side in (height, width):
        if not isinstance(side, int) or isinstance(side, bool) or not MIN_SIDE <= side <= MAX_SIDE:
            raise SmaltiError(
                f"size must be {MIN_SIDE} to {MAX_SIDE} pixels, in whole numbers, not {size!r}",
                argument="size",
            )
    return height, width
