"""Weights of a folder: strict reading into a module, writing whole or not at all.

Only safetensors and JSON are read, never pickle. Headers are compared with what a module needs before any weight is
read. Weights are then read one tensor at a time, so that loading takes little more memory than the module.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from smalti.common.checks import check_whole
from smalti.common.files import atomic_path, make_folder, write_json
from smalti.errors import SmaltiError
from smalti.storage.entries import Entry, PackedEntry
from smalti.storage.headers import INDEX, WEIGHTS
from smalti.storage.mapping import FLOATS, read_tensor


def check_weights(
    module: nn.Module, entries: dict[str, Entry], prefix: str, folder: Path, *, packed: bool = False
) -> None:
    """Raise SmaltiError unless the tensors are exactly those of `module`.

    Args:
        module: module of the right shape.
        entries: the tensors by name, with the prefix.
        prefix: prefix of the names in the file.
        folder: model folder, for errors.
        packed: whether matrices may be stored in fewer bits.
    """
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
        if isinstance(entry, PackedEntry):
            if not packed:
                raise SmaltiError(f"{entry.path}: {name} must be floating-point, not {entry.dtype}")
        elif entry.dtype not in FLOATS:
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
    dtype: torch.dtype | None,
    special: Callable[[str, Entry], torch.Tensor | nn.Module | None] | None = None,
    *,
    packed: bool = False,
) -> None:
    """Check the headers, then read tensor by tensor into a module that was built on the meta device.

    Args:
        module: module whose parameters are replaced; it has no buffers.
        entries: the tensors by name, with the prefix.
        prefix: prefix of the names in the file.
        folder: model folder, for errors.
        device: device of the parameters.
        dtype: dtype of the parameters; None means the dtype of each tensor in its file.
        special: takes a name without the prefix and its entry. It returns a tensor to use as the parameter, a module
            to replace the parameter's module, or None to read the tensor as usual.
        packed: whether matrices may be stored in fewer bits, which `special` then has to read.

    Raises:
        SmaltiError: the tensors are not those of the module, a file cannot be read, or the dtype is unfit.
    """
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise SmaltiError(f"dtype must be floating-point, not {dtype}")
    check_weights(module, entries, prefix, folder, packed=packed)
    modules = dict(module.named_modules(remove_duplicate=False))
    # In the order of the files, because disks read fastest in sequence.
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].path, item[1].offset)):
        name = name.removeprefix(prefix)
        found = special(name, entry) if special else None
        if found is None:
            found = read_tensor(entry, device, dtype or FLOATS[entry.dtype])
        place, _, leaf = name.rpartition(".")
        if isinstance(found, nn.Module):
            place, _, leaf = place.rpartition(".")
        owner = modules[place]
        if not isinstance(found, nn.Module):
            found = nn.Parameter(found, requires_grad=getattr(owner, leaf).requires_grad)
        setattr(owner, leaf, found)


def write_weights(
    weights: dict[str, torch.Tensor],
    config: dict[str, Any],
    folder: str | Path,
    dtype: torch.dtype | None,
    max_shard_bytes: int | None,
    before: Callable[[], None] | None = None,
) -> None:
    """Write weights (as `dtype`, or as they are) and `config.json`, and rename all files at the end.

    Weights that exceed `max_shard_bytes` are split into shards with an index. `before` is that of `write_files`.

    Raises:
        SmaltiError: the folder cannot be written.
    """

    def write(path: Path, shard: list[str]) -> None:
        tensors = {
            tensor: weights[tensor].detach().to("cpu", dtype or weights[tensor].dtype).contiguous()
            for tensor in shard
        }
        save_file(tensors, path, metadata={"format": "pt"})

    sizes = {name: weight.numel() * (dtype or weight.dtype).itemsize for name, weight in weights.items()}
    groups = {name: {name: size} for name, size in sizes.items()}
    write_files(groups, config, Path(folder), max_shard_bytes, write, before)


def write_files(
    groups: dict[str, dict[str, int]],
    config: dict[str, Any],
    folder: Path,
    max_shard_bytes: int | None,
    write: Callable[[Path, list[str]], None],
    before: Callable[[], None] | None = None,
) -> None:
    """Write the files of weights, their index if there are several, and `config.json`; rename all files at the end.

    Args:
        groups: tensors that stay in one file: the bytes of each by name, in the order of the files.
        config: content of `config.json`.
        folder: folder to write; it is created if needed.
        max_shard_bytes: largest size of a file, or None for one file.
        write: function that writes a file with some groups, in that order.
        before: function that is called once all files are written, and none has its name yet.

    Raises:
        SmaltiError: the folder cannot be written.
    """
    make_folder(folder)
    shards = _shards({name: sum(sizes.values()) for name, sizes in groups.items()}, max_shard_bytes)
    names = (
        [WEIGHTS]
        if len(shards) == 1
        else [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    )
    old = {
        path
        for pattern in (WEIGHTS, INDEX, "model-?????-of-?????.safetensors")
        for path in folder.glob(pattern)
    }
    # The stack closes backwards: weights are renamed first, then the index, then config.json, and none of
    # them before all are written.
    with ExitStack() as stack:
        write_json(stack.enter_context(atomic_path(folder / "config.json")), config)
        if len(shards) > 1:
            places = {
                tensor: name
                for name, shard in zip(names, shards, strict=True)
                for group in shard
                for tensor in groups[group]
            }
            size = sum(sum(sizes.values()) for sizes in groups.values())
            index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
            write_json(stack.enter_context(atomic_path(folder / INDEX)), index)
        for name, shard in zip(names, shards, strict=True):
            temporary = stack.enter_context(atomic_path(folder / name))
            try:
                write(temporary, shard)
            except (SafetensorError, OSError) as error:
                raise SmaltiError(f"cannot write {folder / name}: {error}") from error
        if before is not None:
            before()
    # Other files of an earlier model are removed.
    for path in old - {folder / name for name in [*names, *([INDEX] if len(shards) > 1 else [])]}:
        path.unlink(missing_ok=True)


def _shards(sizes: dict[str, int], max_shard_bytes: int | None) -> list[list[str]]:
    """Return the names of the groups, in order, split where a shard would exceed the limit."""
    if max_shard_bytes is not None:
        check_whole("max_shard_bytes", max_shard_bytes)
    shards: list[list[str]] = [[]]
    size = 0
    for name, needed in sizes.items():
        if max_shard_bytes is not None and shards[-1] and size + needed > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += needed
    return shards
