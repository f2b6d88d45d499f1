"""Reading a checkpoint into a training of any number of processes, whole or sharded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch.distributed.checkpoint.api import CheckpointException

from smalti.common.files import check_regular
from smalti.errors import SmaltiError
from smalti.training.distribution import PeerLostError, cause_of, is_broken
from smalti.training.optimizer import set_moments, trainable
from smalti.training.shards import place
from smalti.training.state import (
    SHARDS,
    TrainingState,
    check_names,
    moment_keys,
    moment_like,
    moment_names,
    read_state,
)


def load_checkpoint(folder: Path, state: TrainingState) -> dict[str, Any]:
    """Restore a training from a checkpoint in place, and return the stored metadata (`step` among them).

    Every process of the training calls this. The checkpoint may be of another number of processes.

    Raises:
        SmaltiError: the checkpoint belongs to another model, or a file in it is damaged.
    """
    metadata = read_state(folder)
    try:
        if os.path.isdir(folder / SHARDS):
            from smalti.training.shard_files import read_shards

            read_shards(folder / SHARDS, state, metadata.get("moments"))
        else:
            _read_files(folder, state, metadata.get("moments"))
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError, CheckpointException) as error:
        cause = cause_of(error)
        if is_broken(cause):
            raise PeerLostError("a process of the training ended early") from error
        reason = " ".join(str(cause).split())[:200]
        raise SmaltiError(f"{folder} cannot be resumed with this configuration: {reason}") from error
    return metadata


def _read_files(folder: Path, state: TrainingState, count: int | None) -> None:
    """Read the three files; raise ValueError if they are those of another model."""
    weights, average = trainable(state.model), state.average.values
    # Older versions stored the weights that are not trained, too.
    known = {**state.model.state_dict(), **weights}
    with _open(folder / "weights.safetensors") as file:
        for name in _checked("weights.safetensors", file, weights, known):
            _fill(weights[name].detach(), file, name)
    if average:
        with _open(folder / "average.safetensors") as file:
            for name in _checked("average.safetensors", file, average, known):
                _fill(average[name], file, name)
    with _open(folder / "optimizer.safetensors") as file:
        names = moment_names(set(file.keys()), weights, count)
        shapes = {f"{name}|{key}": moment_like(weights[name], key) for name in names for key in moment_keys()}
        _checked("optimizer.safetensors", file, shapes, shapes)
        for name in names:
            values = {key: moment_like(weights[name], key) for key in moment_keys()}
            for key, value in values.items():
                _fill(value, file, f"{name}|{key}")
            set_moments(state.optimizer, weights[name], values)


def _open(path: Path) -> Any:
    """Open a file of tensors."""
    check_regular(path)
    return safe_open(path, "pt")


def _checked(
    name: str, file: Any, needed: Mapping[str, torch.Tensor], known: Mapping[str, torch.Tensor]
) -> list[str]:
    """Return the needed names; raise ValueError unless the file holds them, and none that is not known."""
    return check_names(
        name, {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}, needed, known
    )


def _fill(target: torch.Tensor, file: Any, name: str) -> None:
    """Read a tensor, or this process's rows of it."""
    if target.ndim:
        place(target, file.get_slice(name).__getitem__)
    else:
        target.copy_(file.get_tensor(name))
