"""Sources of captioned images, and batches of a source by number."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch

from smalti.common.randomness import stream


class Source(Protocol):
    """Samples by number: `{"image": uint8 (3, H, W), "caption": str}`."""

    @property
    def length(self) -> int | None:
        """Number of different samples; None for an endless source."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return sample number `index`, 0 or more. A finite source starts again after its last sample."""


@runtime_checkable
class FileSource(Source, Protocol):
    """A source that reads files, which may change between two trainings."""

    def fingerprint(self) -> str:
        """Return a short hash of what the samples depend on beside the configuration."""


def shuffled_indices(length: int, start: int, count: int, seed: int) -> list[int]:
    """Return positions `start` … `start + count − 1` of an endless stream of shuffled passes over `length` samples.

    The seed and the pass's number determine each pass's permutation. Any part of the stream can therefore be computed
    without the earlier parts.

    Example:
        >>> sorted(shuffled_indices(4, start=4, count=4, seed=0))
        [0, 1, 2, 3]
    """
    indices: list[int] = []
    while count > 0:
        number, offset = divmod(start, length)
        order = torch.randperm(length, generator=stream(seed, "shuffle", number))
        part = order[offset : offset + count].tolist()
        indices += part
        start, count = start + len(part), count - len(part)
    return indices


def source_batch(source: Source, numbers: range, seed: int) -> list[dict[str, Any]]:
    """Return samples of an endless row: those of an endless source in order, shuffled passes over a finite one."""
    if source.length is not None:
        return [source[i] for i in shuffled_indices(source.length, numbers.start, len(numbers), seed)]
    return [source[i] for i in numbers]


def stack_images(samples: list[dict[str, Any]]) -> torch.Tensor:
    """Return the images of samples as (B, 3, H, W) uint8."""
    return torch.stack([sample["image"] for sample in samples])
