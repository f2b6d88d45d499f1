"""What the weight files of a model folder say of themselves: names, shapes and places of tensors, without any weight.

A safetensors file is the length of its header (8 bytes), the header (JSON), and the tensors one after another.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from smalti.common.files import read_json
from smalti.errors import SmaltiError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
# In front of every tensor of the denoiser, and of the copy of the image tokenizer inside the denoiser's files.
PREFIX = "encoder."
VQ_PREFIX = "encoder.vqvae."
# In the release's files, of no use for text-to-image.
_UNUSED = (
    "diffusion_head.",
    "encoder.image_newline",
    "encoder.mm_projector.",
    "encoder.vision_tower.",
    VQ_PREFIX,
)


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies, from its file's header.

    Attributes:
        path: the file.
        shape, dtype: of the tensor, the dtype by its safetensors name, such as "BF16".
        offset: of its first byte in the file.
        size: in bytes.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: str
    offset: int
    size: int

    @property
    def count(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def is_denoisers(name: str) -> bool:
    """Whether a tensor of a model's files is one of the denoiser's; the rest is not read for drawing."""
    return not name.startswith(_UNUSED)


def is_image_tokenizers(name: str) -> bool:
    """Whether a tensor of a model's files belongs to the copy of the image tokenizer in them."""
    return name.startswith(VQ_PREFIX)


def read_headers(folder: Path, needed: Callable[[str], bool] | None = None) -> dict[str, Entry]:
    """Every tensor of a folder's weights, from the files' headers; one file, or shards with an index.

    Args:
        needed: of a tensor's name, whether it will be read. A shard that holds none of those may be missing,
            and is left out if it is; None is all.

    Raises:
        SmaltiError: the folder holds no weights; a file is missing, truncated, or not what the index says.
    """
    single, index = folder / WEIGHTS, folder / INDEX
    if single.is_file():
        return read_header(single)
    if not index.is_file():
        raise SmaltiError(f"{folder} holds neither {WEIGHTS} nor {INDEX}")
    places = read_index(index)
    required = set(needed_files(places, needed))
    entries: dict[str, Entry] = {}
    missing: set[str] = set()
    for name in sorted(set(places.values())):
        if (folder / name).is_file():
            entries |= read_header(folder / name)
        elif name in required:
            raise SmaltiError(f"{index} names {name}, which {folder} lacks")
        else:
            missing.add(name)
    for tensor, name in places.items():
        if name not in missing and (tensor not in entries or entries[tensor].path.name != name):
            raise SmaltiError(f"{index} places {tensor} in {name}, which does not hold it")
    return entries


def read_denoisers(folder: Path) -> dict[str, Entry]:
    """The denoiser's tensors of a model folder, as `read_headers`, which has more where a file has more."""
    return {name: entry for name, entry in read_headers(folder, is_denoisers).items() if is_denoisers(name)}


def read_index(path: Path) -> dict[str, str]:
    """The file of each tensor, from an index of shards.

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
    """The files among those of an index that hold at least one tensor that is needed."""
    return sorted({file for tensor, file in places.items() if needed is None or needed(tensor)})


def read_header(path: Path) -> dict[str, Entry]:
    """The tensors of one file.

    Raises:
        SmaltiError: it cannot be read, is truncated, or is something else.
    """
    try:
        # The library checks that the tensors lie side by side, fill the file and are as large as they say.
        with safe_open(path, framework="np"):
            pass
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except (SafetensorError, OSError, ValueError) as error:
        raise SmaltiError(f"{path} is truncated or not a safetensors file: {error}") from error
    entries = {}
    for name, value in header.items():
        if name != "__metadata__":
            start, end = value["data_offsets"]
            entries[name] = Entry(
                path, tuple(value["shape"]), value["dtype"], 8 + length + start, end - start
            )
    return entries
