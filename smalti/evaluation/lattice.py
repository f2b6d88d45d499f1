"""The option `lattice` of suites over the scenes of a world."""

from __future__ import annotations

from smalti.common.checks import quoted
from smalti.errors import SmaltiError
from smalti.worlds.arguments import LARGEST_LATTICE


def lattice_places(lattice: int) -> int | None:
    """Return a suite's lattice as worlds take it: None in place of 0.

    Raises:
        SmaltiError: it is neither 0 nor a multiple of 8 up to `LARGEST_LATTICE`.
    """
    if not 0 <= lattice <= LARGEST_LATTICE or lattice % 8:
        raise SmaltiError(
            f"lattice must be 0 or a multiple of 8 up to {LARGEST_LATTICE}, not {quoted(lattice)}",
            argument="lattice",
        )
    return lattice or None
