"""Sections of configurations that are about images as tokens, beside `data` itself."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from smalti.common.strict import Strict, Text
from smalti.data.config import DataConfig

MOST_IMAGES = 10**8
"""Largest number of images, far beyond known trainings: a slip of a key must not cost days."""

_MOST_PROCESSES = 256  # of one machine; each holds PyTorch


class ProcessesConfig(Strict):
    """Where something is computed."""

    processes: int = Field(
        1,
        ge=1,
        le=_MOST_PROCESSES,
        description="number of processes that share the images, without torchrun; with device: cuda each uses its "
        "own GPU",
    )
    device: Text = Field("cpu", description="PyTorch device")


class EncodingLoopConfig(ProcessesConfig):
    """How images are encoded."""

    batch_size: int = Field(32, ge=1, le=2**12, description="most images that a process encodes at once")


class EncodingConfig(Strict):
    """What `smalti tokenize` does."""

    output: Text = Field(description="folder of the token shards")
    tokenizer: Text = Field(description="folder of a trained image tokenizer, or of a model that has one")
    data: DataConfig = Field(description="the images")
    samples: int | None = Field(
        None, ge=1, le=MOST_IMAGES, description="number of images; null takes each once"
    )
    loop: EncodingLoopConfig = EncodingLoopConfig()


class CacheConfig(Strict):
    """Images encoded once, before training starts, and kept as token shards in a folder."""

    path: Text = Field(description="folder of the cache")
    samples: int | None = Field(
        None,
        ge=1,
        le=MOST_IMAGES,
        description="number of images; a smaller folder is repeated; null takes each image of a folder once",
    )


class RegularizationConfig(Strict):
    """A second set of images, of what the model should not forget."""

    path: Text = Field(description="folder of the images, which is of the same kind as data.path")
    share: float = Field(0.5, gt=0, lt=1, description="share of the shown images that come from it")
    weight: float = Field(1.0, gt=0, description="factor of the loss on its images")


class TextConfig(Strict):
    """The text tokenizer, trained on the captions of the data when the run starts."""

    vocab_size: int = Field(512, ge=300, le=2**24, description="number of text tokens")
    captions: int = Field(20000, ge=1, le=MOST_IMAGES, description="number of captions that it is trained on")
    cut_captions: bool = Field(
        False, description="whether captions that are longer than the model takes lose their last words"
    )


class ValidationConfig(Strict):
    """Loss on images that training does not show, by mask ratio, with the same masks every time."""

    images: int = Field(32, ge=0, description="number of images; 0 measures nothing")
    ratios: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        [0.1, 0.3, 0.5, 0.7, 0.9, 1.0], min_length=1, description="mask ratios"
    )
    path: Text | None = Field(
        None, description="folder of the images, for data of kind folder; other kinds have unseen images"
    )
