"""Reading text and JSON with limits, and writing files so that a kill or a full disk never leaves half of one."""

from __future__ import annotations

import codecs
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

LINES_BYTES = 2**32
"""Largest size in bytes of a file of lines, such as the captions of a large data folder."""

_SMALL_BYTES = 2**16
_MOST_LEVELS = 100
_CONTAINERS = (dict, list)

# A file without a byte-order mark is UTF-8. The mark of UTF-32 begins with that of UTF-16.
_ENCODINGS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

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
        with open(temporary, "r+b") as written:  # Windows synchronises only files that are open for writing
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
            if is_temporary(entry.name):
                with suppress(OSError):
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime > _OLD_SECONDS:
                        os.unlink(entry.path)


def is_temporary(name: str) -> bool:
    """Return whether a file's name is one that `atomic_path` gives for the time of writing.

    Example:
        >>> is_temporary(".run.smalti-ab3_x9cd.json"), is_temporary("run.json")
        (True, False)
    """
    return _TEMPORARY.fullmatch(name) is not None


def write_text_atomic(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json_atomic(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    with atomic_path(path) as temporary:
        write_json(temporary, value)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to a path of `atomic_path`."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_text(path: str | Path, *, limit: int = TEXT_BYTES) -> str:
    r"""Return the text of a regular file in UTF-8, or in the encoding of its byte-order mark; lines end with \n.

    Pipes, devices and sockets are refused, because they can block for ever or have no end.

    Args:
        path: path of the file.
        limit: largest size in bytes.

    Raises:
        SmaltiError: the file is missing, larger than `limit`, not a regular one, or cannot be read or decoded.
    """
    path = Path(path)
    try:
        status = path.stat()
        regular = stat.S_ISREG(status.st_mode)
        data = b""
        if regular:
            # Python makes room for all that is asked for. Files of the system say that they have no bytes.
            room = max(status.st_size, _SMALL_BYTES)
            with open(path, "rb") as file:
                data = file.read(min(limit, room) + 1)
    except FileNotFoundError as error:
        raise SmaltiError(f"{path} does not exist") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise SmaltiError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if not regular:
        raise SmaltiError(f"{path} is not a regular file")
    if len(data) > limit:
        raise SmaltiError(f"{path} must have at most {limit} bytes")
    return decode_text(data, str(path))


def read_lines(path: str | Path) -> list[str]:
    """Return the lines of a text file that are not blank, without blanks around them.

    Raises:
        SmaltiError: as for `read_text`.
    """
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def decode_text(data: bytes, what: str) -> str:
    r"""Return a text in UTF-8, or in the encoding of its byte-order mark; lines end with \n.

    Raises:
        SmaltiError: it cannot be decoded; `what` names it.
    """
    encoding = next((name for mark, name in _ENCODINGS.items() if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding).replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise SmaltiError(f"cannot read {what}: it is not {error.encoding} text") from error


def check_regular(path: str | Path) -> None:
    """Raise SmaltiError if a path leads to something other than a file: opening a pipe would wait for ever."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise SmaltiError(f"{path} is not a regular file")


def read_json_lines(path: str | Path) -> Iterator[tuple[int, Any]]:
    r"""Yield the number and the value of each line that is not blank. Lines end with \n and with nothing else.

    Raises:
        SmaltiError: the file cannot be read, or a line is not JSON; the error names its number.

    Example:
        >>> write_text_atomic("lines.jsonl", '{"a": 1}\n\n[2]\n')
        >>> list(read_json_lines("lines.jsonl"))
        [(1, {'a': 1}), (3, [2])]
    """
    for number, line in enumerate(read_text(path, limit=LINES_BYTES).split("\n"), start=1):
        if line.strip():
            yield number, parse_json(line, f"{path} line {number}")


def parse_json(text: str | bytes, what: str) -> Any:
    """Return the value of a JSON text; `what` names the text in errors.

    Raises:
        SmaltiError: the text is not JSON, or is nested too deeply.
    """
    deep = f"{what} is not JSON: it is nested too deeply, in more than {_MOST_LEVELS} levels"
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise SmaltiError(deep) from error
    except ValueError as error:  # numbers of thousands of digits, too
        raise SmaltiError(f"{what} is not JSON: {error}") from error
    # What Python can just parse it may fail to print or to compare.
    level = [value] if isinstance(value, _CONTAINERS) else []
    for _ in range(_MOST_LEVELS - 1):
        level = [
            entry
            for outer in level
            for entry in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(entry, _CONTAINERS)
        ]
    if any(level):
        raise SmaltiError(deep)
    return value


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        SmaltiError: `read_text` or `parse_json` raises it, or the file holds something other than an object.
    """
    value = parse_json(read_text(path), str(path))
    if not isinstance(value, dict):
        raise SmaltiError(f"{path} must hold a JSON object, not {type(value).__name__}")
    return value


def make_folder(folder: Path) -> None:
    """Create a folder and its parents.

    Raises:
        SmaltiError: it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SmaltiError(f"cannot write {folder}: {error.strerror or error}") from error
