"""The folder `shards/` of a checkpoint: each process writes its rows, any number of processes reads them.

`torch.distributed.checkpoint` plans who writes and reads what. The files are safetensors, with the place of each shard
in their headers; nothing is pickled.
"""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from smalti.training.distribution import size
from smalti.training.optimizer import set_moments, trainable
from smalti.training.state import (
    TrainingState,
    check_names,
    moment_keys,
    moment_like,
    moment_names,
    tensors_of,
)


def write_shards(folder: Path, state: TrainingState) -> None:
    """Write this process's rows; every process calls this at the same time."""
    dcp.save(dict(tensors_of(state)), storage_writer=_writer(folder), process_group=_group())


def start_writing_shards(folder: Path, state: TrainingState) -> Any:
    """Copy this process's rows and begin to write them; return a future. Every process calls this."""
    return dcp.async_save(dict(tensors_of(state)), storage_writer=_writer(folder), process_group=_group())


def _writer(folder: Path) -> HuggingFaceStorageWriter:
    return HuggingFaceStorageWriter(str(folder), save_distributed=True)


@functools.cache
def _group() -> dist.ProcessGroup:
    """Return a group of all processes for checkpoints alone, whose exchanges do not meet those of the steps."""
    return dist.new_group(backend="gloo")


def read_shards(folder: Path, state: TrainingState, count: int | None) -> None:
    """Read the rows that this process needs into the state; raise ValueError if they are those of another model."""
    reader = HuggingFaceStorageReader(str(folder))
    shapes = {
        name: tuple(entry.size)
        for name, entry in reader.read_metadata().state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    weights, average = trainable(state.model), state.average.values
    found = {
        file: {name.partition("|")[2]: shape for name, shape in shapes.items() if name.startswith(f"{file}|")}
        for file in ("weights", "average", "optimizer")
    }
    check_names("shards of the weights", found["weights"], weights, weights)
    if average:
        check_names("shards of the average", found["average"], average, weights)
    moments = {
        name: {key: moment_like(weights[name], key) for key in moment_keys()}
        for name in moment_names(set(found["optimizer"]), weights, count)
    }
    targets: dict[str, torch.Tensor] = {f"weights|{name}": value.detach() for name, value in weights.items()}
    targets |= {f"average|{name}": value for name, value in average.items()}
    targets |= {
        f"optimizer|{name}|{key}": value for name, part in moments.items() for key, value in part.items()
    }
    for name, target in targets.items():
        if shapes[name] != tuple(target.shape):
            raise ValueError(f"shards: {name} must be {tuple(target.shape)}, not {shapes[name]}")
    if size() == 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is one process, which is meant
            dcp.load(targets, storage_reader=reader, no_dist=True)
    else:
        dcp.load(targets, storage_reader=reader, process_group=_group())
    for name, values in moments.items():
        set_moments(state.optimizer, weights[name], values)
