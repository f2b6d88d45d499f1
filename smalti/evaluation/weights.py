"""Weights of scorers: a folder, or a model on the Hugging Face hub, and what fetching it means."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from smalti.common.checks import quoted
from smalti.errors import SmaltiError
from smalti.evaluation.fetching import fetch, first_line
from smalti.storage.hub import is_hub_id
from smalti.training.distribution import code_version

TEXTS = ("*.json", "*.txt", "*.model")
"""Patterns of a model's files without its weights."""

WEIGHTS = "*.safetensors"
"""Pattern of files of weights: safetensors only, and no code."""


@cache
def find_weights(
    option: str, text: str, example: str, *, needs: str = "config.json", whole: bool = True
) -> Path:
    """Return the folder of a scorer's weights; a hub id is fetched, after one line that says what it means.

    Args:
        option: name of the suite's option, for errors.
        text: a folder, or a hub id, with `@REVISION` for a branch, a tag or a commit.
        example: a hub id that fits, for errors; or, where the hub has none, where the folder comes from.
        needs: pattern of a file that a local folder must have.
        whole: whether the weights themselves are fetched, not only configuration and tokenizer.

    Raises:
        SmaltiError: there is no such folder, or the hub does not give it.
    """
    if text and os.path.isdir(text) and any(Path(text).glob(needs)):
        return Path(text)
    name, _, revision = text.partition("@")
    if not is_hub_id(name) or os.path.isdir(text):
        allowed = f"{option} must be a folder with {needs}"
        if not is_hub_id(example):
            raise SmaltiError(f"{allowed}, {example}, not {quoted(text)}", argument=option)
        setting = option if option.startswith("--") else f"--set {option}"
        raise SmaltiError(
            f"{allowed} or a hub id such as {example}, not {quoted(text)}: {setting}={example} fetches it",
            argument=option,
        )
    wanted: Sequence[str] = (*TEXTS, WEIGHTS) if whole else TEXTS
    return fetch(option, name, revision or None, wanted, proof=WEIGHTS if whole else "config.json")


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
        raise SmaltiError(f"{option} {text} cannot be read: {first_line(error)}", argument=option) from error


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
