"""Weights of scorers: a folder, or a model on the Hugging Face hub, and what fetching it means."""

from __future__ import annotations

import fnmatch
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from smalti.common.checks import quoted
from smalti.errors import SmaltiError
from smalti.storage.hub import is_hub_id
from smalti.training.distribution import code_version

_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model"]  # weights in safetensors only, and no code


@cache
def find_weights(option: str, text: str, example: str) -> Path:
    """Return the folder of a scorer's weights; a hub id is fetched, after one line that says what it means.

    Args:
        option: name of the suite's option, for errors.
        text: a folder, or a hub id, with `@REVISION` for a branch, a tag or a commit.
        example: a hub id that fits, for errors.

    Raises:
        SmaltiError: there is no such folder, or the hub does not give it.
    """
    if os.path.isfile(Path(text) / "config.json") and text:
        return Path(text)
    name, _, revision = text.partition("@")
    if not is_hub_id(name) or os.path.isdir(text):
        raise SmaltiError(
            f"{option} must be a folder with config.json or a hub id such as {example}, not {quoted(text)}: "
            f"--set {option}={example} fetches it",
            argument=option,
        )
    return _fetch(option, name, revision or None)


def revision_of(text: str, folder: Path) -> str:
    """Return the commit of weights from the hub, or "folder" for a local folder.

    Args:
        text: the option's value.
        folder: result of `find_weights`.
    """
    return "folder" if os.path.isdir(text) else folder.name


def needed_module(name: str) -> Any:
    """Return a module of transformers, or raise SmaltiError if transformers is missing.

    Args:
        name: name of a class in `transformers`.
    """
    try:
        return getattr(import_module("transformers"), name)
    except (ImportError, AttributeError) as error:
        raise SmaltiError(f"{name} needs transformers: pip install 'smalti[benchmarks]'") from error


@contextmanager
def readable(option: str, text: str) -> Iterator[None]:
    """Turn any error of the block, which reads the weights that an option names, into one line.

    Raises:
        SmaltiError: the weights cannot be read.
    """
    try:
        yield
    except Exception as error:  # transformers and tokenizers raise errors of any kind
        raise SmaltiError(f"{option} {text} cannot be read: {_first_line(error)}", argument=option) from error


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that decide about scores; packages that are missing are left out.

    Smalti's entry is a hash of its code, which says more than its version.

    Example:
        >>> "torch" in package_versions()
        True
    """
    found = {"smalti": code_version()}
    for name in ("torch", "transformers", "tokenizers", "pillow", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _fetch(option: str, name: str, revision: str | None) -> Path:
    """Return the folder of a hub id in the cache, fetched if needed."""
    import huggingface_hub

    def download(cached: bool) -> Path:
        return Path(
            huggingface_hub.snapshot_download(
                name, revision=revision, allow_patterns=_PATTERNS, local_files_only=cached
            )
        )

    with suppress(Exception):  # it is not in the cache, for whatever reason
        folder = download(cached=True)
        if any(folder.glob("*.safetensors")):
            return folder
    try:
        logging.getLogger("smalti").warning(_plan(name, revision))
        return download(cached=False)
    except Exception as error:  # a network and its libraries raise errors of any kind
        raise SmaltiError(
            f"{option} {name} cannot be fetched from the Hugging Face hub: {_first_line(error)}",
            argument=option,
        ) from error


def _first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its kind where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:150] if lines else type(error).__name__


def _plan(name: str, revision: str | None) -> str:
    """Return what fetching a hub id means: its size and licence, as the hub states them."""
    import huggingface_hub

    info = huggingface_hub.HfApi().model_info(name, revision=revision, files_metadata=True)
    wanted = [
        entry.size or 0
        for entry in info.siblings or []
        if any(fnmatch.fnmatch(entry.rfilename, pattern) for pattern in _PATTERNS)
    ]
    card = getattr(info, "card_data", None)
    licence = (card.get("license") if card is not None else None) or "not stated"
    return f"fetching {name} at {info.sha}: {sum(wanted) / 1e6:.0f} MB, licence {licence}"
