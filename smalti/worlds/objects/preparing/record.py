"""Catalogues of what is taken from a package: one JSON object per entry, with corrected names and what is left out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smalti.common.checks import quoted
from smalti.common.files import read_json_lines
from smalti.errors import SmaltiError

CATALOGS = Path(__file__).parent / "catalogs"
"""Folder of the catalogues."""


@dataclass(frozen=True)
class CatalogEntry:
    """One thing that is taken from a package.

    Attributes:
        entry: entry of the package.
        name: name of the thing, such as "fire engine".
        noun: noun that scores know it by, such as "truck"; None without one.
        licence: SPDX name of the licence, or "public domain".
        recolor: whether it may get other colours.
        hidden: angles in degrees from which it shows nothing worth having.
    """

    entry: str
    name: str
    noun: str | None
    licence: str
    recolor: bool = True
    hidden: tuple[int, ...] = ()


def read_catalog(path: Path) -> list[CatalogEntry]:
    """Return the entries of a catalogue, in its order. Those with a reason to be left out, "skip", are left out.

    Raises:
        SmaltiError: the file is missing, or a line of it is no entry.
    """
    found = []
    for number, value in read_json_lines(path):
        if not isinstance(value, dict):
            raise SmaltiError(f"{path} line {number} must hold a JSON object, not {quoted(value)}")
        if "skip" not in value:
            found.append(_entry(value, f"{path} line {number}"))
    return found


def _entry(value: dict[str, Any], where: str) -> CatalogEntry:
    """Return an entry of a catalogue."""
    texts = [value.get(name) for name in ("entry", "name", "licence")]
    noun, hidden = value.get("noun"), value.get("hidden", [])
    if not all(isinstance(text, str) for text in texts) or not isinstance(noun, str | None):
        raise SmaltiError(f"{where} must hold texts for entry, name, noun and licence, not {quoted(value)}")
    if not isinstance(hidden, list) or not all(isinstance(angle, int) for angle in hidden):
        raise SmaltiError(f"{where} must hold whole numbers as hidden angles, not {quoted(hidden)}")
    entry, name, licence = map(str, texts)
    return CatalogEntry(entry, name, noun, licence, value.get("recolor", True) is True, tuple(hidden))
