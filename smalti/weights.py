"""Weights in a folder: safetensors headers, strict reading into a module, writing whole or not at all.

Only safetensors and JSON are read, never pickle. Headers are compared with what a module needs before any
weight is read, and weights are then read one tensor at a time, so that loading takes little more memory than
the module.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from smalti.checks import check_whole
from smalti.errors import SmaltiError
from smalti.files import atomic_path, read_json, write_json_atomic

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_FLOATS = ("F64", "F32", "F16", "BF16")


class Entry(NamedTuple):
    """Where a tensor lies, from its file's header."""

    path: Path
    shape: tuple[int, ...]
    dtype: str

    @property
    def count(self) -> int:
        """How many numbers it holds."""
        return torch.Size(self.shape).numel()


def read_headers(folder: Path) -> dict[str, Entry]:
    """Every tensor of a folder's weights, from the files' headers; one file, or shards with an index."""
    single, index = folder / _WEIGHTS, folder / _INDEX
    if single.is_file():
        return _header(single)
    if not index.is_file():
        raise SmaltiError(f"{folder} holds neither {_WEIGHTS} nor {_INDEX}")
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise SmaltiError(f"{index} must hold a weight_map from tensors to files")
    entries: dict[str, Entry] = {}
    for name in sorted(set(weight_map.values())):
        # A name with a path in it could reach outside the folder.
        if Path(name).name != name or not (folder / name).is_file():
            raise SmaltiError(f"{index} names {name}, which {folder} lacks")
        entries |= _header(folder / name)
    for tensor, name in weight_map.items():
        if tensor not in entries or entries[tensor].path.name != name:
            raise SmaltiError(f"{index} places {tensor} in {name}, which does not hold it")
    return entries


def _header(path: Path) -> dict[str, Entry]:
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}
            return {
                name: Entry(path, tuple(piece.get_shape()), piece.get_dtype())
                for name, piece in slices.items()
            }
    except (SafetensorError, OSError) as error:
        raise SmaltiError(f"{path} is truncated or not a safetensors file: {error}") from error


def check_weights(module: nn.Module, entries: dict[str, Entry], prefix: str, folder: Path) -> None:
    """Raise SmaltiError unless the tensors are exactly those of `module`."""
    needed = {prefix + name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    if missing := sorted(needed.keys() - entries.keys()):
        raise SmaltiError(f"{folder} lacks {_listed(missing)}")
    if extra := sorted(entries.keys() - needed.keys()):
        raise SmaltiError(
            f"{folder} holds {_listed(extra)}, which the architecture in config.json does not have"
        )
    for name, shape in needed.items():
        entry = entries[name]
        if entry.shape != shape:
            raise SmaltiError(f"{entry.path}: {name} must be {shape} by config.json, not {entry.shape}")
        if entry.dtype not in _FLOATS:
            raise SmaltiError(f"{entry.path}: {name} must be floating-point, not {entry.dtype}")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more tensors" if len(names) > 3 else ""
    return f"{'tensor ' if len(names) == 1 else 'tensors '}{', '.join(names[:3])}{more}"


def read_weights(
    module: nn.Module,
    entries: dict[str, Entry],
    prefix: str,
    folder: Path,
    device: torch.device | str,
    dtype: torch.dtype,
) -> None:
    """Check the headers, then read tensor by tensor into a module that was built on the meta device."""
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise SmaltiError(f"dtype must be floating-point, not {dtype}")
    check_weights(module, entries, prefix, folder)
    state: dict[str, torch.Tensor] = {}
    for path in sorted({entry.path for entry in entries.values()}):
        try:
            with safe_open(path, framework="pt") as file:
                for name in [name for name, entry in entries.items() if entry.path == path]:
                    # A copy even where nothing changes: the file's own tensors are windows into the file.
                    state[name.removeprefix(prefix)] = file.get_tensor(name).to(device, dtype, copy=True)
        except (SafetensorError, OSError) as error:
            raise SmaltiError(f"{path} cannot be read: {error}") from error
    module.load_state_dict(state, assign=True)


def write_weights(
    weights: dict[str, torch.Tensor],
    config: dict[str, Any],
    folder: str | Path,
    dtype: torch.dtype | None,
    max_shard_bytes: int | None,
) -> None:
    """Write weights (as `dtype`, or as they are) and `config.json`, renaming when all is written.

    Weights that exceed `max_shard_bytes` are cut into shards with an index.

    Raises:
        SmaltiError: the folder cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SmaltiError(f"cannot write {folder}: {error.strerror or error}") from error
    shards = _shards(weights, dtype, max_shard_bytes)
    names = (
        [_WEIGHTS]
        if len(shards) == 1
        else [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    )
    old = {
        path
        for pattern in (_WEIGHTS, _INDEX, "model-?????-of-?????.safetensors")
        for path in folder.glob(pattern)
    }
    # The stack closes backwards: weights are renamed first, then the index, then config.json, and none of
    # them before all are written.
    with ExitStack() as stack:
        write_json_atomic(stack.enter_context(atomic_path(folder / "config.json")), config)
        if len(shards) > 1:
            places = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
            size = sum(weight.numel() * (dtype or weight.dtype).itemsize for weight in weights.values())
            index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
            write_json_atomic(stack.enter_context(atomic_path(folder / _INDEX)), index)
        for name, shard in zip(names, shards, strict=True):
            temporary = stack.enter_context(atomic_path(folder / name))
            tensors = {
                tensor: weights[tensor].detach().to("cpu", dtype or weights[tensor].dtype).contiguous()
                for tensor in shard
            }
            try:
                save_file(tensors, temporary, metadata={"format": "pt"})
            except (SafetensorError, OSError) as error:
                raise SmaltiError(f"cannot write {folder / name}: {error}") from error
    # What is left of a model that was cut into other files must not outlive it.
    for path in old - {folder / name for name in [*names, *([_INDEX] if len(shards) > 1 else [])]}:
        path.unlink(missing_ok=True)


def _shards(
    weights: dict[str, torch.Tensor], dtype: torch.dtype | None, max_shard_bytes: int | None
) -> list[list[str]]:
    """Names of the weights, in order, cut where a shard would exceed the limit."""
    if max_shard_bytes is not None:
        check_whole("max_shard_bytes", max_shard_bytes)
    shards: list[list[str]] = [[]]
    size = 0
    for name, weight in weights.items():
        needed = weight.numel() * (dtype or weight.dtype).itemsize
        if max_shard_bytes is not None and shards[-1] and size + needed > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += needed
    return shards
