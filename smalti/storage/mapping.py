"""Tensors in safetensors files: windows into the file, copies to a device, embeddings that stay in the file."""

from __future__ import annotations

import mmap
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from smalti.errors import SmaltiError
from smalti.storage.headers import Entry

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# Bytes copied at a time: mapped pages of the file count as this process's memory.
_CHUNK_BYTES = 2**26


def map_tensor(
    entry: Entry, start: int = 0, count: int | None = None, *, scattered: bool = False
) -> torch.Tensor:
    """Map a window into a file: bytes are read on access, and dropped when memory is short.

    The file must not change while the window is in use. Writing to the window does not change the file.

    Args:
        entry: a floating-point tensor.
        start: index of the first element.
        count: number of elements; None means all from `start` on.
        scattered: whether access is random, so that reading ahead is useless.

    Returns:
        (count,) in the dtype of the file, on the CPU.

    Raises:
        SmaltiError: the file cannot be mapped.
    """
    dtype = FLOATS[entry.dtype]
    count = entry.count - start if count is None else count
    if not count:
        return torch.empty(0, dtype=dtype)
    first = entry.offset + start * dtype.itemsize
    base = first - first % mmap.ALLOCATIONGRANULARITY
    length = first - base + count * dtype.itemsize
    try:
        with open(entry.path, "rb") as file:
            window = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_COPY, offset=base)
    except (OSError, ValueError) as error:
        raise SmaltiError(f"{entry.path} cannot be read: {error}") from error
    advice = "MADV_RANDOM" if scattered else "MADV_WILLNEED"
    if hasattr(mmap, advice):
        window.madvise(getattr(mmap, advice))
    # The tensor owns the window: both are freed together.
    return torch.frombuffer(window, dtype=dtype, count=count, offset=first - base)


def read_tensor(
    entry: Entry, device: torch.device | str, dtype: torch.dtype, *, pinned: bool = False
) -> torch.Tensor:
    """Copy a tensor to a device, some megabytes at a time, without a second whole copy.

    Args:
        entry: a floating-point tensor.
        device: device of the copy; "meta" reads nothing.
        dtype: dtype of the copy.
        pinned: whether to copy into memory that a GPU can copy from while it works; for the CPU only.

    Returns:
        A tensor of the entry's shape in `dtype`, independent of the file.

    Raises:
        SmaltiError: the file cannot be read.
    """
    result = torch.empty(entry.shape, dtype=dtype, device=device, pin_memory=pinned)
    if result.is_meta:
        return result
    flat = result.view(-1)
    chunk = _CHUNK_BYTES // FLOATS[entry.dtype].itemsize
    for start in range(0, entry.count, chunk):
        count = min(chunk, entry.count - start)
        flat[start : start + count].copy_(map_tensor(entry, start, count))
    return result


class MappedEmbedding(nn.Module):
    """An embedding whose table stays in its file: only the requested rows are read.

    The table is a parameter in the file's dtype, so that it is saved with the others. It is not trained. It stays where
    it is when the module is moved to a device.
    """

    def __init__(self, entry: Entry, dtype: torch.dtype) -> None:
        """Map the table of `entry`, (rows, D); rows come out in `dtype`."""
        super().__init__()
        table = map_tensor(entry, scattered=True).view(entry.shape)
        self.weight = nn.Parameter(table, requires_grad=False)
        self.dtype = dtype

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> MappedEmbedding:
        return self

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the rows of ids: (…) int64 on any device → (…, D) there."""
        rows = F.embedding(ids.to(self.weight.device), self.weight)
        return rows.to(ids.device, self.dtype)
