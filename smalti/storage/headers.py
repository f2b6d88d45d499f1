"""Headers of the weight files of a model folder: names, shapes and places of tensors, without any weight.

A safetensors file is the length of its header (8 bytes), the header (JSON), and the tensors one after another.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open

from smalti.common.checks import quoted
from smalti.common.files import check_regular, parse_json, read_json
from smalti.errors import SmaltiError
from smalti.storage.entries import Entry, fold
from smalti.storage.gguf_file import find_gguf, read_gguf

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
# Prefix of the copy of the image tokenizer inside the denoiser's files, which begins with the denoiser's own.
VQ_PREFIX = "encoder.vqvae."
# Tensors of the reference model's files that text-to-image does not use.
_UNUSED = (
    "diffusion_head.",
    "encoder.image_newline",
    "encoder.mm_projector.",
    "encoder.vision_tower.",
    VQ_PREFIX,
)


def is_denoisers(name: str) -> bool:
    """Return whether a tensor of a model's files belongs to the denoiser."""
    return not name.startswith(_UNUSED)


def is_image_tokenizers(name: str) -> bool:
    """Return whether a tensor of a model's files belongs to the copy of the image tokenizer in them."""
    return name.startswith(VQ_PREFIX)


def read_headers(folder: Path, needed: Callable[[str], bool] | None = None) -> dict[str, Entry]:
    """Return every tensor of a folder's weights, from the headers of one file, or of shards with an index.

    A matrix that is stored in fewer bits is one entry. Where there are no safetensors files, a GGUF file is read.

    Args:
        folder: model folder.
        needed: tells from a tensor's name whether it will be read; None means all. A shard without needed tensors may
            be missing.

    Raises:
        SmaltiError: the folder holds no weights; a file is missing, truncated, or not what the index says; the tensors
            of a matrix in fewer bits do not fit each other.
    """
    single, index = folder / WEIGHTS, folder / INDEX
    if os.path.isfile(single):
        return fold(read_header(single))
    if not os.path.isfile(index):
        if (path := find_gguf(folder)) is not None:
            return read_gguf(path, needed)
        raise SmaltiError(f"{folder} holds neither {WEIGHTS} nor {INDEX} nor a GGUF file")
    places = read_index(index)
    required = set(needed_files(places, needed))
    entries: dict[str, Entry] = {}
    missing: set[str] = set()
    for name in sorted(set(places.values())):
        if os.path.isfile(folder / name):
            entries |= read_header(folder / name)
        elif name in required:
            raise SmaltiError(f"{index} names {name}, which {folder} lacks")
        else:
            missing.add(name)
    for tensor, name in places.items():
        if name not in missing and (tensor not in entries or entries[tensor].path.name != name):
            raise SmaltiError(f"{index} places {tensor} in {name}, which does not hold it")
    return fold(entries)


def read_denoisers(folder: Path) -> dict[str, Entry]:
    """Return the denoiser's tensors of a model folder, without the other tensors of its files."""
    return {name: entry for name, entry in read_headers(folder, is_denoisers).items() if is_denoisers(name)}


def read_index(path: Path) -> dict[str, str]:
    """Return the file of each tensor, from an index of shards.

    Raises:
        SmaltiError: the index is not readable, or names files outside its folder.
    """
    places = read_json(path).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise SmaltiError(f"{path} must hold a weight_map from tensors to files")
    for name in places.values():
        # A name with a path in it could reach outside the folder.
        if Path(name).name != name:
            raise SmaltiError(f"{path} names {name}, which {path.parent} lacks")
    return places


def needed_files(places: dict[str, str], needed: Callable[[str], bool] | None) -> list[str]:
    """Return the files of an index that hold at least one needed tensor."""
    return sorted({file for tensor, file in places.items() if needed is None or needed(tensor)})


def read_header(path: Path) -> dict[str, Entry]:
    """Return the tensors of one file.

    Raises:
        SmaltiError: the file cannot be read, is truncated, or is of another format.
    """
    check_regular(path)  # a pipe would be waited for
    try:
        with open(path, "rb") as file:
            # The library checks that the tensors are contiguous, fill the file and have the sizes of their shapes.
            with safe_open(path, framework="np"):
                pass
            length = int.from_bytes(file.read(8), "little")
            header = parse_json(file.read(length), str(path))
    except OSError as error:
        raise SmaltiError(f"{path} cannot be read: {error.strerror or error}") from error
    except (SafetensorError, ValueError) as error:
        raise SmaltiError(f"{path} is truncated or not a safetensors file: {quoted(str(error))}") from error
    entries = {}
    for name, value in header.items():
        if name != "__metadata__":
            start, end = value["data_offsets"]
            entries[name] = Entry(
                path, tuple(value["shape"]), value["dtype"], 8 + length + start, end - start
            )
    return entries
