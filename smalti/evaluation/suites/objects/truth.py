"""Ground-truth renderings of prompts with the sprites of one split, as far as there are such sprites."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any

import numpy as np

from smalti.errors import SmaltiError
from smalti.evaluation.geneval import Prompt
from smalti.worlds.objects.archive import SpriteArchive
from smalti.worlds.objects.collection import Collection
from smalti.worlds.objects.composing import SIZES, Composer
from smalti.worlds.objects.scene import render


def truth_composer(path: str, split: str) -> Composer:
    """Return a composer of the sprites of an archive in a split, "test" for the held-out ones.

    Raises:
        SmaltiError: the archive is missing or damaged.
    """
    try:
        archive = SpriteArchive(path)
    except SmaltiError as error:
        raise SmaltiError(
            f"ground-truth renderings need sprites (--set archive=FOLDER): {error}", argument="archive"
        ) from error
    return Composer.of(Collection(archive, split))


def renderings(
    composer: Composer,
    prompts: Sequence[Prompt],
    classes: Mapping[str, Sequence[str]],
    *,
    number: int,
    size: tuple[int, int],
    seed: int,
    lattice: int | None,
) -> Iterator[list[np.ndarray]]:
    """Yield renderings, (H, W, 3) uint8, that satisfy each prompt; none where no sprite shows it.

    Args:
        composer: composer of the sprites.
        prompts: prompts in GenEval's format.
        classes: the nouns of each class that the scorer claims.
        number: number of renderings of a prompt.
        size: (height, width) in pixels.
        seed: seed of the scenes.
        lattice: lattice of the scenes, as in `smalti.worlds.objects.world.Objects`.
    """
    for index, prompt in enumerate(prompts):
        made: list[np.ndarray] = []
        for turn in range(number):
            random = Random(f"smalti objects ground truth {seed} {index} {turn}")
            shown = _with_nouns(composer.collection, prompt, classes, random)
            if shown is not None:
                scene = composer.compose(shown, random, lattice=lattice)
                made.append(render(scene, composer.pictures, size))
        yield made


def _with_nouns(
    collection: Collection, prompt: Prompt, classes: Mapping[str, Sequence[str]], random: Random
) -> Prompt | None:
    """Return a prompt with nouns of sprites in place of its classes; None if there are no such sprites."""
    include: list[dict[str, Any]] = []
    for entry in prompt["include"]:
        nouns = classes.get(entry["class"], (entry["class"],))
        shown = [noun for noun in nouns if collection.sprites(noun, entry.get("color"))]
        if not shown:
            return None
        include.append({**entry, "class": random.choice(shown)})
    return {**prompt, "include": include} if sum(entry["count"] for entry in include) in SIZES else None
