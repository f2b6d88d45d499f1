"""The index of a tar shard in WebDataset's layout: where the image, the texts and the mask of each sample are.

The members of a sample have one name up to the first dot: `0001.jpg`, `0001.txt`, `0001.json`, `0001.mask.png`. The
index of `0000.tar` is `0000.index.safetensors`, and is written once. Reading a sample then takes a seek a member.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from smalti.common.arrays import ArrayFile, write_arrays
from smalti.common.files import make_folder
from smalti.common.opening import readable_suffixes
from smalti.data.images import ChangedFilesError
from smalti.errors import SmaltiError

ROLES = ("image", "text", "json", "mask")
"""The members of a sample that are read, in the order of the index."""

BLOCK = 512
"""Bytes of a member's header, which stands before its content."""

_FORMAT = "1"
_TEXTS = {"txt": "text", "caption": "text", "json": "json"}


def index_path(tar: Path, root: Path, folder: Path | None) -> Path:
    """Return the file of a tar's index: in `folder` where there is one, otherwise beside the tar.

    Args:
        tar: the tar, somewhere below `root`.
        root: folder of all tars.
        folder: another folder for indexes, or None.
    """
    name = tar.with_suffix(".index.safetensors")
    return folder / name.relative_to(root) if folder else name


def open_index(tar: Path, path: Path) -> ArrayFile:
    """Return the index of a tar, whose array `places` is (n, 4, 2) int64: offset and size of each member, or −1.

    Raises:
        SmaltiError: it is missing, damaged, or of another tar.
    """
    index = ArrayFile(path)
    places = index["places"]
    if index.notes.get("format") != _FORMAT or places.ndim != 3 or places.shape[1:] != (len(ROLES), 2):
        raise SmaltiError(f"{path} is no index of a tar; delete it, and it is written again")
    size = _size(tar)
    if index.notes.get("bytes") != str(size):
        raise ChangedFilesError(
            f"{path} does not fit {tar.name}, which has {size} bytes, not {index.notes.get('bytes')}: "
            "delete the index if the tar is whole, and it is written again"
        )
    return index


def write_index(tar: Path, path: Path) -> None:
    """Read the headers of a tar and write its index.

    Raises:
        SmaltiError: the tar is cut short or damaged, or the index cannot be written.
    """
    digest = hashlib.sha256()
    samples: dict[str, list[tuple[int, int]]] = {}
    for member in _members(tar):
        digest.update(f"{member.name}\0{member.size}\0{member.mtime}\0".encode("utf-8", "surrogateescape"))
        key, role = split_name(member.name)
        if role is None:
            continue
        places = samples.setdefault(key, [(-1, -1)] * len(ROLES))
        if places[ROLES.index(role)][0] < 0:  # the first of several images of one name
            places[ROLES.index(role)] = member.offset_data, member.size
    kept = [places for places in samples.values() if places[0][0] >= 0]
    array = np.array(kept, np.int64).reshape(len(kept), len(ROLES), 2)
    make_folder(path.parent)
    notes = {"format": _FORMAT, "bytes": str(_size(tar)), "digest": digest.hexdigest()[:16]}
    write_arrays(path, {"places": array}, notes)


def split_name(name: str) -> tuple[str, str | None]:
    """Return the key of a member's sample and the member's role; None for a member that is not read.

    Example:
        >>> split_name("a/0001.mask.png"), split_name("0001.jpg"), split_name("0001.cls")
        (('a/0001', 'mask'), ('0001', 'image'), ('0001', None))
    """
    path = PurePosixPath(name)
    stem, _, suffix = path.name.partition(".")
    suffix = suffix.lower()
    role = _TEXTS.get(suffix)
    if f".{suffix}" in readable_suffixes():
        role = "image"
    elif suffix.startswith("mask.") and suffix.removeprefix("mask") in readable_suffixes():
        role = "mask"
    return str(path.with_name(stem)) if stem else name, role if stem else None


def member_name(tar: Path, offset: int) -> str:
    """Return the name of the member whose content begins at `offset`.

    Raises:
        ChangedFilesError: there is no member at this place.
        SmaltiError: the tar cannot be read.
    """
    return _header(tar, _read(tar, offset - BLOCK, BLOCK), offset).name


def read_member(tar: Path, offset: int, size: int) -> bytes:
    """Return the content of a member.

    Raises:
        ChangedFilesError: there is no such member at this place.
        SmaltiError: the tar cannot be read.
    """
    found = _read(tar, offset - BLOCK, BLOCK + size)
    if _header(tar, found[:BLOCK], offset).size != size or len(found) != BLOCK + size:
        raise _changed(tar, offset)
    return found[BLOCK:]


def _read(tar: Path, start: int, size: int) -> bytes:
    try:
        with open(tar, "rb") as file:
            file.seek(start)
            return file.read(size)
    except OSError as error:
        raise SmaltiError(f"{tar} cannot be read: {error.strerror or error}") from error


def _header(tar: Path, block: bytes, offset: int) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise _changed(tar, offset) from error


def _changed(tar: Path, offset: int) -> ChangedFilesError:
    return ChangedFilesError(
        f"{tar} does not fit its index, which has another member at {offset}: delete the index if the tar is whole, "
        "and it is written again"
    )


def _members(tar: Path) -> Iterator[tarfile.TarInfo]:
    """Yield the regular files of a tar."""
    try:
        with tarfile.open(tar, "r:") as file:
            while (member := file.next()) is not None:
                file.members = []  # type: ignore[attr-defined]  # which would grow with the tar
                if member.isreg():
                    yield member
            file.fileobj.seek(file.offset)
            if file.fileobj.read(BLOCK) != bytes(BLOCK):
                raise SmaltiError(f"{tar} is cut short or damaged: it does not end where it should")
    except SmaltiError:
        raise
    except (tarfile.TarError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise SmaltiError(f"{tar} is cut short or no tar: {reason}") from error


def _size(tar: Path) -> int:
    try:
        return os.stat(tar).st_size
    except OSError as error:
        raise SmaltiError(f"{tar} cannot be read: {error.strerror or error}") from error
