"""Reading text and JSON in one way, and writing files so that a kill or a full disk never leaves half of one."""

from __future__ import annotations

import codecs
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from smalti.errors import SmaltiError

# A file without a byte-order mark is UTF-8. The mark of UTF-32 begins with that of UTF-16.
_ENCODINGS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it over `path` when the block ends well, delete it otherwise.

    The temporary name keeps the suffix of `path`, because image writers choose their format by it.

    Raises:
        SmaltiError: the folder does not exist or cannot be written, or the disk is full.
    """
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise SmaltiError(f"cannot write {path}: {error.strerror or error}") from error
    os.close(handle)
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


def write_text_atomic(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json_atomic(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_text_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        SmaltiError: the file is missing, is not JSON, or holds something other than an object.
    """
    path = Path(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SmaltiError(f"{path} does not exist") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SmaltiError(f"{path} is not readable JSON: {error}") from error
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


def read_text(path: str | Path) -> str:
    r"""Return the text of a regular file in UTF-8, or in the encoding of its byte-order mark; lines end with \n.

    Raises:
        SmaltiError: the file is missing, is not a regular one, or cannot be read or decoded.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise SmaltiError(f"{path} is not a regular file")  # a pipe would be waited for
        data = path.read_bytes()
        encoding = next((name for mark, name in _ENCODINGS.items() if data.startswith(mark)), "utf-8")
        return data.decode(encoding).replace("\r\n", "\n")
    except FileNotFoundError as error:
        raise SmaltiError(f"{path} does not exist") from error
    except UnicodeDecodeError as error:
        raise SmaltiError(f"cannot read {path}: it is not {error.encoding} text") from error
    except (OSError, ValueError) as error:
        if isinstance(error, SmaltiError):
            raise
        raise SmaltiError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def read_json_lines(path: str | Path) -> Iterator[tuple[int, Any]]:
    r"""Yield the number and the value of each line that is not blank. Lines end with \n and with nothing else.

    Raises:
        SmaltiError: the file cannot be read, or a line is not JSON; the error names its number.

    Example:
        >>> write_text_atomic("lines.jsonl", '{"a": 1}\n\n[2]\n')
        >>> list(read_json_lines("lines.jsonl"))
        [(1, {'a': 1}), (3, [2])]
    """
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield number, parse_json(line, f"{path} line {number}")


def parse_json(text: str, what: str) -> Any:
    """Return the value of a JSON text; `what` names the text in errors.

    Raises:
        SmaltiError: the text is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise SmaltiError(f"{what} is not JSON: it is nested too deeply") from error
    except ValueError as error:  # numbers of thousands of digits, too
        raise SmaltiError(f"{what} is not JSON: {error}") from error
