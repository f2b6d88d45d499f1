"""The packages that sprites come from, obtained with the ordinary clients of npm and Debian and checked by sha256."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from smalti.common.files import make_folder, parse_json, read_text
from smalti.errors import SmaltiError
from smalti.worlds.objects.preparing import record

_PREFIX = ".download-"
_OLD_SECONDS = 24 * 3600
_LONGEST_WAIT = 3600  # seconds
_LONGEST_REASON = 140
_SUFFIXES = {"npm": ".tgz", "apt": ".deb"}
_PROGRAMS = {"npm": "npm", "apt": "apt-get"}


class PackageError(SmaltiError):
    """A package that cannot be had or read. Others may still be fine."""


@dataclass(frozen=True)
class Package:
    """A package that holds the drawings or models of one style.

    Attributes:
        style: style of its sprites.
        kind: "npm" or "apt", the client that obtains it.
        name: name of the package.
        version: version of the package.
        sha256: digest of its file.
        title: name of the collection.
        creator: who made it.
        licence: SPDX names of its licences, or "public domain".
        url: where the collection is at home.
    """

    style: str
    kind: str
    name: str
    version: str
    sha256: str
    title: str
    creator: str
    licence: str
    url: str

    @property
    def file_name(self) -> str:
        """Name of the package's file in a prepared folder."""
        plain = f"{self.name}-{self.version}".lstrip("@").replace("/", "-").replace(":", "%3a")
        return plain + _SUFFIXES[self.kind]

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@cache
def packages() -> Mapping[str, Package]:
    """Return the package of each style, in the order of an archive."""
    path = record.CATALOGS / "packages.json"
    found = [Package(**entry) for entry in parse_json(read_text(path), str(path))]
    return {package.style: package for package in found}


def obtain(package: Package, folder: Path) -> Path:
    """Return the path of a package's file; download it unless the folder has it.

    Args:
        package: the package.
        folder: where files of packages are, created if need be.

    Raises:
        PackageError: the client is missing or fails, or the file has another sha256; such a file is deleted.
        SmaltiError: the folder cannot be written.
    """
    path = folder / package.file_name
    try:
        if os.path.isfile(path) and _digest(path) == package.sha256:
            return path
        make_folder(folder)
        _delete_old(folder)
        with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=folder) as temporary:
            downloaded = _download(package, Path(temporary))
            found = _digest(downloaded)
            if found != package.sha256:
                raise PackageError(f"{package} is refused: its sha256 must be {package.sha256}, not {found}")
            os.replace(downloaded, path)
    except OSError as error:
        raise SmaltiError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def _download(package: Package, folder: Path) -> Path:
    """Return the file that the package's client downloads into a folder."""
    program = shutil.which(_PROGRAMS[package.kind])
    if program is None:
        raise PackageError(f"{package} needs {_PROGRAMS[package.kind]}, which is not installed")
    if package.kind == "npm":
        command = [
            program,
            "pack",
            f"{package.name}@{package.version}",
            "--ignore-scripts",
            "--fetch-retries=1",
        ]
    else:
        command = [program, "download", f"{package.name}={package.version}"]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LONGEST_WAIT,
        )
    except subprocess.TimeoutExpired as error:
        raise PackageError(f"{package} cannot be had: {_PROGRAMS[package.kind]} takes too long") from error
    files = list(folder.glob(f"*{_SUFFIXES[package.kind]}"))
    if done.returncode or len(files) != 1:
        raise PackageError(f"{package} cannot be had: {_reason(done.stderr, _PROGRAMS[package.kind])}")
    return files[0]


def _reason(errors: str, program: str) -> str:
    """Return what a client complains about, on one line."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    marked = [line for line in lines if line.startswith(("E:", "npm error", "npm ERR!"))]
    text = "; ".join((marked or lines)[:3]) or f"{program} writes no file"
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 3] + "..."


def _digest(path: Path) -> str:
    """Return the sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _delete_old(folder: Path) -> None:
    """Delete downloads that a killed process left a day ago or earlier."""
    for entry in folder.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if time.time() - entry.stat().st_mtime > _OLD_SECONDS:
                shutil.rmtree(entry)
