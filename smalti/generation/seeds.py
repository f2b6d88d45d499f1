"""The seeds of a generation's images."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from smalti.common.checks import check_seed, check_whole
from smalti.errors import SmaltiError
from smalti.generation.settings import MOST_IMAGES


def image_seeds(
    seed: int | Sequence[int] | None,
    generator: torch.Generator | Sequence[torch.Generator] | None,
    prompts: int,
    images_per_prompt: int,
) -> list[int]:
    """Return one seed per image, grouped by prompt.

    Args:
        seed: image k of every prompt gets seed + k; a list has one per image; None draws a seed.
        generator: in place of a seed: one that all images draw theirs from, or a list with one per image.

    Raises:
        SmaltiError: both are given, or one of the wrong kind, range or length.

    Example:
        >>> image_seeds(7, None, 2, 3)
        [7, 8, 9, 7, 8, 9]
    """
    images_per_prompt = check_whole("num_images_per_prompt", images_per_prompt, 1, MOST_IMAGES // prompts)
    count = prompts * images_per_prompt
    if generator is not None:
        if seed is not None:
            raise SmaltiError("seed and generator must not both be given", argument="seed")
        return _drawn(generator, count)
    listed: Any = seed.tolist() if isinstance(seed, np.ndarray | torch.Tensor) else seed
    if isinstance(listed, list | tuple):
        if len(listed) != count:
            raise SmaltiError(
                f"seed must be a number or a list of {count}, one an image, not of {len(listed)}",
                argument="seed",
            )
        return [check_seed(number) for number in listed]
    # A process's own random state starts out the same every time, so it is no source of new seeds.
    first = secrets.randbelow(2**32) if seed is None else check_seed(seed)
    check_seed(first + images_per_prompt - 1)
    return [first + index for _ in range(prompts) for index in range(images_per_prompt)]


def _drawn(generator: Any, count: int) -> list[int]:
    """Return a seed from each image's generator."""
    generators = [generator] * count if isinstance(generator, torch.Generator) else generator
    known = isinstance(generators, list | tuple) and len(generators) == count
    if not known or not all(isinstance(entry, torch.Generator) for entry in generators):
        raise SmaltiError(
            f"generator must be a torch.Generator or a list of {count}, one an image", argument="generator"
        )
    return [
        int(torch.randint(2**53, (), generator=entry, device=entry.device).item()) for entry in generators
    ]
