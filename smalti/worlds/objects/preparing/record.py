"""Catalogues of what is taken from a package: one JSON object per entry, with corrected names and what is left out.

An entry has "entry", "name" and "licence", and "noun" where it is not the name. One with "skip" is left out, and says
why.
"""

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
        front: whether its back and its sides show nothing that tells what it is.
        upright: whether a model lies on its back, and is turned up to face the camera.
    """

    entry: str
    name: str
    noun: str | None
    licence: str
    recolor: bool = True
    front: bool = False
    upright: bool = False


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
    noun, flags = (
        value.get("noun", value.get("name")),
        [value.get(name, False) for name in ("front", "upright")],
    )
    recolor = value.get("recolor", True)
    if not all(isinstance(text, str) for text in texts) or not isinstance(noun, str | None):
        raise SmaltiError(f"{where} must hold texts for entry, name, noun and licence, not {quoted(value)}")
    if not all(isinstance(flag, bool) for flag in (recolor, *flags)):
        raise SmaltiError(
            f"{where} must hold true or false for recolor, front and upright, not {quoted(value)}"
        )
    entry, name, licence = map(str, texts)
    return CatalogEntry(entry, name, noun, licence, recolor, *flags)
