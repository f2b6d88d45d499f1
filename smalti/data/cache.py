"""Images encoded once: grids of tokens with their captions, in one folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from smalti.common.files import atomic_path, read_json, write_json_atomic
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
        parts = [_load_part(self.folder, index) for index in range(-(-self.metadata["samples"] // _PART))]
        self.tokens = torch.from_numpy(np.concatenate([tokens for tokens, _ in parts]))
        self.captions: list[str] = [caption for _, captions in parts for caption in captions]

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
        metadata: values that the tokens depend on, such as the tokenizer's hash and the data's settings.
        batch_size: number of images that are encoded at once.

    Raises:
        SmaltiError: the folder holds a cache with other metadata.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {**metadata, "samples": count}
    for name in ("cache.json", "started.json"):
        if (folder / name).exists():
            found = read_json(folder / name)
            if found != wanted:
                raise SmaltiError(
                    f"{folder} holds a cache of other images or another tokenizer; delete or rename it"
                )
    if (folder / "cache.json").exists():
        return TokenCache(folder)
    write_json_atomic(folder / "started.json", wanted)
    done = 0
    while (folder / _name(done)).exists():
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


def _load_part(folder: Path, index: int) -> tuple[np.ndarray, list[str]]:
    path = folder / _name(index)
    try:
        with np.load(path, allow_pickle=False) as part:
            return part["tokens"], json.loads(str(part["captions"]))
    except (OSError, ValueError, KeyError) as error:
        raise SmaltiError(f"{path} is missing or damaged: delete {folder} and encode again") from error
