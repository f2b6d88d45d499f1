"""Sources of captioned images, and batches of a source by number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch

from smalti.data.images import CaptionedImage, ImageFiles
from smalti.data.order import shuffled_rows


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


def source_batch(source: Source, numbers: Sequence[int], seed: int) -> list[dict[str, Any]]:
    """Return samples of an endless row: those of an endless source in order, shuffled passes over a finite one."""
    if source.length is not None:
        return [source[i] for i in shuffled_rows(source.length, numbers, seed)]
    return [source[i] for i in numbers]


def read_image(source: Source, index: int) -> CaptionedImage | None:
    """Return image number `index` of a source with what is known of it, or None if it cannot be read."""
    if isinstance(source, ImageFiles):
        return source.read(index)
    sample = source[index]
    image = sample["image"]
    return CaptionedImage(image, (sample["caption"],), str(index), (image.shape[2], image.shape[1]))


def stack_images(samples: list[dict[str, Any]]) -> torch.Tensor:
    """Return the images of samples as (B, 3, H, W) uint8."""
    return torch.stack([sample["image"] for sample in samples])
