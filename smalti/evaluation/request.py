"""The request for one run of a suite: number and source of its samples, and its controls."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Request:
    """A request for one run of a suite.

    Example:
        >>> Request(images=60, ground_truth=True).seed
        0

    Attributes:
        images: number of samples in all; None means the suite's own number of prompts, or all of `prompts`, times
            `images_per_prompt`.
        images_per_prompt: number of images of each prompt.
        seed: seed of the prompts and of the first image.
        batch_size: number of images that are sampled at a time; it changes memory, not the images.
        folder: folder of images to score, in GenEval's layout; None means none.
        ground_truth: whether ground-truth renderings are scored.
        tokenized: whether these first make a round trip through the model's image tokenizer.
        shuffled: whether each sample gets the prompt of another. Without a folder, a suite with ground-truth renderings
            shuffles these.
        prompts: file of prompts in GenEval's format in place of the suite's own; None means the suite's own.
        save: folder into which the samples are written; None means none.
        rewrite: how prompts are rewritten before they are drawn, as `smalti.evaluation.rewriting.rewrite` reads it;
            None means that they are drawn as they are.
    """

    images: int | None = None
    images_per_prompt: int = 1
    seed: int = 0
    batch_size: int = 16
    folder: Path | None = None
    ground_truth: bool = False
    tokenized: bool = False
    shuffled: bool = False
    prompts: Path | None = None
    save: Path | None = None
    rewrite: str | None = None
