"""Captioned scenes by index: flat shapes in GenEval's ten colours, at any resolution.

A scene starts as GenEval metadata, which describes what the image must show. The metadata decides the objects, their
places and the caption. Scores compare an image that is generated from the caption with the same metadata.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any, ClassVar

import torch

from smalti.common.checks import check_real
from smalti.errors import SmaltiError
from smalti.worlds.arguments import check_index, check_weights, check_world, sides
from smalti.worlds.layout import RELATIONS
from smalti.worlds.scenes.scene import Scene, colors_of, compose, render
from smalti.worlds.scenes.shapes import SHAPES
from smalti.worlds.scenes.variety import make_blobs, name_colors, vary
from smalti.worlds.tasks import TRAINING_MIX

# Share of the captions that name colours, by tag, where colours are not the task.
_COLORED_SHARE = {"single_object": 0.0, "two_object": 0.0, "counting": 0.4, "position": 0.7}


class Scenes:
    """Endless captioned scenes by index. Scene i depends on the seed, the split and the settings, not on the size.

    Args:
        seed: any whole number; other seeds give other scenes.
        size: side in pixels, or (height, width).
        split: "train" never shows a `HELD_OUT` pair, "test" may. Their scenes differ.
        mix: weight of each tag; None means `TRAINING_MIX`.
        lattice: None lets objects have any size and place. A number L, a multiple of 8, makes scenes that are easier
            to learn: backgrounds are plain. Sides of boxes are multiples of 2/L of the image's side, and their edges
            are multiples of 1/L.
        lattice_share: probability that a scene is on the lattice.
        extra_shapes: probability that a shape is one of `EXTRA_SHAPES` instead.
        halves: probability that an object whose colour the caption names has another colour in its right half.
        blobs: probability that a scene of several kinds of objects shows blobs of one outline instead.
        named: probability that a caption names its objects' colours where they are not the task. Captions that leave
            a heart's colour open teach that hearts are never white, because training has no white hearts.

    Attributes:
        length: None, because the scenes never end.

    Raises:
        SmaltiError: an argument is out of its range.

    Example:
        >>> sample = Scenes(seed=0, size=64)[5]
        >>> tuple(sample["image"].shape), type(sample["caption"])
        ((3, 64, 64), <class 'str'>)
    """

    length: ClassVar[int | None] = None

    def __init__(
        self,
        seed: int = 0,
        size: int | tuple[int, int] = 256,
        split: str = "train",
        mix: Mapping[str, float] | None = None,
        lattice: int | None = None,
        lattice_share: float = 1.0,
        extra_shapes: float = 0.0,
        halves: float = 0.0,
        blobs: float = 0.0,
        named: float = 0.0,
    ) -> None:
        check_world(split, seed, lattice)
        mix = TRAINING_MIX if mix is None else mix
        check_weights("mix", mix, TRAINING_MIX)
        shares = dict(
            lattice_share=lattice_share, extra_shapes=extra_shapes, halves=halves, blobs=blobs, named=named
        )
        for name, share in shares.items():
            check_real(name, share, 0, 1)
        self.seed = seed
        self.size = sides(size)
        self.lattice = lattice
        self.lattice_share = lattice_share
        self.extra_shapes = extra_shapes
        self.halves = halves
        self.blobs = blobs
        self.named = named
        self.split = split
        self._tags = list(mix)
        self._weights = list(mix.values())

    def scene(self, index: int) -> Scene:
        """Return scene number `index` (0 or more) without drawing it."""
        index = check_index(index)
        random = Random(f"smalti scenes {self.seed} {self.split} {index}")
        tag = random.choices(self._tags, self._weights)[0]
        metadata = sample_metadata(tag, random, self.split)
        lattice = self.lattice
        # A setting at 0 draws no number, so that it leaves the scenes of other settings unchanged.
        if self.blobs and len(metadata["include"]) > 1 and random.random() < self.blobs:
            make_blobs(metadata, random, self.split)
        elif self.extra_shapes or self.halves:
            vary(metadata, random, self.split, self.extra_shapes, self.halves)
        if self.lattice_share < 1 and random.random() >= self.lattice_share:
            lattice = None
        if self.named and Random(f"smalti names {self.seed} {self.split} {index}").random() < self.named:
            name_colors(metadata, random, self.split)
        return compose(metadata, random, split=self.split, lattice=lattice)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return `{"image": uint8 (3, H, W) tensor, "caption": str}`."""
        scene = self.scene(index)
        pixels = torch.from_numpy(render(scene, self.size))
        return {"image": pixels.permute(2, 0, 1).contiguous(), "caption": scene.caption}


def sample_metadata(tag: str, random: Random, split: str = "train") -> dict[str, Any]:
    """Draw GenEval metadata, without `prompt`, of one kind of scene.

    Entries of `include` have different shapes, and different colours except in "mixed". In "train" no entry is a
    held-out pair.

    Args:
        tag: a key of `TRAINING_MIX`.
        random: source of every draw.
        split: "train" or "test".

    Raises:
        SmaltiError: an unknown tag.
    """
    if tag not in TRAINING_MIX:
        raise SmaltiError(f"tag must be one of {list(TRAINING_MIX)}, not {tag!r}", argument="tag")
    counts = {"single_object": [1], "colors": [1], "counting": [random.randint(2, 4)]}.get(tag, [1, 1])
    if tag == "mixed":
        counts = random.choice(([1, 1, 1], [1, 1, 1, 1], [1, 2], [2, 2], [1, 3]))
    colored = random.random() < _COLORED_SHARE.get(tag, 1)
    include: list[dict[str, Any]] = []
    for shape, count in zip(random.sample(list(SHAPES), len(counts)), counts, strict=True):
        entry: dict[str, Any] = {"class": shape, "count": count}
        if colored:
            used = {other["color"] for other in include} if tag != "mixed" else set()
            entry["color"] = random.choice([color for color in colors_of(shape, split) if color not in used])
        include.append(entry)
    metadata: dict[str, Any] = {"tag": tag, "include": include}
    if tag == "counting":
        metadata["exclude"] = [{"class": include[0]["class"], "count": include[0]["count"] + 1}]
    if tag == "position":
        include[1]["position"] = [random.choice(list(RELATIONS)), 0]
    return metadata
