"""Small safetensors files of one thing, such as a learned word: read strictly as finite floats, written whole."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from smalti.common.checks import quoted
from smalti.common.files import atomic_path
from smalti.errors import SmaltiError
from smalti.storage.headers import read_header
from smalti.storage.mapping import FLOATS, read_tensor

_MOST_BYTES = 2**30


def write_small(path: str | Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors in float32 with metadata, whole or not at all.

    Raises:
        SmaltiError: the file cannot be written.
    """
    values = {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(values, temporary, {"format": "pt", **metadata})
        except SafetensorError as error:  # a full disk
            raise SmaltiError(f"cannot write {path}: {error}") from error


def read_small(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors, float32 on the CPU, and the metadata of what `write_small` wrote.

    Raises:
        SmaltiError: the file is missing, damaged or too large, or holds something other than finite floats.
    """
    entries = read_header(Path(path))
    if sum(entry.size for entry in entries.values()) > _MOST_BYTES:
        raise SmaltiError(f"{path} must have at most {_MOST_BYTES} bytes")
    tensors = {}
    for name, entry in entries.items():
        if entry.dtype not in FLOATS:
            raise SmaltiError(f"{path}: {quoted(name)} must be floating-point, not {entry.dtype}")
        tensors[name] = read_tensor(entry, torch.device("cpu"), torch.float32)
        if not bool(tensors[name].isfinite().all()):
            raise SmaltiError(f"{path}: {quoted(name)} must be finite")
    return tensors, _metadata(path)


def check_replaceable(path: str | Path, key: str, command: str) -> None:
    """Raise SmaltiError if writing a path would replace something else, such as the weights of a model.

    Args:
        path: the file; it may be missing or empty.
        key: what the metadata of the command's files have.
        command: the command that writes such files.
    """
    path = Path(path)
    if not os.path.lexists(path) or (path.is_file() and not path.stat().st_size):
        return
    try:
        read_header(path)
        known = key in _metadata(path)
    except SmaltiError:
        known = False
    if not known:
        raise SmaltiError(f"-o must not replace {path}, which is no file of {command}", argument="-o")


def _metadata(path: str | Path) -> dict[str, str]:
    with safe_open(path, framework="np") as file:
        return file.metadata() or {}
