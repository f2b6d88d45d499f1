"""Kinds of things: the hypernyms of each noun, nearest first, such as "fruit" and "food" for an apple."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from smalti.common.files import read_text
from smalti.errors import SmaltiError
from smalti.worlds.objects.preparing import record


def hypernyms(noun: str | None) -> tuple[str, ...]:
    """Return the kinds that a noun belongs to, nearest first; none for a noun that is not in the table.

    Example:
        >>> hypernyms("apple")
        ('fruit', 'food')
    """
    return kinds().get(noun or "", ())


@cache
def kinds() -> Mapping[str, tuple[str, ...]]:
    """Return the kinds of every noun. A line of the table holds kinds, and then the nouns that belong to them.

    Raises:
        SmaltiError: the table is missing, or names a noun twice.
    """
    path = record.CATALOGS / "nouns.tsv"
    found: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        names, _, nouns = line.partition("\t")
        for noun in nouns.split("; "):
            if noun in found:
                raise SmaltiError(f"{path} line {number} must name new nouns, not {noun!r} again")
            found[noun] = tuple(names.split(", "))
    return found
