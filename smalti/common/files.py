"""Files: text read with limits; writing so that a kill or a full disk never leaves half of a file."""

from __future__ import annotations

import json
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from smalti.errors import SmaltiError

TEXT_BYTES = 2**26
"""Largest size in bytes of a text file that is read as a whole; a large tokenizer.json has 2**24."""

# Names of temporary files: a dot, the start of the name that they get, this mark, what mkstemp adds, the suffix.
_MARK = ".smalti-"
_TEMPORARY = re.compile(r"\..*\.smalti-[a-z0-9_]{8}(\.[^.]*)?")
_STEM_LETTERS = 40
_OLD_SECONDS = 24 * 3600


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it over `path` when the block ends well, delete it otherwise.

    The temporary name keeps the suffix of `path`, because image writers choose their format by it. A killed process
    leaves its temporary file; the first write into a folder deletes those that are older than a day.

    Raises:
        SmaltiError: the folder does not exist or cannot be written, or the disk is full.
    """
    path = Path(path)
    try:
        prefix = f".{path.stem[:_STEM_LETTERS]}{_MARK}"
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise SmaltiError(f"cannot write {path}: {error.strerror or error}") from error
    os.close(handle)
    _delete_old(path.parent.absolute())
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        # mkstemp makes files that only the owner can read; a result should have the usual permissions.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        os.replace(temporary, path)
    except OSError as error:
        raise SmaltiError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


@lru_cache(maxsize=256)  # once a process for each folder: listing a large one takes time
def _delete_old(folder: Path) -> None:
    """Delete temporary files of killed processes in a folder; errors are ignored, since others may delete them, too."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _TEMPORARY.fullmatch(entry.name):
                with suppress(OSError):
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime > _OLD_SECONDS:
                        os.unlink(entry.path)


def write_text_atomic(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json_atomic(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_text_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_text(path: str | Path, *, limit: int = TEXT_BYTES) -> str:
    """Read a UTF-8 file; a byte-order mark at its start is dropped.

    Pipes, devices and sockets are refused, because they can block for ever or have no end.

    Args:
        path: path of the file.
        limit: largest size in bytes.

    Raises:
        SmaltiError: the file is missing, larger than `limit`, not a regular file, not readable, or not UTF-8.
    """
    path = Path(path)
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
        content = b""
        if regular:
            with open(path, "rb") as file:
                content = file.read(limit + 1)
    except FileNotFoundError as error:
        raise SmaltiError(f"{path} does not exist") from error
    except OSError as error:
        raise SmaltiError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a NUL in the path
        raise SmaltiError(f"{str(path)!r} cannot be read: {error}") from error
    if not regular:
        raise SmaltiError(f"{path} must be a regular file")
    if len(content) > limit:
        raise SmaltiError(f"{path} must have at most {limit} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SmaltiError(
            f"{path} must be UTF-8 text: byte {error.start} is wrong ({error.reason})"
        ) from error


def parse_json(text: str | bytes) -> Any:
    """Parse JSON from anyone.

    Raises:
        ValueError: it is not JSON, or is nested more deeply than Python can parse.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        SmaltiError: `read_text` raises it, the file is not JSON, or it holds something other than an object.
    """
    text = read_text(path)
    try:
        value = parse_json(text)
    except ValueError as error:
        raise SmaltiError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(value, dict):
        raise SmaltiError(f"{path} must hold a JSON object, not {type(value).__name__}")
    return value
