"""The sprite archive: images of named things with transparent grounds, in one indexed file.

An archive is an ordinary zip file. Its images are lossless WebP files, stored without further compression, and its
entry `index.jsonl` holds one JSON object per image. `smalti prepare objects` writes it.
"""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import os
import struct
import zipfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from smalti.common.checks import quoted
from smalti.common.files import TEXT_BYTES, atomic_path, parse_json
from smalti.errors import SmaltiError

ARCHIVE_NAME = "sprites.zip"
"""Name of the archive in a prepared folder."""

SIDE = 128
"""Side of a sprite in pixels."""

_INDEX = "index.jsonl"
_OTHERS = {"hypernyms", "recolored", "view"}  # fields that are no texts
_LOCAL_HEADER = 30  # bytes of a zip entry's header before its name


@dataclass(frozen=True)
class Sprite:
    """What is known about one image of an archive.

    Attributes:
        key: unique name in the archive, `style/entry`, with `@view` or `@colour` where a thing has several images.
        name: name of the thing, such as "fire engine".
        noun: noun that scores know the thing by, such as "truck"; None without one.
        style: style of the image, such as "fluent-3d".
        hypernyms: kinds that the thing belongs to, such as ("vehicle",).
        color: one of GenEval's ten colours that covers most of the image, measured; None without one.
        recolored: whether the colour was given to the thing.
        view: angle that a three-dimensional model is seen from, in degrees; None for drawings.
        licence: SPDX name of the licence, or "public domain".
        creator: creator of the image.
        package: package that holds the source.
        entry: entry of the package.
    """

    key: str
    name: str
    noun: str | None
    style: str
    hypernyms: tuple[str, ...] = ()
    color: str | None = None
    recolored: bool = False
    view: int | None = None
    licence: str = ""
    creator: str = ""
    package: str = ""
    entry: str = ""


class SpriteArchive:
    """Sprites of an archive by number.

    Args:
        path: path of the archive, or of the folder that holds it.

    Attributes:
        path: path of the archive.
        sprites: descriptions of all images, in the archive's order.

    Raises:
        SmaltiError: the file is missing, or is no sprite archive.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> path = Path(tempfile.mkdtemp()) / "sprites.zip"
        >>> write_archive(path, [(Sprite("flat/cat", "cat", "cat", "flat"), np.zeros((128, 128, 4), np.uint8))])
        >>> archive = SpriteArchive(path)
        >>> archive.sprites[0].name, archive.image(0).shape
        ('cat', (128, 128, 4))
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path) / ARCHIVE_NAME if os.path.isdir(path) else Path(path)
        try:
            if os.path.exists(self.path) and not os.path.isfile(self.path):
                raise OSError("it is not a regular file")  # a pipe would be waited for
            with zipfile.ZipFile(self.path) as archive:
                if archive.getinfo(_INDEX).file_size > TEXT_BYTES:
                    raise ValueError("its index is too large")
                entries = [parse_json(line, _INDEX) for line in archive.read(_INDEX).splitlines()]
                offsets = {
                    entry.filename: (entry.header_offset, entry.file_size) for entry in archive.infolist()
                }
            with self.path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self.sprites = [_sprite(entry) for entry in entries]
            self._offsets = [offsets[f"{sprite.key}.webp"] for sprite in self.sprites]
        except FileNotFoundError:
            raise SmaltiError(
                f"{quoted(str(self.path))} does not exist; `smalti prepare objects -o FOLDER` writes one"
            ) from None
        except Exception as error:  # zipfile and its decompressors raise nearly every kind for damaged files
            raise SmaltiError(f"{quoted(str(self.path))} is no sprite archive, or is damaged") from error
        if not self.sprites:
            raise SmaltiError(f"{quoted(str(self.path))} holds no sprites")

    def __len__(self) -> int:
        return len(self.sprites)

    def image(self, index: int) -> np.ndarray:
        """Return sprite number `index` as (128, 128, 4) uint8, RGBA with straight alpha.

        Raises:
            SmaltiError: the image is damaged.
        """
        try:
            with Image.open(io.BytesIO(self.encoded(index)), formats=["WEBP"]) as image:
                fits = image.size == (SIDE, SIDE)  # a huge one is not decoded
                pixels = np.asarray(image.convert("RGBA")) if fits else None
        except Exception as error:  # Pillow raises nearly every kind for damaged images
            raise SmaltiError(f"{quoted(str(self.path))}: {self.sprites[index].key} is damaged") from error
        if pixels is None:
            raise SmaltiError(
                f"{quoted(str(self.path))}: {self.sprites[index].key} is not {SIDE}×{SIDE} pixels"
            )
        return pixels

    def encoded(self, index: int) -> bytes:
        """Return the bytes of sprite number `index`, a WebP file; `write_archive` takes them as they are."""
        start, size = self._offsets[index]
        name, extra = struct.unpack_from("<HH", self._bytes, start + 26)
        start += _LOCAL_HEADER + name + extra
        return self._bytes[start : start + size]


def write_archive(path: str | Path, sprites: Iterable[tuple[Sprite, np.ndarray | bytes]]) -> None:
    """Write an archive, atomically. Equal sprites give an equal file.

    Args:
        path: path of the archive, replaced if it exists.
        sprites: descriptions with unique keys, and images: (128, 128, 4) uint8, or bytes of `SpriteArchive.encoded`.

    Raises:
        SmaltiError: the file cannot be written, or two sprites have one key.
    """
    index = []
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        seen: set[str] = set()
        for sprite, pixels in sprites:
            if sprite.key in seen:
                raise SmaltiError(f"key {quoted(sprite.key)} names two sprites", argument="sprites")
            seen.add(sprite.key)
            data = pixels if isinstance(pixels, bytes) else encode(pixels)
            archive.writestr(zipfile.ZipInfo(f"{sprite.key}.webp"), data)
            index.append(json.dumps(_compact(sprite), ensure_ascii=False))
        archive.writestr(zipfile.ZipInfo(_INDEX), "\n".join(index) + "\n", zipfile.ZIP_DEFLATED)


def encode(pixels: np.ndarray) -> bytes:
    """Return the bytes of a lossless WebP file of (128, 128, 4) uint8 pixels; transparent pixels lose their colour."""
    buffer = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(buffer, "WEBP", lossless=True, quality=50)
    return buffer.getvalue()


def fingerprint(archive: SpriteArchive) -> str:
    """Return a short hash of an archive's descriptions and of the checksums of its images."""
    digest = hashlib.sha256()
    with zipfile.ZipFile(archive.path) as file:
        for entry in file.infolist():
            digest.update(f"{entry.filename}\0{entry.CRC}\0".encode())
    return digest.hexdigest()[:16]


def _compact(sprite: Sprite) -> dict[str, Any]:
    """Return a sprite's fields that differ from their defaults."""
    return {name: value for name, value in asdict(sprite).items() if value not in (None, "", (), False)}


def _sprite(entry: Any) -> Sprite:
    """Return the sprite of an entry of the index, or raise an error if a field has another type than it should."""
    known = {field.name for field in fields(Sprite)}
    values = {name: value for name, value in dict(entry).items() if name in known}
    sprite = Sprite(**{"noun": None, **values, "hypernyms": tuple(values.get("hypernyms", ()))})
    texts = [value for name, value in asdict(sprite).items() if name not in _OTHERS and value is not None]
    if not all(isinstance(text, str) for text in [*texts, *sprite.hypernyms]) or not (
        sprite.key and sprite.name
    ):
        raise ValueError(f"{sprite.key} has a field of another type")
    return sprite
