"""One archive from many parts, without duplicates and what cannot be seen, with hypernyms and attributions."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from smalti.common.files import read_json, write_json_atomic, write_text_atomic
from smalti.errors import SmaltiError
from smalti.worlds.objects.archive import ARCHIVE_NAME, Sprite, SpriteArchive, write_archive
from smalti.worlds.objects.preparing import clipart
from smalti.worlds.objects.preparing.duplicates import Duplicates
from smalti.worlds.objects.preparing.nouns import hypernyms
from smalti.worlds.objects.preparing.packages import packages
from smalti.worlds.objects.preparing.parts import catalog, plan
from smalti.worlds.objects.preparing.record import CatalogEntry

ATTRIBUTION_NAME = "ATTRIBUTION.md"
"""Name of the file that says who made the images of an archive, and under which licences."""

_STAMP = "prepared.json"
_OPAQUE = 128  # alpha from which a pixel is visible
_VISIBLE = 0.02  # smallest share of visible pixels; glass doors and edges of sheets have less
_HEAD = """\
# Attributions

`{archive}` holds images of the collections below. Smalti rendered them at {side}×{side} pixels. It gave some
three-dimensional models other colours; the archive's index marks these as recolored.

| style | collection | package | licence | images |
| --- | --- | --- | --- | --- |
"""


def assemble(parts: Path, folder: Path, *, show: bool = False) -> bool:
    """Write the archive of all parts and its attributions, unless the folder has them. Delete parts of old versions.

    Args:
        parts: folder of the parts.
        folder: folder of the archive.
        show: whether to show progress on the terminal.

    Returns:
        Whether there is an archive; without parts there is none.

    Raises:
        SmaltiError: a part is damaged, or the archive cannot be written.
    """
    chosen = _chosen(parts)
    if not chosen:
        return False
    path, stamp = folder / ARCHIVE_NAME, folder / _STAMP
    value = {
        "parts": [part.name for part in chosen],
        "names": _digest([_names(style) for style in packages()]),
    }
    if not os.path.exists(path) or not os.path.exists(folder / ATTRIBUTION_NAME) or _read(stamp) != value:
        found: list[Sprite] = []
        write_archive(path, _different(chosen, found, show))
        write_text_atomic(folder / ATTRIBUTION_NAME, attribution(found))
        write_json_atomic(stamp, value)
    return True


def _chosen(folder: Path) -> list[Path]:
    """Return the parts that an archive is made of: the current ones of each style, or else those of an old version."""
    chosen: list[Path] = []
    for style in packages():
        planned = [folder / part.file_name for part in plan(style)]
        current = [path for path in planned if os.path.exists(path)]
        old = [path for path in sorted(folder.glob(f"{style}-[0-9][0-9]-*.zip")) if path not in planned]
        if len(current) == len(planned):
            for path in old:
                path.unlink(missing_ok=True)
        chosen += current or old
    return chosen


def _different(parts: Sequence[Path], found: list[Sprite], show: bool) -> Iterator[tuple[Sprite, bytes]]:
    """Yield the sprites of parts with their images, without those that add nothing; append them to `found`."""
    archives = [SpriteArchive(part) for part in parts]
    duplicates = Duplicates()
    entries = {style: {entry.entry: entry for entry in catalog(style)} for style in packages()}
    total = sum(map(len, archives))
    with tqdm(total=total, desc="archive", unit="image", disable=not show, leave=False) as bar:
        for archive in archives:
            for index, sprite in enumerate(archive.sprites):
                bar.update()
                named, pixels = _named(sprite, entries[sprite.style]), archive.image(index)
                if (pixels[..., 3] >= _OPAQUE).mean() >= _VISIBLE and duplicates.add(named, pixels):
                    found.append(named)
                    yield named, archive.encoded(index)


def _named(sprite: Sprite, entries: Mapping[str, CatalogEntry]) -> Sprite:
    """Return a sprite with names and kinds as the catalogues have them now."""
    entry = entries.get(sprite.entry.removeprefix(clipart.FOLDER))
    if entry is not None:
        sprite = replace(sprite, name=entry.name, noun=entry.noun, licence=entry.licence)
    return replace(sprite, hypernyms=hypernyms(sprite.noun))


def attribution(sprites: Sequence[Sprite]) -> str:
    """Return a Markdown text that names the collections, licences and creators of sprites."""
    lines = []
    creators = []
    for style, package in packages().items():
        own = [sprite for sprite in sprites if sprite.style == style]
        if own:
            name = f"[{package.title}]({package.url})"
            lines.append(f"| {style} | {name} | {package} | {package.licence} | {len(own)} |")
            for (creator, licence), count in sorted(
                Counter((one.creator, one.licence) for one in own).items()
            ):
                images = "1 image" if count == 1 else f"{count} images"
                creators.append(f"- {style}: {creator or package.creator}, {licence}, {images}")
    head = _HEAD.format(archive=ARCHIVE_NAME, side=128)
    return head + "\n".join([*lines, "", "## Creators", "", *creators]) + "\n"


def _names(style: str) -> list[list[object]]:
    """Return what the catalogues call the things of a style."""
    return [[one.entry, one.name, one.noun, one.licence, hypernyms(one.noun)] for one in catalog(style)]


def _digest(value: object) -> str:
    """Return a digest of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _read(path: Path) -> object:
    """Return the value of a JSON file, or None where there is none."""
    try:
        return read_json(path)
    except SmaltiError:
        return None
