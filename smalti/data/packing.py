"""Tar shards written from other sources: WebDataset's layout with indexes, the images' files as they are."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator
from io import BytesIO
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from smalti.common.files import atomic_path, make_folder
from smalti.common.images import encode_image
from smalti.data.folder import ImageFolder
from smalti.data.sources import Source
from smalti.data.tar_index import index_path, write_index
from smalti.errors import SmaltiError


class Packed(NamedTuple):
    """An image that becomes a sample of a tar.

    Attributes:
        files: content by suffix, such as ".jpg" and ".mask.png".
        captions: one or more.
        name: where it came from.
    """

    files: dict[str, bytes]
    captions: tuple[str, ...]
    name: str


def folder_images(images: ImageFolder) -> Iterator[Packed]:
    """Yield the files of a folder's images and masks, unchanged.

    Raises:
        SmaltiError: a file cannot be read.
    """
    for path, captions in images.samples:
        mask = images.mask_of(path)
        try:
            files = {path.suffix.lower(): path.read_bytes()}
            if mask:
                files[f".mask{mask.suffix.lower()}"] = mask.read_bytes()
        except OSError as error:
            raise SmaltiError(f"{path} cannot be read: {error.strerror or error}") from error
        name = path.relative_to(images.path) if path.is_relative_to(images.path) else path
        yield Packed(files, captions, name.as_posix())


def world_images(world: Source, count: int) -> Iterator[Packed]:
    """Yield the first images of a world as PNG."""
    for number in range(count):
        sample = world[number]
        image = Image.fromarray(sample["image"].permute(1, 2, 0).numpy())
        yield Packed({".png": encode_image(image, "PNG")}, (sample["caption"],), str(number))


def write_tars(folder: str | Path, images: Iterator[Packed], per_tar: int = 10_000) -> list[Path]:
    """Write images as tars with indexes, and return the tars.

    A sample has the running number as its name. Its text member holds a single caption; its JSON member holds `name`
    and `caption`, a list.

    Args:
        folder: an empty folder, which is created.
        images: what the tars will hold.
        per_tar: number of images of a tar.

    Raises:
        SmaltiError: the folder holds something, or cannot be written.

    Example:
        >>> write_tars("few", iter([Packed({".jpg": b"..."}, ("a cat",), "cat.jpg")]))[0].name
        '00000.tar'
    """
    folder = Path(folder)
    make_folder(folder)
    if os.listdir(folder):
        raise SmaltiError(f"{folder} must be an empty folder")
    tars: list[Path] = []
    numbered = enumerate(images)
    while (first := next(numbered, None)) is not None:
        tar = folder / f"{len(tars):05d}.tar"
        with atomic_path(tar) as temporary, tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as file:
            for number, image in chain([first], islice(numbered, per_tar - 1)):
                _add(file, number, image)
        write_index(tar, index_path(tar, folder, None))
        tars.append(tar)
    return tars


def _add(file: tarfile.TarFile, number: int, image: Packed) -> None:
    """Write the members of a sample."""
    notes = {"name": image.name, "caption": list(image.captions)}
    members = {**image.files, ".json": json.dumps(notes, ensure_ascii=False).encode("utf-8", "replace")}
    if len(image.captions) == 1:
        members[".txt"] = image.captions[0].encode()
    for suffix, content in members.items():
        member = tarfile.TarInfo(f"{number:09d}{suffix}")
        member.size = len(content)
        file.addfile(member, BytesIO(content))
