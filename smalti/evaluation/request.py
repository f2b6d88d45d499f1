"""What one run of a suite is asked for: how many samples, from where, which control."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Request:
    """What to score.

    Example:
        >>> Request(images=60, ground_truth=True).seed
        0

    Attributes:
        images: number of samples in all; None is the suite's own number of prompts, times `images_per_prompt`.
        images_per_prompt: number of images of each prompt.
        seed: which prompts, and the seed of the first image.
        batch_size: number of images drawn at a time; it changes memory, not the images.
        folder: score the images of this folder, in GenEval's layout.
        ground_truth: score ground-truth renderings.
        tokenized: score these after the model's image tokenizer, from pixels to tokens and back.
        shuffled: give each sample the prompt of another. A suite with ground-truth renderings shuffles these, unless
            there is a folder.
        save: write the samples into this folder.
    """

    images: int | None = None
    images_per_prompt: int = 1
    seed: int = 0
    batch_size: int = 16
    folder: Path | None = None
    ground_truth: bool = False
    tokenized: bool = False
    shuffled: bool = False
    save: Path | None = None
