"""The model under measurement: it generates images, and its image tokenizer makes round trips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from smalti.components import Components
from smalti.errors import SmaltiError
from smalti.generation.settings import GenerationSettings
from smalti.pipeline import Pipeline
from smalti.vq.tokenizer import ImageTokenizer


@dataclass
class Subject:
    """A model under measurement, or an image tokenizer alone.

    Example:
        >>> import smalti
        >>> pipe = smalti.load("scenes")
        >>> subject = Subject.of(pipe, pipe.settings.replaced(num_inference_steps=4))
        >>> next(subject.draw(["a red circle"], seed=0, batch_size=1)).size
        (256, 256)

    Attributes:
        name: name of the model in reports.
        image_tokenizer: image tokenizer of the model.
        pipeline: pipeline of the whole model; None for an image tokenizer alone.
        settings: settings of the sampling; None for an image tokenizer alone.
        passes: number of passes of the denoiser for each image of `draw`.
    """

    name: str
    image_tokenizer: ImageTokenizer
    pipeline: Pipeline | None = None
    settings: GenerationSettings | None = None
    passes: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, pipeline: Pipeline, settings: GenerationSettings | None = None) -> Subject:
        """Return the subject of a whole model; None means the model's own settings."""
        return cls(
            pipeline.components.name, pipeline.image_tokenizer, pipeline, settings or pipeline.settings
        )

    @property
    def components(self) -> Components:
        """The parts of the whole model.

        Raises:
            SmaltiError: the subject is an image tokenizer alone.
        """
        return self._whole()[0].components

    @property
    def sampling(self) -> GenerationSettings:
        """The settings of the sampling.

        Raises:
            SmaltiError: the subject is an image tokenizer alone.
        """
        return self._whole()[1]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images in pixels."""
        assert self.sampling.height is not None and self.sampling.width is not None
        return self.sampling.height, self.sampling.width

    def draw(self, texts: Sequence[str], *, seed: int, batch_size: int) -> Iterator[Image.Image]:
        """Yield an image of each text; image i has the seed `seed` + i.

        Args:
            texts: prompts.
            seed: seed of the first image.
            batch_size: number of images that are sampled at a time; it changes memory, not the images.
        """
        return self.draw_seeds(texts, range(seed, seed + len(texts)), batch_size=batch_size)

    def draw_seeds(
        self, texts: Sequence[str], seeds: Sequence[int], *, batch_size: int
    ) -> Iterator[Image.Image]:
        """Yield an image of each text, with the seed of the same place.

        Args:
            texts: prompts.
            seeds: seed of each image.
            batch_size: number of images that are sampled at a time; it changes memory, not the images.
        """
        pipeline, settings = self._whole()
        for first in range(0, len(texts), batch_size):
            part = list(texts[first : first + batch_size])
            result = pipeline.start(part, settings, seed=list(seeds[first : first + len(part)])).output()
            self.passes += result.passes
            yield from result.images

    def round_trip(self, image: np.ndarray) -> np.ndarray:
        """Return an image, (H, W, 3) uint8, after a round trip through the image tokenizer."""
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
        return self.components.decode(self.components.encode(pixels))[0].permute(1, 2, 0).numpy()

    def describe(self, needs: str) -> dict[str, Any]:
        """Return the model's metadata for a report, by the `needs` of the suite."""
        if needs == "image_tokenizer" or self.pipeline is None:
            return {"model": self.name}
        described: dict[str, Any] = {"model": self.name, "mode": str(self.components.mode)}
        if needs == "sampling":
            described["settings"] = self.sampling.to_dict()
        if self.passes:
            described["passes"] = round(sum(self.passes) / len(self.passes), 3)
        return described

    def _whole(self) -> tuple[Pipeline, GenerationSettings]:
        """Return the pipeline and the settings of a whole model."""
        if self.pipeline is None or self.settings is None:
            raise SmaltiError(f"{self.name} is an image tokenizer alone; the suite needs a whole model")
        return self.pipeline, self.settings
