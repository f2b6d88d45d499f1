"""Tensors in weight files: windows into the file, copies to a device, embeddings that stay in the file."""

from __future__ import annotations

import mmap
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from smalti.errors import SmaltiError
from smalti.runtime.blocks import BLOCKS, BlockLinear
from smalti.runtime.quantization import GroupLinear, RowLinear
from smalti.storage.entries import Entry, PackedEntry

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_DTYPES = {**FLOATS, "I8": torch.int8, "U8": torch.uint8, "F8_E4M3": torch.float8_e4m3fn}
# Bytes copied at a time: mapped pages of the file count as this process's memory.
_CHUNK_BYTES = 2**26


def map_tensor(
    entry: Entry, start: int = 0, count: int | None = None, *, scattered: bool = False
) -> torch.Tensor:
    """Map a window into a file: bytes are read on access, and dropped when memory is short.

    The file must not change while the window is in use. Writing to the window does not change the file.

    Args:
        entry: a tensor of floats, or one of those that a matrix in fewer bits is made of.
        start: index of the first element.
        count: number of elements; None means all from `start` on.
        scattered: whether access is random, so that reading ahead is useless.

    Returns:
        (count,) in the dtype of the file, on the CPU.

    Raises:
        SmaltiError: the file cannot be mapped.
    """
    dtype = _DTYPES[entry.dtype]
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
        entry: as for `map_tensor`.
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
    chunk = _CHUNK_BYTES // _DTYPES[entry.dtype].itemsize
    for start in range(0, entry.count, chunk):
        count = min(chunk, entry.count - start)
        flat[start : start + count].copy_(map_tensor(entry, start, count))
    return result


def read_matrix(
    entry: PackedEntry, device: torch.device | str, *, pinned: bool = False, mapped: bool = False
) -> RowLinear | GroupLinear | BlockLinear:
    """Read a matrix that is stored in fewer bits as a layer that keeps it so.

    Args:
        entry: the matrix.
        device: device of the layer; "meta" reads nothing.
        pinned: as for `read_tensor`.
        mapped: whether its tensors are windows into the file, on the CPU, for random access.

    Raises:
        SmaltiError: the file cannot be read.
    """
    tensors = [
        map_tensor(part, scattered=True).view(part.shape)
        if mapped
        else read_tensor(part, device, _DTYPES[part.dtype], pinned=pinned)
        for part in entry.parts
    ]
    return _layer(entry.dtype, tensors)


def _layer(kind: str, tensors: list[torch.Tensor]) -> RowLinear | GroupLinear | BlockLinear:
    """Return a layer that is stored as `kind` says."""
    if kind in BLOCKS:
        (stored,) = tensors
        return BlockLinear(stored, kind)
    if kind == "int4":
        stored, scale, zero = tensors
        return GroupLinear(stored, scale, zero)
    stored, scale = tensors
    return RowLinear(stored, scale)


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


class PackedEmbedding(nn.Module):
    """An embedding whose table is stored in fewer bits: the requested rows alone are turned into floats."""

    def __init__(
        self, entry: PackedEntry, device: torch.device | str, dtype: torch.dtype, *, mapped: bool = False
    ) -> None:
        """Read the table of `entry`, (rows, D); rows come out in `dtype`. A `mapped` table stays in its file."""
        super().__init__()
        self.table = read_matrix(entry, device, mapped=mapped)
        self.kind, self.dtype, self.mapped = entry.dtype, dtype, mapped

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> PackedEmbedding:
        return self if self.mapped else super()._apply(fn, recurse)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the rows of ids: (…) int64 on any device → (…, D) there."""
        table = self.table
        place = ids.flatten().to(table.stored.device)
        # Every tensor of a table has a row for each of its rows.
        rows = _layer(self.kind, [part.detach()[place] for part in table.parameters()])
        return rows.dequantize(self.dtype).view(*ids.shape, table.in_features).to(ids.device)
