"""Files of a Debian package, read with the standard library: an ar archive that holds a compressed tar archive."""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from smalti.common.checks import quoted
from smalti.errors import SmaltiError

_MAGIC = b"!<arch>\n"
_HEADER = 60
_LARGEST = 2**28  # bytes of a file in a package
_COMPRESSIONS = {"data.tar.xz": "r|xz", "data.tar.gz": "r|gz", "data.tar.bz2": "r|bz2", "data.tar": "r|"}


def package_files(package: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Yield the wanted files of a Debian package, in the package's order. Nothing is written.

    Args:
        package: path of the .deb file.
        wanted: tells by its path, such as "usr/share/doc/a", whether a file is wanted. Links are left out.

    Raises:
        SmaltiError: the file is missing or no Debian package, is broken, or holds a path that leaves the package.
    """
    try:
        with package.open("rb") as file:
            mode = _find_data(file, package)
            with tarfile.open(fileobj=file, mode=mode) as archive:  # type: ignore[call-overload]
                for member in archive:
                    name = _inner_path(member.name, package)
                    if member.isreg() and wanted(name):
                        yield name, _content(archive, member, package)
    except FileNotFoundError as error:
        raise SmaltiError(f"{package} does not exist") from error
    except (OSError, EOFError, tarfile.TarError, lzma.LZMAError, zlib.error) as error:
        raise SmaltiError(f"{package} is broken: {quoted(str(error))}; download it again") from error


def _find_data(file: BinaryIO, package: Path) -> str:
    """Move to the tar archive inside an ar archive, and return how `tarfile` opens it."""
    if file.read(len(_MAGIC)) != _MAGIC:
        raise SmaltiError(f"{package} must be a Debian package, and it is no ar archive")
    while True:
        header = file.read(_HEADER)
        if len(header) < _HEADER or header[58:] != b"`\n":
            raise SmaltiError(f"{package} is broken: it has no data.tar.xz or data.tar.gz; download it again")
        name = header[:16].decode("ascii", "replace").rstrip(" /")
        size = header[48:58].decode("ascii", "replace").strip()
        if not size.isdecimal():
            raise SmaltiError(f"{package} is broken: its part {quoted(name)} has no size; download it again")
        if file.tell() + int(size) > package.stat().st_size:
            raise SmaltiError(f"{package} is broken: it ends inside {quoted(name)}; download it again")
        if name in _COMPRESSIONS:
            return _COMPRESSIONS[name]
        file.seek(int(size) + int(size) % 2, 1)


def _inner_path(name: str, package: Path) -> str:
    """Return a path inside a package without the "./" that stands before it."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise SmaltiError(f"{package} must hold paths inside itself, not {quoted(name)}")
    return str(path)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, package: Path) -> bytes:
    """Return the bytes of a file in a tar archive."""
    if member.size > _LARGEST:
        raise SmaltiError(f"{package} must hold files of at most {_LARGEST} bytes, not {member.size}")
    file = archive.extractfile(member)
    data = file.read() if file is not None else b""
    if len(data) != member.size:
        raise SmaltiError(f"{package} is broken: it ends inside {quoted(member.name)}; download it again")
    return data
