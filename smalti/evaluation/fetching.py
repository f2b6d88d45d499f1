"""Fetching from the Hugging Face hub for evaluation: what a user named, after one line that says what it means."""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from smalti.errors import SmaltiError


def fetch(
    option: str,
    name: str,
    revision: str | None,
    patterns: Sequence[str],
    *,
    kind: str = "model",
    proof: str = "*",
) -> Path:
    """Return the folder of a hub id in the cache; what is not there is fetched, after one line with size and licence.

    Args:
        option: name of the option that names it, for errors.
        name: organisation/name.
        revision: a branch, a tag or a commit; None is the main branch.
        patterns: patterns of the wanted files.
        kind: "model" or "dataset".
        proof: pattern of a file without which the cache is not complete.

    Raises:
        SmaltiError: the hub does not give it.
    """
    import huggingface_hub

    def download(cached: bool) -> Path:
        return Path(
            huggingface_hub.snapshot_download(
                name,
                revision=revision,
                allow_patterns=list(patterns),
                local_files_only=cached,
                repo_type=kind,
            )
        )

    with suppress(Exception):  # it is not in the cache, for whatever reason
        folder = download(cached=True)
        if any(_matches(path, folder, patterns, proof) for path in folder.rglob("*")):
            return folder
    try:
        logging.getLogger("smalti").warning(_plan(name, revision, patterns, kind))
        return download(cached=False)
    except Exception as error:  # a network and its libraries raise errors of any kind
        raise SmaltiError(
            f"{option} {name} cannot be fetched from the Hugging Face hub: {first_line(error)}",
            argument=option,
        ) from error


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its kind where it has none.

    Example:
        >>> first_line(KeyError())
        'KeyError'
    """
    lines = str(error).strip().splitlines()
    return lines[0][:150] if lines else type(error).__name__


def _matches(path: Path, folder: Path, patterns: Sequence[str], proof: str) -> bool:
    """Return whether a path in the cache is one of the wanted files, and proves that the others are there."""
    inner = path.relative_to(folder).as_posix()
    wanted = any(fnmatch.fnmatch(inner, pattern) for pattern in patterns)
    return path.is_file() and wanted and fnmatch.fnmatch(inner, proof)


def _plan(name: str, revision: str | None, patterns: Sequence[str], kind: str) -> str:
    """Return what fetching a hub id means: its size and licence, as the hub states them."""
    import huggingface_hub

    hub = huggingface_hub.HfApi()
    info: Any = (hub.dataset_info if kind == "dataset" else hub.model_info)(
        name, revision=revision, files_metadata=True
    )
    wanted = [
        entry.size or 0
        for entry in info.siblings or []
        if any(fnmatch.fnmatch(entry.rfilename, pattern) for pattern in patterns)
    ]
    card = getattr(info, "card_data", None)
    licence = (card.get("license") if card is not None else None) or "not stated"
    return f"fetching {name} at {info.sha}: {sum(wanted) / 1e6:.0f} MB, licence {licence}"
