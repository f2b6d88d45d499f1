"""Parts of an archive: the sprites of some entries of one package, written as a small archive of their own.

The name of a part holds a digest of everything that its images depend on. A part that exists is never made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from smalti.errors import SmaltiError
from smalti.worlds.objects.archive import Sprite, write_archive
from smalti.worlds.objects.preparing import clipart, emoji, furniture, record
from smalti.worlds.objects.preparing.packages import Package, PackageError, packages
from smalti.worlds.objects.preparing.record import CatalogEntry, read_catalog

_VERSION = 2  # of the images: to be raised when a change of the code changes them
# Entries of a part. A Debian package is read from its start for each part.
_SIZES = {furniture.STYLE: 56, clipart.STYLE: 530}
_SIZE = 210
_NAMES = (
    "name",
    "noun",
    "licence",
)  # images do not depend on them; an archive takes them from the catalogues


@dataclass(frozen=True)
class Part:
    """A part of an archive.

    Attributes:
        package: the package of its style.
        number: its place among the style's parts.
        entries: what it takes from the package.
        colors: colours that models get.
    """

    package: Package
    number: int
    entries: tuple[CatalogEntry, ...]
    colors: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def file_name(self) -> str:
        """Name of the part's file."""
        value = [_VERSION, self.package.sha256, list(map(_given, self.entries)), self.colors]
        digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
        return f"{self.package.style}-{self.number:02d}-{digest[:16]}.zip"

    def write(self, folder: Path, package: Path) -> None:
        """Write the part into a folder, atomically.

        Args:
            folder: folder of the parts.
            package: path of the package's file.

        Raises:
            PackageError: the package is broken, or what reads it is not installed.
            SmaltiError: the part cannot be written.
        """
        write_archive(folder / self.file_name, self._sprites(package))

    def _sprites(self, package: Path) -> Iterator[tuple[Sprite, np.ndarray]]:
        """Yield the sprites; whatever is wrong with them is the package's fault."""
        try:
            yield from self._source(package)
        except SmaltiError as error:
            raise PackageError(str(error)) from error

    def _source(self, package: Path) -> Iterator[tuple[Sprite, np.ndarray]]:
        """Return the sprites as the reader of their style yields them."""
        if self.package.style == furniture.STYLE:
            return furniture.sprites(package, self.entries, self.colors)
        if self.package.style == clipart.STYLE:
            return clipart.sprites(package, self.entries)
        return emoji.sprites(self.package, package, self.entries)


def _given(entry: CatalogEntry) -> dict[str, Any]:
    """Return what an entry says of its images; what it leaves at its default may be new to the catalogues."""
    values = {one.name: (getattr(entry, one.name), one.default) for one in fields(entry)}
    return {
        name: value for name, (value, default) in values.items() if name not in _NAMES and value != default
    }


def plan(style: str) -> list[Part]:
    """Return the parts of a style.

    Raises:
        SmaltiError: a catalogue is broken.
    """
    entries = catalog(style)
    size = _SIZES.get(style, _SIZE)
    colors = furniture.planned_colors(entries) if style == furniture.STYLE else {}
    parts = []
    for start in range(0, len(entries), size):
        chosen = tuple(entries[start : start + size])
        given = {entry.entry: colors[entry.entry] for entry in chosen if entry.entry in colors}
        parts.append(Part(packages()[style], start // size, chosen, given))
    return parts


def catalog(style: str) -> Sequence[CatalogEntry]:
    """Return the catalogue of a style."""
    if style == furniture.STYLE:
        return read_catalog(record.CATALOGS / "furniture.jsonl")
    if style == clipart.STYLE:
        return read_catalog(record.CATALOGS / "clipart.jsonl")
    return emoji.emoji_entries()[style]
