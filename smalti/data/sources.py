"""From a configuration's `data` section to batches by number."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from smalti.data.folder import ImageFolder
from smalti.errors import SmaltiError
from smalti.training.config import DataConfig
from smalti.worlds.scenes.world import Scenes


class Source(Protocol):
    """Samples by number: `{"image": uint8 (3, H, W), "caption": str}`."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Sample number `index`."""


def make_source(config: DataConfig) -> Source:
    """The pictures that a configuration asks for.

    Raises:
        SmaltiError: kind: folder without a path, or a folder without usable pictures; a mix of kinds that scenes lack.
    """
    if config.kind == "scenes":
        return Scenes(
            seed=config.seed,
            size=config.size,
            split="train",
            mix=config.mix,
            lattice=config.lattice,
            lattice_share=config.lattice_share,
            extra_shapes=config.extra_shapes,
            halves=config.halves,
            blobs=config.blobs,
            named=config.named,
        )
    if config.path is None:
        raise SmaltiError("data.path must name a folder of pictures when data.kind is folder")
    return ImageFolder(config.path, config.size)


def shuffled_indices(length: int, start: int, count: int, seed: int) -> list[int]:
    """Positions `start` … `start + count − 1` of an endless stream of shuffled passes over `length` samples.

    Each pass is a permutation of its own that follows from the seed and its number, so any part of the stream can be
    had without what came before.
    """
    indices: list[int] = []
    while count > 0:
        number, offset = divmod(start, length)
        order = torch.randperm(
            length, generator=torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**62)
        )
        part = order[offset : offset + count].tolist()
        indices += part
        start, count = start + len(part), count - len(part)
    return indices


def source_batch(source: Source, index: int, batch_size: int, seed: int) -> list[dict[str, Any]]:
    """Batch number `index`: consecutive samples of an endless source, shuffled passes over a finite one."""
    first = index * batch_size
    if hasattr(source, "__len__"):
        return [source[i] for i in shuffled_indices(len(source), first, batch_size, seed)]
    return [source[i] for i in range(first, first + batch_size)]


def stack_images(samples: list[dict[str, Any]]) -> torch.Tensor:
    """(B, 3, H, W) uint8."""
    return torch.stack([sample["image"] for sample in samples])
