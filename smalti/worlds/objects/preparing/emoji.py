"""Emoji as sprites: the catalogue of what they show, and their images in packages of icons and of WebP files.

The catalogue has a line per thing and a column per style, which holds the entries of the style's package that show
the thing. "=" stands for the thing's own entry, the third column. "=" as noun stands for the name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from smalti.common.checks import quoted
from smalti.common.files import read_text
from smalti.errors import SmaltiError
from smalti.worlds.objects.archive import Sprite
from smalti.worlds.objects.colors import measured_color
from smalti.worlds.objects.preparing import record
from smalti.worlds.objects.preparing.framing import fitted
from smalti.worlds.objects.preparing.icons import load_renderer, npm_files, read_icons
from smalti.worlds.objects.preparing.packages import Package, packages
from smalti.worlds.objects.preparing.record import CatalogEntry

_FIXED_COLUMNS = 3
_ASSETS = "package/assets/"


@cache
def emoji_entries() -> dict[str, tuple[CatalogEntry, ...]]:
    """Return the entries of each style of emoji, in the catalogue's order.

    Raises:
        SmaltiError: the catalogue is missing, or a line has more columns than its first.
    """
    path = record.CATALOGS / "emoji.tsv"
    header, *lines = read_text(path).splitlines()
    styles = header.split("\t")[_FIXED_COLUMNS:]
    found: dict[str, list[CatalogEntry]] = {style: [] for style in styles}
    for number, line in enumerate(lines, start=2):
        name, noun, own, *columns = line.split("\t")
        if len(columns) > len(styles):
            raise SmaltiError(
                f"{path} line {number} must have at most {_FIXED_COLUMNS + len(styles)} columns"
            )
        for style, entries in zip(styles, columns, strict=False):
            for entry in entries.split():
                thing = name if noun == "=" else noun
                licence = packages()[style].licence
                found[style].append(CatalogEntry(own if entry == "=" else entry, name, thing, licence))
    return {style: tuple(entries) for style, entries in found.items()}


def sprites(
    package: Package, path: Path, entries: Sequence[CatalogEntry]
) -> Iterator[tuple[Sprite, np.ndarray]]:
    """Yield emoji of one style with their descriptions.

    Args:
        package: the package of the style.
        path: path of its file.
        entries: the emoji, by the names of their icons or by their code points.

    Raises:
        SmaltiError: the package is broken or lacks an entry, or resvg is not installed.
    """
    images = _painted if package.style == "fluent-3d" else _rendered
    for entry, image in images(path, entries):
        picture = fitted(image, f"{entry.entry} of {package}")
        yield _sprite(package, entry, picture), picture


def _rendered(path: Path, entries: Sequence[CatalogEntry]) -> Iterator[tuple[CatalogEntry, Image.Image]]:
    """Yield icons, rendered."""
    render, icons = load_renderer(), read_icons(path)
    for entry in entries:
        yield entry, render(icons, entry.entry)


def _painted(path: Path, entries: Sequence[CatalogEntry]) -> Iterator[tuple[CatalogEntry, Image.Image]]:
    """Yield the WebP files of a package, decoded."""
    wanted = {f"{_ASSETS}{entry.entry}.webp": entry for entry in entries}
    files = npm_files(path, wanted.__contains__)
    for name, entry in wanted.items():
        if name not in files:
            raise SmaltiError(f"{path} must hold {quoted(name)}, and it does not")
        try:
            with Image.open(BytesIO(files[name]), formats=["WEBP"]) as image:
                yield entry, image.convert("RGBA")
        except OSError as error:
            raise SmaltiError(f"{path}: {name} is no image that can be read") from error


def _sprite(package: Package, entry: CatalogEntry, picture: np.ndarray) -> Sprite:
    """Return the description of an emoji."""
    return Sprite(
        key=f"{package.style}/{entry.entry}",
        name=entry.name,
        noun=entry.noun,
        style=package.style,
        color=measured_color(picture),
        licence=entry.licence,
        creator=package.creator,
        package=package.name,
        entry=entry.entry,
    )
