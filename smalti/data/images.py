"""What sources of image files have in common: images fitted to a shape, several captions, masks, what is skipped."""

from __future__ import annotations

import logging
import operator
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from smalti.common.opening import UnreadableImageError, readable
from smalti.data.fitting import Fitting
from smalti.errors import SmaltiError

logger = logging.getLogger(__name__)

_MOST_WARNINGS = 100  # of a source; a million broken images would fill the disk with words


class ChangedFilesError(SmaltiError):
    """Files are no longer what they were: nothing that was read of them can be trusted."""


class CaptionedImage(NamedTuple):
    """An image with what is known of it.

    Attributes:
        image: (3, H, W) uint8.
        captions: one or more.
        name: where it came from.
        size: width and height of the whole image in pixels, before it was fitted.
        mask: (H, W) uint8, loss weights from 0 to 255, or None for 255 everywhere.
    """

    image: torch.Tensor
    captions: tuple[str, ...]
    name: str
    size: tuple[int, int]
    mask: np.ndarray | None = None


class ImageFiles(ABC):
    """Captioned images of files. One that cannot be read gets one warning and is skipped.

    Attributes:
        fitting: the shapes that they are fitted to.
        skipped: number of images that could not be read so far.
    """

    def __init__(self, fitting: Fitting) -> None:
        self.fitting = fitting
        self._broken: set[int] = set()

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def name(self, place: int) -> str:
        """Return what an image is called in messages."""

    @abstractmethod
    def captions_of(self, place: int) -> tuple[str, ...]:
        """Return the captions of an image; raise SmaltiError if there are none."""

    @abstractmethod
    def open(self, place: int) -> tuple[Image.Image, Image.Image | None]:
        """Return an image in mode RGB and its mask in mode L, if there is one, or raise SmaltiError."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a short hash of the files."""

    @property
    def length(self) -> int:
        """Return the number of images: files are a finite source."""
        return len(self)

    @property
    def skipped(self) -> int:
        """Return the number of images that could not be read so far."""
        return len(self._broken)

    def read(self, index: int) -> CaptionedImage | None:
        """Return image number `index`, or None if it cannot be read.

        An index beyond the last image starts again at the first one, with other random crops.
        """
        place = index % len(self)
        if place in self._broken:
            return None
        try:
            with readable(self.name(place)):
                captions = self.captions_of(place)
                whole, mask = self.open(place)
                pixels, weights = self.fitting.fit(whole, mask, index)
            if weights is not None and not weights.any():
                raise SmaltiError("its mask is black, so that nothing would be learned")
        except ChangedFilesError:
            raise
        except SmaltiError as error:
            self._broken.add(place)
            self.warn(self.name(place), error)
            return None
        image = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
        return CaptionedImage(image, captions, self.name(place), whole.size, weights)

    def warn(self, name: str, error: SmaltiError) -> None:
        """Say that an image is skipped, and why."""
        reason = error.reason if isinstance(error, UnreadableImageError) else str(error)
        if len(self._broken) <= _MOST_WARNINGS:
            logger.warning("skipping %s: %s", name, reason.removeprefix(f"{name} "))
        if len(self._broken) == _MOST_WARNINGS:
            logger.warning("further images that are skipped are counted alone")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield each image once."""
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return `{"image": uint8 (3, H, W) tensor, "caption": str}`; the next readable image in place of a broken one.

        An index beyond the last image starts again at the first one, with other random crops.
        """
        index = operator.index(index)
        if index < 0:
            raise SmaltiError(f"index must be 0 or more, not {index}", argument="index")
        for step in range(len(self)):
            found = self.read(index + step)
            if found is not None:
                return {"image": found.image, "caption": found.captions[0]}
        raise SmaltiError(f"{self} has no readable image left: all {len(self)} are broken")
