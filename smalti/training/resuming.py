"""Whether a training may go on: one process a folder, and the configuration of its checkpoint."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError

from smalti.common.files import check_regular, make_folder
from smalti.errors import SmaltiError
from smalti.storage.adapters import base_fingerprint, read_adapter
from smalti.storage.folder import existing
from smalti.storage.headers import read_header
from smalti.training.config import DenoiserRunConfig, RunConfig
from smalti.training.data_config import EncodingConfig
from smalti.training.reading import explain, name_key, shorten
from smalti.training.state import latest_checkpoint, read_state

# The other keys decide what is computed. With another number of processes a step still has the same images.
_MAY_CHANGE = {
    "output",
    "loop.steps",
    "loop.batch_size",
    "loop.accumulate",
    "loop.recompute",
    "loop.memory",
    "loop.log_every",
    "loop.log_to",
    "loop.preview_every",
    "loop.checkpoint_every",
    "loop.keep_checkpoints",
    "loop.async_checkpoints",
    "loop.device",
    "loop.processes",
    "distribution.strategy",
    "distribution.replicas",
    "objective.subsampling",
    "optimizer.kind",
    "optimizer.learning_rate",
    "optimizer.embedding_factor",
    "validation.images",
    "validation.ratios",
    "validation.path",
    "preview_prompts",
}
_LOCK = ".lock"


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes from training in a folder while the block runs. The end of a process frees its folder.

    The folder is created. It is removed again if the block leaves nothing in it.

    Raises:
        SmaltiError: another process trains there, or the folder cannot be written.
    """
    with name_key("output"):
        make_folder(folder)
    path = folder / _LOCK
    check_regular(path)
    try:
        with path.open("a") as file:
            if not _lock(file):
                raise SmaltiError(f"another process trains in {folder}")
            yield
    except PermissionError as error:
        if error.filename != str(path):
            raise
        raise SmaltiError(f"output: cannot write {folder}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            if os.listdir(folder) == [_LOCK]:
                path.unlink()
                folder.rmdir()


def check_resume(config: RunConfig | EncodingConfig) -> None:
    """Raise SmaltiError with the name of the key if the checkpoint of a run has a configuration that does not fit."""
    if not isinstance(config, RunConfig):
        return
    checkpoint = latest_checkpoint(Path(config.output))
    stored = read_state(checkpoint).get("config") if checkpoint else None
    if checkpoint is None or stored is None:
        return
    try:
        # Keys that are newer than the checkpoint get their defaults.
        before = type(config).model_validate(stored)
    except ValidationError as error:
        reason = explain(type(config), error)
        raise SmaltiError(
            f"{checkpoint} cannot be resumed: its configuration is not valid: {reason}"
        ) from error
    if before.loop.images != config.loop.images:
        raise SmaltiError(
            f"{checkpoint} cannot be resumed: loop.batch_size · loop.accumulate must stay "
            f"{before.loop.images}, not {config.loop.images}; another training needs another output"
        )
    for key, old, new in _differences(before.model_dump(mode="json"), config.model_dump(mode="json")):
        if key not in _MAY_CHANGE:
            old, new = ("null" if value is None else shorten(value) for value in (old, new))
            raise SmaltiError(
                f"{checkpoint} cannot be resumed: {key} must stay {old}, not {new}; "
                "another training needs another output"
            )
    _check_files(checkpoint)
    _check_base(checkpoint, config)


def _check_files(checkpoint: Path) -> None:
    """Raise SmaltiError with the name of a checkpoint's file that is cut short or damaged."""
    for path in sorted(checkpoint.rglob("*.safetensors")):
        try:
            read_header(path)
        except SmaltiError as error:
            raise SmaltiError(f"{checkpoint} cannot be resumed: {error}") from error


def _check_base(checkpoint: Path, config: RunConfig) -> None:
    """Raise SmaltiError if an adapter's checkpoint belongs to another base than the folder now holds."""
    if not isinstance(config, DenoiserRunConfig) or not config.adapter or not config.start_from:
        return
    with name_key("start_from"):
        own = base_fingerprint(existing(config.start_from))
    if read_adapter(checkpoint / "model").base not in (None, own):
        raise SmaltiError(
            f"{checkpoint} cannot be resumed: start_from, {config.start_from}, holds another model than at its start"
        )


def _differences(before: Any, now: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the key and both values of each difference between two configurations as JSON; None is missing."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in [*before, *(name for name in now if name not in before)]:
            yield from _differences(before.get(name), now.get(name), f"{key}.{name}".lstrip("."))
    elif before != now:
        yield key, before, now


def _lock(file: IO[str]) -> bool:
    """Lock a file until it is closed; return False if another process has it."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return os.name != "nt"  # a file system without locks
    return True
