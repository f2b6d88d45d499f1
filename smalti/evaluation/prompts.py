"""Files of prompts in the forms of published benchmarks: JSON lines, lists, folders of lists, data sets of the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from smalti.common.checks import quoted
from smalti.common.files import parse_json, read_text
from smalti.errors import SmaltiError
from smalti.evaluation.fetching import fetch
from smalti.evaluation.folder import Metadata, check_text, read_prompts
from smalti.storage.hub import is_hub_id

T = TypeVar("T")

_LARGEST = 256 * 2**20  # bytes
_LISTS = (".json", ".jsonl", ".txt")
_PLAIN = re.compile(r"[^/\\\0.][^/\\\0]*")


def evenly(items: Sequence[T], count: int) -> list[T]:
    """Return `count` of some items at even distances, in their order; always the same ones.

    Example:
        >>> evenly("abcdef", 3)
        ['a', 'c', 'e']
    """
    return [items[index * len(items) // count] for index in range(count)]


def find_prompts(source: str | Path, check: Callable[[Any], None] = check_text) -> list[Metadata]:
    """Return the prompts of a file, of a folder of files, or of a data set on the hub.

    A list in a folder is a category: its prompts get the file's name as `category`, and their number as `name`.

    Args:
        source: file of JSON lines, .txt file with a prompt a line, .json file, or folder of these. A .json file holds
            a list of texts or objects, or objects by name, as MJHQ-30K's meta_data.json does. OWNER/NAME:PATH is a
            file or folder of a data set on the hub; @REVISION may follow.
        check: function that raises SmaltiError for metadata that cannot be used.

    Raises:
        SmaltiError: the source is missing or empty, or holds something other than prompts.

    Example:
        >>> _ = Path("anime.json").write_text('["a cat", "a dog"]')
        >>> find_prompts("anime.json")[1]
        {'prompt': 'a dog'}
    """
    path = find_file(source)
    if not os.path.isdir(path):
        return _read(path, check)
    files = sorted(entry for entry in path.iterdir() if entry.suffix in _LISTS)
    prompts = [
        {"category": file.stem, "name": f"{number:05d}", **prompt}
        for file in files
        for number, prompt in enumerate(_read(file, check))
    ]
    if not prompts:
        raise SmaltiError(f"{path} holds no files of prompts: .json, .jsonl or .txt", argument="--prompts")
    return prompts


def find_file(source: str | Path) -> Path:
    """Return the path of a file or folder of prompts; that of a data set on the hub is fetched first."""
    name, _, rest = str(source).partition(":")
    inner, _, revision = rest.partition("@")
    if not inner or not is_hub_id(name) or os.path.exists(source):
        return Path(source)
    wanted = [inner, *(f"{inner.rstrip('/')}/*{ending}" for ending in _LISTS)]
    return fetch("--prompts", name, revision or None, wanted, kind="dataset") / inner


def check_name(name: Any, what: str) -> str:
    """Return a text that can be the name of a file; raise SmaltiError for any other."""
    if not isinstance(name, str) or not _PLAIN.fullmatch(name):
        raise SmaltiError(f"{what} must be the name of a file, not {quoted(name)}", argument="--prompts")
    return name


def _read(path: Path, check: Callable[[Any], None]) -> list[Metadata]:
    """Return the prompts of one file."""
    if path.suffix == ".txt":
        lines = read_text(path, limit=_LARGEST).split("\n")
        return _checked([{"prompt": line.strip()} for line in lines if line.strip()], path, check)
    if path.suffix != ".json":
        return read_prompts(path, check)
    text = read_text(path, limit=_LARGEST)
    try:
        value = parse_json(text, str(path))
    except SmaltiError:
        return read_prompts(path, check)  # JSON lines under another name
    if isinstance(value, dict) and isinstance(value.get("prompt"), str):
        value = [value]
    if isinstance(value, dict):
        value = [
            {"name": check_name(name, f"{path}: a name"), **entry}
            for name, entry in value.items()
            if isinstance(entry, dict)
        ]
    if not isinstance(value, list):
        raise SmaltiError(f"{path} must hold a list of prompts", argument="--prompts")
    return _checked([{"prompt": one} if isinstance(one, str) else one for one in value], path, check)


def _checked(prompts: list[Any], path: Path, check: Callable[[Any], None]) -> list[Metadata]:
    """Return prompts that can be used; raise SmaltiError, which names the number of one that cannot."""
    for number, prompt in enumerate(prompts):
        try:
            check(prompt)
        except SmaltiError as error:
            raise SmaltiError(f"{path} prompt {number}: {error}", argument="--prompts") from error
    if not prompts:
        raise SmaltiError(f"{path} holds no prompts", argument="--prompts")
    return prompts
