"""Drawings of Debian's `openclipart-png`, trimmed to what they show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from smalti.common.checks import quoted
from smalti.common.images import to_srgb
from smalti.errors import SmaltiError
from smalti.worlds.objects.archive import Sprite
from smalti.worlds.objects.colors import measured_color
from smalti.worlds.objects.preparing.debian import package_files
from smalti.worlds.objects.preparing.framing import fitted
from smalti.worlds.objects.preparing.record import CatalogEntry

PACKAGE = "openclipart-png"
"""Name of the Debian package."""

STYLE = "clipart"
"""Style of the sprites."""

FOLDER = "usr/share/openclipart/png/"
"""Folder of the package that holds the drawings. Entries of the catalogue are paths below it."""

_MOST_PIXELS = 2**26


def sprites(package: Path, entries: Sequence[CatalogEntry]) -> Iterator[tuple[Sprite, np.ndarray]]:
    """Yield drawings with their descriptions, in the package's order.

    Args:
        package: path of the .deb file.
        entries: the drawings, by their paths below `FOLDER`.

    Raises:
        SmaltiError: the package is broken, or a drawing is missing or broken.
    """
    wanted = {FOLDER + entry.entry: entry for entry in entries}
    for path, data in package_files(package, lambda path: path in wanted):
        entry = wanted.pop(path)
        picture = fitted(_decoded(data, path), path)
        yield _sprite(entry, picture), picture
    if wanted:
        raise SmaltiError(f"{package} must hold {quoted(sorted(wanted)[0])}, and it does not")


def _decoded(data: bytes, name: str) -> Image.Image:
    """Return a drawing in mode RGBA."""
    try:
        with Image.open(BytesIO(data)) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise SmaltiError(f"{name} must have at most {_MOST_PIXELS} pixels, not {image.size}")
            image.load()
            return to_srgb(image).convert("RGBA")
    except SmaltiError:
        raise
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        raise SmaltiError(f"{name} is no image that can be read: {quoted(str(error))}") from error


def _sprite(entry: CatalogEntry, picture: np.ndarray) -> Sprite:
    """Return the description of a drawing."""
    return Sprite(
        key=f"{STYLE}/{entry.entry.removesuffix('.png')}",
        name=entry.name,
        noun=entry.noun,
        style=STYLE,
        color=measured_color(picture),
        licence=entry.licence,
        creator="Open Clip Art Library",
        package=PACKAGE,
        entry=FOLDER + entry.entry,
    )
