"""Safetensors files written tensor by tensor: the header first, then the bytes as they come.

The library's own writer wants all tensors of a file in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int8: "I8",
    torch.uint8: "U8",
}


def write_tensors(path: Path, shapes: Mapping[str, torch.Tensor], pieces: Iterable[torch.Tensor]) -> None:
    """Write a safetensors file from tensors that are made one after another.

    Args:
        path: the file.
        shapes: tensors of the right shapes and dtypes by name, on the meta device, in the order of the file.
        pieces: their values in that order, on the CPU; a tensor may come in several pieces.

    Raises:
        OSError: the file cannot be written.

    Example:
        >>> like = {"weight": torch.empty(2, 2, device="meta")}
        >>> write_tensors(Path("one.safetensors"), like, iter([torch.zeros(2), torch.ones(2)]))
        >>> from safetensors.torch import load_file
        >>> load_file("one.safetensors")["weight"].tolist()
        [[0.0, 0.0], [1.0, 1.0]]
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, like in shapes.items():
        start, end = end, end + like.nbytes
        header[name] = {
            "dtype": _NAMES[like.dtype],
            "shape": list(like.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    written = 0
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for piece in pieces:
            file.write(piece.contiguous().flatten().view(torch.uint8).numpy().data)
            written += piece.nbytes
    assert written == end, "the pieces are those of the header"
