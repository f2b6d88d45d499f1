"""The method of `Pipeline` that learns words; a function of a pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from smalti.common.checks import quoted
from smalti.editing.source import read_image
from smalti.errors import SmaltiError
from smalti.model.learned import LearnedWord
from smalti.pipeline.reading import Reader
from smalti.training.words import Report, WordTraining
from smalti.training.words import train_word as train_on_tokens


def train_word(
    pipe: Reader,
    images: Sequence[Any],
    captions: Sequence[str],
    name: str,
    training: WordTraining | None = None,
    *,
    report: Report | None = None,
) -> LearnedWord:
    """Learn a word from a few images that show what it means; the model stays as it is.

    `smalti.storage.words.save_word` writes it, and `smalti.load(..., word=FILE)` gives it to prompts.

    Args:
        images: images as for `edit`, all of one size in tokens.
        captions: a caption of each image that holds the word's name, such as "a red <thing>".
        name, training, report: as for `smalti.training.words.train_word`.

    Raises:
        SmaltiError: an argument that is wrong, by name.

    Example:
        >>> import smalti
        >>> from smalti.training.words import WordTraining
        >>> pipe = smalti.load("scenes")
        >>> scene = pipe("a red star", seed=0, num_inference_steps=8)
        >>> pipe.train_word([scene], ["a red <thing>"], "<thing>", WordTraining(2, initial="a")).name
        '<thing>'
    """
    if isinstance(images, str) or not isinstance(images, list | tuple) or not images:
        raise SmaltiError(
            f"images must be a list of at least one image, not {quoted(images)}", argument="images"
        )
    grids = [read_image(pipe.components, image, pipe.settings.size).tokens for image in images]
    if len({grid.shape for grid in grids}) > 1:
        raise SmaltiError("images must have the same size in tokens", argument="images")
    return train_on_tokens(pipe.components, torch.stack(grids), captions, name, training, report=report)
