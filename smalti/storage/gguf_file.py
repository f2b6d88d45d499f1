"""Headers of GGUF files: names, shapes, types and places of tensors.

GGUF is the format of llama.cpp, stable-diffusion.cpp and ComfyUI-GGUF. Converters of image models keep the names of the
model's tensors, and so does Smalti: the names of docs/format.md, with or without the prefix `encoder.`.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

from smalti.common.checks import quoted
from smalti.common.files import check_regular
from smalti.errors import SmaltiError
from smalti.runtime.blocks import BLOCKS
from smalti.storage.entries import PREFIX, Entry, PackedEntry

_OUTER = ("model.diffusion_model.", "diffusion_model.", "model.")  # prefixes that converters take over
_OUTSIDE = ("diffusion_head.",)  # tensors of the reference model's files that have no prefix
_LLAMA = re.compile(r"(token_embd|output_norm|output|blk\.\d+\..+)\.weight")  # names of text models
# What the reader raises for headers that make no sense.
_DAMAGED = (
    ValueError,
    KeyError,
    IndexError,
    OverflowError,
    MemoryError,
    TypeError,
    RecursionError,
    AttributeError,
)
_UNKNOWN = re.compile(r"(\d+)\)? is not a valid GGMLQuantizationType")
_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


def find_gguf(folder: Path) -> Path | None:
    """Return the GGUF file of a model folder, or None.

    Raises:
        SmaltiError: there are several.
    """
    files = sorted(path for path in folder.glob("*.gguf") if path.is_file())
    if len(files) > 1:
        names = ", ".join(path.name for path in files[:3])
        raise SmaltiError(f"{folder} must hold one GGUF file, not {len(files)} ({names})")
    return files[0] if files else None


def gguf_folder(path: Path) -> Path:
    """Return the model folder that a GGUF file stands for, which holds everything but the denoiser's weights.

    Raises:
        SmaltiError: its folder lacks a `config.json`, or holds other weights that would be read instead.
    """
    folder = path.parent
    if not os.path.isfile(folder / "config.json"):
        raise SmaltiError(
            f"{path} needs config.json, tokenizer.json and the image tokenizer's folder beside it, as in the model "
            "that it was converted from"
        )
    others = sorted(
        one.name
        for pattern in ("*.gguf", "model*.safetensors*")
        for one in folder.glob(pattern)
        if one != path
    )
    if others:
        raise SmaltiError(f"{path} must be the only weights in its folder, which also holds {others[0]}")
    return folder


def read_gguf(path: Path, needed: Callable[[str], bool] | None = None) -> dict[str, Entry]:
    """Return the tensors of a GGUF file by their names with the prefix `encoder.`.

    Args:
        path: the file.
        needed: tells from a tensor's name whether it will be read; None means all. Others may be of any type.

    Raises:
        SmaltiError: the file cannot be read, is truncated or of another format. A tensor has a type that Smalti does
            not read, or a shape that its type cannot store. gguf is not installed.
    """
    gguf = _import_gguf()
    check_regular(path)
    try:
        with warnings.catch_warnings(), open(path, "rb"):
            warnings.simplefilter("ignore")  # of NumPy, about numbers of a damaged header
            tensors = [
                (one.name, one.tensor_type.name, tuple(map(int, reversed(one.shape))), int(one.data_offset))
                for one in gguf.GGUFReader(path).tensors
            ]
        size = path.stat().st_size
    except OSError as error:
        raise SmaltiError(f"{path} cannot be read: {error.strerror or error}") from error
    except _DAMAGED as error:
        lines = str(error).splitlines() or [type(error).__name__]
        if (unknown := _UNKNOWN.search(lines[0])) is not None:
            known = ", ".join([*_BYTES, *BLOCKS])
            raise SmaltiError(f"{path}: tensors must be of type {known}, not number {unknown[1]}") from error
        raise SmaltiError(
            f"{path} is truncated or not a GGUF file that Smalti reads: {quoted(lines[0])}"
        ) from error
    names = _names(path, [name for name, *_ in tensors])
    entries = {
        full: _entry(path, name, kind, shape, offset)
        if needed is None or needed(full)
        else Entry(path, shape, kind, offset, 0)
        for full, (name, kind, shape, offset) in zip(names, tensors, strict=True)
    }
    for entry in entries.values():
        if entry.offset + entry.size > size:
            raise SmaltiError(f"{path} is truncated: it has {size} bytes, and its header wants more")
    return entries


def _entry(path: Path, name: str, kind: str, shape: tuple[int, ...], offset: int) -> Entry:
    """Return the place of a tensor."""
    if kind in _BYTES:
        entry = Entry(path, shape, kind, offset, 0)
        return Entry(path, shape, kind, offset, entry.count * _BYTES[kind])
    if kind not in BLOCKS:
        known = ", ".join([*_BYTES, *BLOCKS])
        raise SmaltiError(f"{path}: {quoted(name)} must be of type {known}, not {kind}")
    block = BLOCKS[kind]
    if len(shape) != 2 or shape[1] % block.numbers:
        raise SmaltiError(
            f"{path}: {quoted(name)} of type {kind} must be a matrix with rows of a multiple of {block.numbers}, "
            f"not {shape}"
        )
    rows, columns = shape
    width = columns // block.numbers * block.bytes
    stored = Entry(path, (rows, width), "U8", offset, rows * width)
    return PackedEntry(path, shape, kind, offset, stored.size, (stored,))


def _names(path: Path, names: list[str]) -> list[str]:
    """Return the names of tensors with the prefix `encoder.`, whatever prefix a converter left."""
    if any(_LLAMA.fullmatch(name) for name in names):
        raise SmaltiError(
            f"{path} has the names of a text model, such as blk.0.attn_q.weight, whose rows may be in another order: "
            "convert it with the names of the model's own tensors"
        )
    outer = next((prefix for prefix in _OUTER if _all_start(names, prefix)), "")
    names = [name.removeprefix(outer) for name in names]
    if _all_start((name for name in names if not name.startswith(_OUTSIDE)), PREFIX):
        return names
    return [name if name.startswith(_OUTSIDE) else PREFIX + name for name in names]


def _all_start(names: Iterable[str], prefix: str) -> bool:
    return all(name.startswith(prefix) for name in names)


def _import_gguf() -> ModuleType:
    """Import `gguf`.

    Raises:
        SmaltiError: it is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise SmaltiError(f"GGUF files need gguf: pip install 'smalti[gguf]' ({error})") from error
    return gguf
