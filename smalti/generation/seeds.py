"""The seeds of a generation's images."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import torch

from smalti.errors import SmaltiError

_LARGEST_SEED = 2**63 - 1


def image_seeds(
    seed: int | Sequence[int] | None,
    generator: torch.Generator | Sequence[torch.Generator] | None,
    prompts: int,
    images_per_prompt: int,
) -> list[int]:
    """Return a seed for each of prompts · images_per_prompt images, all of the first prompt first.

    Args:
        seed: image k of every prompt gets seed + k; a list has one an image; None draws a seed.
        generator: in place of a seed: one that all images draw theirs from, or a list with one an image.

    Raises:
        SmaltiError: both are given, or one of the wrong kind, range or length.

    Example:
        >>> image_seeds(7, None, 2, 3)
        [7, 8, 9, 7, 8, 9]
    """
    count = prompts * images_per_prompt
    if generator is not None:
        if seed is not None:
            raise SmaltiError("seed and generator must not both be given", argument="seed")
        return _drawn(generator, count)
    if isinstance(seed, list | tuple):
        if len(seed) != count:
            raise SmaltiError(
                f"seed must be a number or a list of {count}, one an image, not of {len(seed)}",
                argument="seed",
            )
        seeds = list(seed)
    else:
        # A process's own random state starts out the same every time, so it is no source of new seeds.
        first: Any = secrets.randbelow(2**32) if seed is None else seed
        check_seed(first)
        seeds = [first + index for _ in range(prompts) for index in range(images_per_prompt)]
    for number in seeds:
        check_seed(number)
    return seeds


def check_seed(seed: Any, name: str = "seed") -> None:
    """Raise SmaltiError unless `seed` is a whole number from 0 to 2⁶³ − 1."""
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= _LARGEST_SEED:
        raise SmaltiError(
            f"{name} must be a whole number from 0 to {_LARGEST_SEED}, not {seed!r}", argument=name
        )


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
