"""Ground-truth renderings of prompts: images of a perfect model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from random import Random
from typing import Any

import numpy as np

from smalti.worlds.objects.archive import SpriteArchive
from smalti.worlds.objects.collection import Collection
from smalti.worlds.objects.composing import Composer
from smalti.worlds.objects.scene import render


def ground_truth(
    archive: SpriteArchive,
    prompts: Iterable[dict[str, Any]],
    *,
    size: int | tuple[int, int] = 256,
    seed: int = 0,
    lattice: int | None = None,
    split: str = "test",
) -> Iterator[np.ndarray]:
    """Yield a rendering, (H, W, 3) uint8, that satisfies each prompt.

    Args:
        archive: a sprite archive.
        prompts: prompts over things.
        size: side in pixels, or (height, width).
        seed: seed of the scenes.
        lattice: lattice of the scenes, as in `smalti.worlds.objects.world.Objects`.
        split: split whose sprites are preferred. A noun in a colour that it lacks has one of the other split.

    Raises:
        SmaltiError: no sprite of the archive shows a noun in a colour.
    """
    other = Collection(archive, "train" if split == "test" else "test")
    composer = Composer.of(Collection(archive, split), fallback=other)
    for index, prompt in enumerate(prompts):
        random = Random(f"smalti objects ground truth {seed} {index}")
        yield render(composer.compose(prompt, random, lattice=lattice), composer.pictures, size)
