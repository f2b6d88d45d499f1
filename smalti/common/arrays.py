"""Named arrays in one file that readers map: safetensors' layout, read and written without copies.

The file is the length of its header (8 bytes), the header (JSON: dtypes, shapes, places), and the arrays one after
another. Mapped pages are read on access. The system drops them when memory is short.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from smalti.common.files import atomic_path, check_regular, parse_json
from smalti.errors import SmaltiError

_DTYPES = {"U8": "|u1", "U16": "<u2", "U32": "<u4", "I64": "<i8"}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
_MOST_HEADER = 2**20  # bytes
_ALIGNMENT = 8  # bytes, of every array's place


def write_arrays(path: str | Path, arrays: Mapping[str, np.ndarray], notes: Mapping[str, str]) -> int:
    """Write arrays to a file, whole or not at all, and return its number of bytes.

    Args:
        path: name of the file.
        arrays: uint8, uint16, uint32 or int64 by name.
        notes: texts that the header holds beside them.

    Raises:
        SmaltiError: the file cannot be written, or the disk is full.

    Example:
        >>> write_arrays("squares.safetensors", {"squares": np.arange(3) ** 2}, {"of": "numbers"}) > 24
        True
        >>> ArrayFile("squares.safetensors")["squares"].tolist()
        [0, 1, 4]
    """
    places: dict[str, Any] = {"__metadata__": dict(notes)}
    end = 0
    # Wide arrays come first, so that each begins at a multiple of its width.
    ordered = sorted(arrays.items(), key=lambda item: -item[1].dtype.itemsize)
    for name, array in ordered:
        places[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [end, end + array.nbytes],
        }
        end += array.nbytes
    header = json.dumps(places, ensure_ascii=False).encode()
    header += b" " * (-len(header) % _ALIGNMENT)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for _, array in ordered:
            file.write(np.ascontiguousarray(array).data)
    return 8 + len(header) + end


class ArrayFile:
    """The arrays of a file, mapped read-only.

    Attributes:
        path: the file.
        notes: the texts of its header.

    Raises:
        SmaltiError: the file is missing, cut short, or of another layout.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        check_regular(self.path)
        try:
            with open(self.path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                self._map = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        except FileNotFoundError as error:
            raise SmaltiError(f"{self.path} does not exist") from error
        except (OSError, ValueError) as error:  # ValueError: an empty file
            reason = getattr(error, "strerror", None) or error
            raise SmaltiError(f"{self.path} cannot be read: {reason}") from error
        if hasattr(mmap, "MADV_RANDOM"):
            self._map.madvise(mmap.MADV_RANDOM)
        self.notes, self._arrays = self._read_header(size)

    def __getitem__(self, name: str) -> np.ndarray:
        """Return an array as a window into the file.

        Raises:
            SmaltiError: the file has no such array.
        """
        if name not in self._arrays:
            raise SmaltiError(f"{self.path} is damaged: it lacks {name}")
        return self._arrays[name]

    def bytes(self, name: str, start: int, end: int) -> bytes:
        """Return a copy of elements `start` to `end` of a uint8 array."""
        first = self._starts[name]
        return self._map[first + start : first + end]

    def will_need(self, name: str, start: int, end: int) -> None:
        """Ask the system to read elements `start` to `end` of a uint8 array, without waiting for them."""
        if not hasattr(mmap, "MADV_WILLNEED"):
            return
        first = self._starts[name] + start
        base = first - first % mmap.PAGESIZE
        self._map.madvise(mmap.MADV_WILLNEED, base, self._starts[name] + end - base)

    def _read_header(self, size: int) -> tuple[dict[str, str], dict[str, np.ndarray]]:
        """Return the texts and the windows of the header."""
        try:
            length = int.from_bytes(self._map[:8], "little")
            if not 0 < length <= min(_MOST_HEADER, size - 8):
                raise ValueError("it has no header")
            places = parse_json(self._map[8 : 8 + length], "its header")
            notes = places.pop("__metadata__", {})
            self._starts = {name: 8 + length + place["data_offsets"][0] for name, place in places.items()}
            end = 8 + length + max((place["data_offsets"][1] for place in places.values()), default=0)
            if end != size:
                raise ValueError(f"it has {size} bytes, not {end}")
            return notes, {name: self._window(name, place) for name, place in places.items()}
        except (SmaltiError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise SmaltiError(f"{self.path} is cut short or damaged: {error}") from error

    def _window(self, name: str, place: Mapping[str, Any]) -> np.ndarray:
        dtype, shape = np.dtype(_DTYPES[place["dtype"]]), tuple(place["shape"])
        count = math.prod(shape)
        if place["data_offsets"][1] - place["data_offsets"][0] != count * dtype.itemsize:
            raise ValueError(f"the size of {name} is not that of its shape")
        return np.frombuffer(self._map, dtype, count, self._starts[name]).reshape(shape)
