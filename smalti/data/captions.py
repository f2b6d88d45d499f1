"""The captions of a folder's images: text files beside them, or the rows of a metadata file."""

from __future__ import annotations

import csv
import importlib
import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from smalti.common.files import read_json_lines, read_text
from smalti.errors import SmaltiError

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
"""Names of the files whose rows have a `file_name` and a `text`, as in Hugging Face's ImageFolder."""

CAPTION_SUFFIXES = (".txt", ".caption")
"""Suffixes of the text files beside images."""

_SHOWN = 80  # characters of a wrong row in an error


def find_caption_file(image: Path) -> Path | None:
    """Return the text file beside an image, or None."""
    # A name that is too long for a file does not exist; pathlib would raise an error.
    candidates = (image.with_suffix(suffix) for suffix in CAPTION_SUFFIXES)
    return next((path for path in candidates if os.path.exists(path)), None)


def read_captions(image: Path, lines: bool = False) -> tuple[str, ...]:
    """Return the captions in the text file beside an image, with single spaces.

    Args:
        image: path of the image.
        lines: whether each line that is not blank is a caption; otherwise all of the text is one.

    Raises:
        SmaltiError: there is no such file, or it is empty or cannot be read.
    """
    beside = find_caption_file(image)
    if beside is None:
        raise SmaltiError(
            f"{image} has no caption: neither {image.with_suffix('.txt').name} nor a row in {METADATA[0]}"
        )
    try:
        text = read_text(beside)
    except SmaltiError as error:
        raise SmaltiError(f"cannot read the caption {beside}: {error}") from error
    captions = single_spaced(text.split("\n") if lines else [text])
    if not captions:
        raise SmaltiError(f"{beside} is empty; it must hold a caption")
    return captions


def single_spaced(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the texts that are not blank with single spaces, each once."""
    return tuple(dict.fromkeys(text for one in texts if (text := " ".join(one.split()))))


def read_metadata(path: Path) -> dict[Path, tuple[str, ...]]:
    r"""Return the captions of a metadata file by the paths of their images, which may be written with / or \\.

    Raises:
        SmaltiError: the file cannot be read, or a row lacks one of the two texts.
    """
    readers = {".jsonl": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}
    captions: dict[Path, tuple[str, ...]] = {}
    for place, entry in readers[path.suffix](path):
        for key in ("file_name", "text"):
            value = entry.get(key) if isinstance(entry, dict) else None
            texts = value if isinstance(value, list) and key == "text" else [value]
            if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
                shown = repr(entry)
                shown = shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "…"
                raise SmaltiError(f"{place} must be an object with the text {key!r}, not {shown}")
            if not all(map(is_unicode, texts)):
                raise SmaltiError(f"{place} must have valid Unicode in {key!r}")
        name, texts = entry["file_name"], entry["text"]
        if "\\" in name and not os.path.exists(path.parent / name):
            name = name.replace("\\", "/")
        captions[Path(os.path.normpath(path.parent / name))] = single_spaced(
            [texts] if isinstance(texts, str) else texts
        )
    return captions


def is_unicode(text: str) -> bool:
    """Return whether a text has a form in UTF-8."""
    try:
        return bool(text.encode())
    except UnicodeEncodeError:  # half of a pair of surrogates, which JSON can write
        return False


def _read_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    return ((f"{path} line {number}", entry) for number, entry in read_json_lines(path))


def _read_csv(path: Path) -> Iterator[tuple[str, Any]]:
    rows = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        for row in rows:
            yield f"{path} line {rows.line_num}", row
    except csv.Error as error:
        raise SmaltiError(f"{path} line {rows.line_num} is not CSV: {error}") from error


def _read_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise SmaltiError(
            f"{path} needs pyarrow (pip install pyarrow); metadata.jsonl and metadata.csv do not"
        ) from error
    try:
        rows = parquet.read_table(path).to_pylist()
    except Exception as error:  # pyarrow has its own errors
        raise SmaltiError(f"cannot read {path}: {' '.join(str(error).split())[:_SHOWN]}") from error
    return ((f"{path} row {number}", row) for number, row in enumerate(rows))
