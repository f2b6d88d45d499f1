"""Scenes with the class of every pixel: shapes beside each other, and two shapes of which one covers the other."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np
from reading_scenes import object_mask

from smalti.worlds.scenes.captions import geneval_prompt
from smalti.worlds.scenes.palette import BACKGROUNDS, COLORS
from smalti.worlds.scenes.scene import Scene, SceneObject, compose, render
from smalti.worlds.scenes.shapes import SHAPES
from smalti.worlds.scenes.world import sample_metadata

TAGS = ("single_object", "two_object", "colors", "position", "color_attr", "mixed")
LATTICE = 8
# Part of the lower shape that the upper one covers.
_COVERED = (0.15, 0.6)


@dataclass(frozen=True, eq=False)
class Labelled:
    """An image with the class of each pixel.

    Attributes:
        pixels: (size, size, 3) uint8.
        prompt: caption of the image.
        classes: (size, size) int64. For shapes, 0 is the background and k the k-th of `SHAPES`. For depth, 1 is the
            lower shape and 2 the upper one.
    """

    pixels: np.ndarray
    prompt: str
    classes: np.ndarray


def shapes_scene(index: int, *, seed: int, size: int = 256) -> Labelled:
    """Return scene `index` of one to four shapes on the lattice, of the split that training never shows."""
    random = Random(f"smalti probes {seed} {index}")
    metadata = sample_metadata(random.choice(TAGS), random, "test")
    scene = compose({**metadata, "prompt": geneval_prompt(metadata)}, random, lattice=LATTICE)
    classes = np.zeros((size, size), dtype=np.int64)
    for number, item in enumerate(scene.objects):
        classes[object_mask(scene, number, size)] = 1 + list(SHAPES).index(item.shape)
    return Labelled(render(scene, size), scene.caption, classes)


def depth_scene(index: int, *, seed: int, size: int = 256) -> Labelled:
    """Return scene `index` of two shapes on the lattice that overlap; training scenes have no overlap."""
    random = Random(f"smalti depth {seed} {index}")
    while True:
        names, colors = random.sample(list(SHAPES), 2), random.sample(list(COLORS), 2)
        objects = tuple(
            SceneObject(name, color, random.randint(2, 6) / 8, random.randint(2, 6) / 8, 0.5)
            for name, color in zip(names, colors, strict=True)
        )
        caption = f"a {colors[0]} {names[0]} and a {colors[1]} {names[1]}"
        if random.random() < 0.5:  # the order of the words does not tell the order of depth
            caption = f"a {colors[1]} {names[1]} and a {colors[0]} {names[0]}"
        scene = Scene(objects, random.choice(list(BACKGROUNDS)), False, caption, "two_object", {})
        lower, upper = (object_mask(scene, number, size) for number in (0, 1))
        if _COVERED[0] <= (lower & upper).sum() / lower.sum() <= _COVERED[1]:
            break
    classes = np.where(upper, 2, np.where(lower, 1, 0)).astype(np.int64)
    return Labelled(render(scene, size), caption, classes)
