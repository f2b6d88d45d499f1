"""Images encoded once: grids of tokens with their captions, in one folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from smalti.common.files import atomic_path, make_folder, read_json, write_json_atomic
from smalti.errors import SmaltiError

_PART = 4096  # samples per file; an interruption loses at most one file's


class TokenCache:
    """Samples `{"tokens": int32 (h, w), "caption": str}` of a folder that `build_cache` wrote.

    Attributes:
        folder: path of the cache.
        metadata: the data and the tokenizer of the cache, and its number of samples.
        tokens: (N, h, w) int32.
        captions: N captions.

    Raises:
        SmaltiError: the folder holds no complete cache.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.metadata = read_json(self.folder / "cache.json")
        count = self.metadata.get("samples")
        if type(count) is not int or count < 1:
            raise SmaltiError(f"{self.folder / 'cache.json'} must hold its number of samples, not {count!r}")
        parts = [_load_part(self.folder, index) for index in range(-(-count // _PART))]
        self.tokens = torch.from_numpy(np.concatenate([tokens for tokens, _ in parts]))
        self.captions: list[str] = [caption for _, captions in parts for caption in captions]
        if len(self.captions) != count:
            raise SmaltiError(f"{self.folder} is damaged: it holds {len(self.captions)} of {count} samples")

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"tokens": self.tokens[index], "caption": self.captions[index]}


def build_cache(
    folder: str | Path,
    samples: Iterable[dict[str, Any]],
    count: int,
    encode: Callable[[torch.Tensor], torch.Tensor],
    metadata: dict[str, Any],
    batch_size: int = 32,
) -> TokenCache:
    """Encode the first `count` samples and open the cache. A second call continues an interrupted one.

    Args:
        folder: path of the cache, which is created.
        samples: `{"image": uint8 (3, H, W), "caption": str}`, in a fixed order.
        count: number of samples to encode.
        encode: function of (B, 3, H, W) uint8 images that returns (B, h, w) ids.
        metadata: values that the tokens depend on, such as the tokenizer's hash, the data's settings and a hash of
            the data's files. An interrupted cache is only continued with the same ones.
        batch_size: number of images that are encoded at once.

    Raises:
        SmaltiError: the folder cannot be written, or holds a cache with other metadata.
    """
    folder = Path(folder)
    make_folder(folder)
    wanted = {**metadata, "samples": count}
    for name in ("cache.json", "started.json"):
        if os.path.exists(folder / name):
            _check_same(folder, read_json(folder / name), wanted)
    if os.path.exists(folder / "cache.json"):
        return TokenCache(folder)
    write_json_atomic(folder / "started.json", wanted)
    done = 0
    while os.path.exists(folder / _name(done)):
        done += 1
    remaining = iter(islice(samples, done * _PART, count))
    with tqdm(
        total=count,
        initial=min(done * _PART, count),
        unit="image",
        desc="encoding",
        dynamic_ncols=True,
        disable=None,
    ) as bar:
        for index in range(done, -(-count // _PART)):
            tokens, captions = [], []
            part = islice(remaining, _PART)
            while batch := list(islice(part, batch_size)):
                ids = encode(torch.stack([sample["image"] for sample in batch]))
                tokens.append(ids.to(torch.int32).cpu().numpy())
                captions += [sample["caption"] for sample in batch]
                bar.update(len(batch))
            with atomic_path(folder / _name(index)) as temporary:
                np.savez(temporary, tokens=np.concatenate(tokens), captions=np.array(json.dumps(captions)))
    write_json_atomic(folder / "cache.json", wanted)
    return TokenCache(folder)


def _name(index: int) -> str:
    return f"part-{index:05d}.npz"


def _check_same(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise SmaltiError with the names of the metadata in which a folder's cache differs from the wanted ones."""
    names = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
    if names:
        raise SmaltiError(
            f"{folder} holds a cache of other images: its {' and '.join(names)} differ; delete or rename it"
        )


def _load_part(folder: Path, index: int) -> tuple[np.ndarray, list[str]]:
    path = folder / _name(index)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as part:
            tokens, captions = part["tokens"], json.loads(str(part["captions"]))
        if tokens.ndim != 3 or tokens.dtype != np.int32 or len(tokens) != len(captions):
            raise ValueError("captions and tokens do not fit together")
        return tokens, captions
    except Exception as error:  # NumPy and zipfile raise nearly every kind for damaged files
        raise SmaltiError(f"{path} is missing or damaged: delete {folder} and encode again") from error
