"""Places of tensors in weight files: floats as they are, and matrices that are stored in fewer bits.

A matrix in fewer bits is several tensors in the file, such as integers and their scales. To the rest of the storage it
is one entry under the name and shape of the matrix.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from smalti.errors import SmaltiError

PREFIX = "encoder."
"""Prefix of the denoiser's tensors in a model's files."""

STORED = ".stored"
"""Suffix of the tensor that holds the integers of a matrix in fewer bits; `.scale` and `.zero` are beside it."""

_KINDS = {"I8": "int8", "F8_E4M3": "fp8", "U8": "int4"}


@dataclass(frozen=True)
class Entry:
    """The place of a tensor, from its file's header.

    Attributes:
        path: the file.
        shape: shape of the tensor.
        dtype: safetensors name of its dtype, such as "BF16".
        offset: offset of its first byte in the file.
        size: number of bytes.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: str
    offset: int
    size: int

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def places(self) -> Iterator[Entry]:
        """Yield the tensors of the file that it is made of."""
        yield self


@dataclass(frozen=True)
class PackedEntry(Entry):
    """The place of a matrix that is stored in fewer bits.

    `shape` is that of the matrix, (out, in). `dtype` is how it is stored: "int8", "int4", "fp8", or a type of GGUF such
    as "Q4_K". `path`, `offset` and `size` are those of its integers.

    Attributes:
        parts: its tensors, in the order that its layer takes them in.
    """

    parts: tuple[Entry, ...]

    def places(self) -> Iterator[Entry]:
        """Yield the tensors of the file that it is made of."""
        yield from self.parts


def fold(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """Return entries with one for each matrix that is stored in fewer bits, under the name `….weight`.

    Raises:
        SmaltiError: the tensors of a matrix do not fit each other, or one is missing.
    """
    folded = dict(entries)
    for name, stored in entries.items():
        if not name.endswith(STORED):
            continue
        module = name.removesuffix(STORED)
        kind = _KINDS.get(stored.dtype)
        if kind is None or len(stored.shape) != 2 or not stored.count:
            known = ", ".join(_KINDS)
            raise SmaltiError(
                f"{stored.path}: {name} must be a matrix of {known}, not {stored.dtype} {stored.shape}"
            )
        names = [name, f"{module}.scale", *([f"{module}.zero"] if kind == "int4" else [])]
        for part in names[1:]:
            if part not in entries:
                raise SmaltiError(f"{stored.path} lacks {part}, without which {name} has no values")
        parts = tuple(folded.pop(part) for part in names)
        _check_parts(module, kind, parts)
        if f"{module}.weight" in entries:
            raise SmaltiError(f"{stored.path} must hold {name} or {module}.weight, not both")
        rows, columns = stored.shape
        shape = (rows, columns * (2 if kind == "int4" else 1))
        folded[f"{module}.weight"] = PackedEntry(stored.path, shape, kind, stored.offset, stored.size, parts)
    return folded


def _check_parts(module: str, kind: str, parts: tuple[Entry, ...]) -> None:
    """Raise SmaltiError unless scales and zero points fit the integers of a matrix."""
    stored, scale, *zeros = parts
    rows, columns = stored.shape
    if scale.dtype not in ("F32", "BF16", "F16"):
        raise SmaltiError(f"{scale.path}: {module}.scale must be floating-point, not {scale.dtype}")
    if kind != "int4":
        if scale.shape != (rows,):
            raise SmaltiError(f"{scale.path}: {module}.scale must be {(rows,)}, not {scale.shape}")
        return
    groups = scale.shape[1] if len(scale.shape) == 2 else 0
    if scale.shape[:1] != (rows,) or groups < 1 or 2 * columns % groups:
        raise SmaltiError(
            f"{scale.path}: {module}.scale must be {rows} rows of equal groups of {2 * columns}, not {scale.shape}"
        )
    (zero,) = zeros
    if zero.shape != scale.shape or zero.dtype != "U8":
        raise SmaltiError(
            f"{zero.path}: {module}.zero must be U8 {scale.shape}, not {zero.dtype} {zero.shape}"
        )


def check_floats(entries: Iterable[Entry], folder: Path, purpose: str) -> None:
    """Raise SmaltiError if a folder stores matrices in fewer bits; `purpose` names what needs floats."""
    kind = stored_kind(entries)
    if kind is not None:
        raise SmaltiError(f"{folder} stores its layers as {kind}, and {purpose} needs float weights")


def stored_kind(entries: Iterable[Entry]) -> str | None:
    """Return how matrices are stored in fewer bits: "int8", "int4", "fp8", "gguf", several with "+", or None."""
    kinds = {entry.dtype for entry in entries if isinstance(entry, PackedEntry)}
    names = {kind if kind in _KINDS.values() else "gguf" for kind in kinds}
    return "+".join(sorted(names)) if names else None


def layers_kind(entries: Mapping[str, Entry]) -> str | None:
    """Return `stored_kind` of the layers of a denoiser."""
    layers = tuple(PREFIX + name for name in ("layers.", "text_layers."))
    return stored_kind(entry for name, entry in entries.items() if name.startswith(layers))
