"""The model that is measured: it draws, and its image tokenizer takes images through tokens."""

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
        >>> pipe = smalti.load()
        >>> subject = Subject.of(pipe, pipe.settings.replaced(num_inference_steps=4))
        >>> next(subject.draw(["a red circle"], seed=0, batch_size=1)).size
        (256, 256)

    Attributes:
        name: name of the model in reports.
        image_tokenizer: its image tokenizer.
        pipeline: the whole model; None for an image tokenizer alone.
        settings: how images are sampled; None for an image tokenizer alone.
        passes: number of passes of the denoiser for each image that `draw` has drawn.
    """

    name: str
    image_tokenizer: ImageTokenizer
    pipeline: Pipeline | None = None
    settings: GenerationSettings | None = None
    passes: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, pipeline: Pipeline, settings: GenerationSettings | None = None) -> Subject:
        """Return a whole model as a subject; its own settings are the default."""
        return cls(
            pipeline.components.name, pipeline.image_tokenizer, pipeline, settings or pipeline.settings
        )

    @property
    def components(self) -> Components:
        """The parts of the whole model.

        Raises:
            SmaltiError: there is an image tokenizer alone.
        """
        return self._whole()[0].components

    @property
    def sampling(self) -> GenerationSettings:
        """The settings of the whole model.

        Raises:
            SmaltiError: there is an image tokenizer alone.
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
            batch_size: number of images drawn at a time; it changes memory, not the images.
        """
        pipeline, settings = self._whole()
        for first in range(0, len(texts), batch_size):
            part = list(texts[first : first + batch_size])
            seeds = [seed + first + index for index in range(len(part))]
            result = pipeline.start(part, settings, seed=seeds).output()
            self.passes += result.passes
            yield from result.images

    def round_trip(self, image: np.ndarray) -> np.ndarray:
        """Return an image, (H, W, 3) uint8, after the image tokenizer: from pixels to tokens and back."""
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
        return self.components.decode(self.components.encode(pixels))[0].permute(1, 2, 0).numpy()

    def describe(self, needs: str) -> dict[str, Any]:
        """Return what a report says of the model, by what the suite needs of it."""
        if needs == "image_tokenizer" or self.pipeline is None:
            return {"model": self.name}
        described: dict[str, Any] = {"model": self.name, "mode": str(self.components.mode)}
        if needs == "sampling":
            described["settings"] = self.sampling.to_dict()
        if self.passes:
            described["passes"] = round(sum(self.passes) / len(self.passes), 3)
        return described

    def _whole(self) -> tuple[Pipeline, GenerationSettings]:
        if self.pipeline is None or self.settings is None:
            raise SmaltiError(f"{self.name} is an image tokenizer alone; the suite needs a whole model")
        return self.pipeline, self.settings
