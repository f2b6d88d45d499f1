"""What the trainer and the things that are trained ask of each other."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from smalti.objective.loss import Mean


class BatchLoss(NamedTuple):
    """The loss of a batch.

    Attributes:
        weighted_sum: scalar, sum of the batch's weighted losses.
        weight: scalar without a gradient, sum of the weights.
        numbers: further means for the log by name; every batch of a step has the same names.
    """

    weighted_sum: torch.Tensor
    weight: torch.Tensor
    numbers: Mapping[str, Mean]


class Task(Protocol):
    """What differs between trainings; the trainer does the rest.

    A training shows an endless row of numbered images, `loop.images` a step. Everything random about an image follows
    from the seed and its number. However a step's images are divided, and wherever a run was stopped, the same images
    are therefore shown with the same masks.
    """

    @property
    def model(self) -> nn.Module:
        """Return the module that is trained. Parameters that need no gradient stay as they are."""

    @property
    def data(self) -> str:
        """Return a short hash of the images that are shown, which a resumed training must show again."""

    @property
    def steady(self) -> bool:
        """Return whether every trained parameter gets a gradient in every step."""

    def products(self) -> float:
        """Return the floating-point operations of an image's matrix products, with gradients; 0 if unknown."""

    def initial_weights(self) -> Iterator[tuple[str, torch.Tensor]] | None:
        """Return the starting weights by name if the model is on the meta device, else None."""

    def shapes(self, images: range) -> Sequence[Hashable] | None:
        """Return the shape of each image, or None if all have one. A batch has images of one shape."""

    def batch(self, images: Sequence[int]) -> Any:
        """Return the images with these numbers, on the CPU. Threads call this ahead of time, several at once."""

    def loss(self, batch: Any, images: Sequence[int], step: int) -> BatchLoss:
        """Return the loss of a batch at a step."""

    def validate(self) -> dict[str, float]:
        """Return measurements on images that training does not show; the model holds the averaged weights.

        Every process calls this at the same time. All get the same numbers.
        """

    def preview(self, path: Path | None) -> dict[str, float]:
        """Write a sample grid to `path`, and return measurements; the model holds the averaged weights.

        With a sharded model every process calls this at the same time, the others with None. Otherwise process 0
        calls it alone.
        """

    def exported(self) -> list[str]:
        """Return the names of the parameters that `export` needs."""

    def export(self, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
        """Write a loadable model folder with the averaged weights, which are on the CPU."""
