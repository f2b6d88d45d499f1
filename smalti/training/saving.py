"""Writing checkpoints: under a temporary name, renamed when every process is done, while training waits or goes on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException

from smalti.common.files import write_json_atomic
from smalti.errors import SmaltiError
from smalti.training.distribution import PeerLostError, cause_of, is_broken, rank, wait_for_all
from smalti.training.state import (
    FORMAT,
    SHARDS,
    TrainingState,
    checkpoint_path,
    checkpoints,
    plain,
    step_of,
    write_files,
)


class Saver:
    """Writes the checkpoints of a run and drops the older ones.

    A checkpoint is a folder `checkpoint-N` with `state.json`, the tensors, and a loadable `model/`. It appears whole or
    not at all. Every process has a saver; the first one writes, and with a sharded model each writes its shards.

    Args:
        run: folder of the run.
        keep: number of checkpoints that are kept.
        asynchronous: whether training goes on while a checkpoint is written. It then waits for a copy alone.
        sharded: whether the processes hold shards of the model.
    """

    def __init__(self, run: Path, *, keep: int, asynchronous: bool, sharded: bool) -> None:
        self._run, self._keep, self._asynchronous, self._sharded = run, keep, asynchronous, sharded
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._writing: list[Future] = []
        self._final: Path | None = None

    @property
    def written(self) -> bool:
        """Whether this process has written its part of a checkpoint that is not complete yet."""
        return bool(self._writing) and all(future.done() for future in self._writing)

    def save(
        self, state: TrainingState, step: int, metadata: dict[str, Any], export: Callable[[Path], None]
    ) -> None:
        """Write a checkpoint, or begin to. Every process calls this.

        Args:
            state: the tensors.
            step: number of steps done.
            metadata: the last log entry and other values to restore, stored as JSON beside the step.
            export: function that writes a loadable model folder from copies; process 0 calls it.

        Raises:
            SmaltiError: the disk is full or the folder cannot be written; earlier checkpoints stay.
        """
        self.finish()
        final = checkpoint_path(self._run, step)
        temporary = final.with_suffix(".tmp")
        with _named(final, temporary):
            if rank() == 0:
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir(parents=True)
            if self._sharded:
                wait_for_all()
            self._final = final
            self._write(state, temporary, {"format": FORMAT, "step": step, **metadata}, export)
        if not self._asynchronous:
            self.finish()

    def _write(
        self, state: TrainingState, folder: Path, metadata: dict[str, Any], export: Callable[[Path], None]
    ) -> None:
        """Begin to write all parts that are this process's."""
        if self._sharded:
            from smalti.training.shard_files import start_writing_shards, write_shards

            metadata["moments"] = len(state.tensors()["optimizer"])
            if self._asynchronous:
                self._writing.append(start_writing_shards(folder / SHARDS, state))
            else:
                write_shards(folder / SHARDS, state)
        if rank() > 0:
            return
        files: dict[str, dict[str, torch.Tensor]] = {}
        if not self._sharded:
            files = {name: plain(part) for name, part in state.tensors().items()}
            metadata["moments"] = len(files["optimizer"])

        def write() -> None:
            write_files(folder, files)
            export(folder / "model")
            write_json_atomic(folder / "state.json", metadata)
            _synchronize(folder)

        if self._asynchronous:
            self._writing.append(self._pool.submit(write))
        else:
            write()

    def finish(self) -> None:
        """Wait until the checkpoint is written, and give it its name. Every process calls this.

        Raises:
            SmaltiError: it cannot be written; earlier checkpoints stay.
        """
        if self._final is None:
            return
        final, self._final = self._final, None
        temporary = final.with_suffix(".tmp")
        writing, self._writing = self._writing, []
        with _named(final, temporary):
            for future in writing:
                future.result()
            if self._sharded:
                wait_for_all()
            if rank() == 0:
                self._publish(temporary, final)

    def _publish(self, temporary: Path, final: Path) -> None:
        """Rename a complete checkpoint, then drop the older ones and what a killed process left."""
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
        left = [
            path
            for path in self._run.glob("*.tmp")
            if os.path.isdir(path) and step_of(path.name.removesuffix(".tmp")) is not None
        ]
        for path in [*checkpoints(self._run)[: -self._keep], *left]:
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _named(final: Path, temporary: Path) -> Iterator[None]:
    """Let the block's errors name the checkpoint, and drop what it left."""
    try:
        yield
    except (Exception, CheckpointException) as found:
        if rank() == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        error = cause_of(found)
        if is_broken(error):
            raise PeerLostError("a process of the training ended early") from found
        if isinstance(error, OSError | SafetensorError | RuntimeError):
            reason = " ".join(str(error).split())[:200]
            raise SmaltiError(f"cannot write checkpoint {final}: {reason}") from found
        raise


def _synchronize(folder: Path) -> None:
    """Make sure that the files of a folder are on the disk."""
    for path in folder.rglob("*.safetensors"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
