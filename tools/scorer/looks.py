"""Looks at sprites as the scorer sees them: in scenes, on grounds of the world, found by the segmenter."""

from __future__ import annotations

from random import Random

import numpy as np
import torch
from scorer import drawing
from scorer.material import Material
from torch import nn

from smalti.common.randomness import stream
from smalti.evaluation.suites.objects.detector import name_things, working_pixels
from smalti.worlds.objects.composing import Composer
from smalti.worlds.objects.scene import Scene, Thing, render

Spot = tuple[float, float]
_QUARTERS: tuple[Spot, ...] = ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75))
_SIZES, _LONE_SIZES = (0.3, 0.46), (0.45, 0.85)
_SPOILED_SHARE = 0.4


def spots(count: int) -> list[tuple[Spot, float]]:
    """Return the middles of so many sprites in a scene, and how far each reaches, in fractions of the image."""
    return [((0.5, 0.5), 0.5)] if count == 1 else [(spot, 0.25) for spot in _QUARTERS]


def draw_scene(composer: Composer, numbers: np.ndarray, seed: int, index: int) -> torch.Tensor:
    """Return the pixels of a scene with one sprite, or one in each quarter, as the scorer takes them.

    Some scenes are spoiled: blurred, grainy, compressed.
    """
    random = Random(f"smalti objects scorer {seed} {index}")
    size = random.uniform(*(_LONE_SIZES if len(numbers) == 1 else _SIZES))
    things = tuple(
        Thing(
            int(number),
            "",
            *spot,
            size * random.uniform(0.9, 1),
            random.uniform(-9, 9),
            random.random() < 0.5,
        )
        for number, (spot, _) in zip(numbers, spots(len(numbers)), strict=False)
    )
    ground = composer._draw_ground(things, random, None)
    scene = Scene(things, ground, random.choice(("contact", "drop", "none")), "", "mixed", {})
    pixels = working_pixels(render(scene, composer.pictures, 256))
    if random.random() < _SPOILED_SHARE:
        pixels = drawing.degrade(pixels[None], stream(seed, "spoiled", index))[0]
    return pixels


def pieces_near(owners: np.ndarray, spot: Spot, reach: float) -> np.ndarray:
    """Return the cells (h, w) bool of all pieces whose middle is near a spot."""
    found = np.zeros(owners.shape, bool)
    for number in range(int(owners.max()) + 1):
        rows, columns = np.nonzero(owners == number)
        middle = np.array([columns.mean() + 0.5, rows.mean() + 0.5]) / owners.shape[::-1]
        if np.abs(middle - spot).max() < reach:
            found |= owners == number
    return found


@torch.inference_mode()
def look(
    material: Material, numbers: np.ndarray, segmenter: nn.Module, classifier: nn.Module, seed: int
) -> torch.Tensor:
    """Return the probabilities of the nouns, and of anything else, (n, nouns + 1), for sprites in scenes of four.

    A sprite that is not found as one thing is anything else.

    Args:
        material: all sprites.
        numbers: (n,) which of them.
        segmenter: trained segmenter.
        classifier: trained `NounClassifiers`.
        seed: seed of the scenes.
    """
    composer = Composer.of(material.collection)
    order = np.random.default_rng(seed).permutation(len(numbers))
    shares = torch.zeros(len(numbers), len(material.nouns) + 1)
    shares[:, -1] = 1
    for first in range(0, len(numbers), len(_QUARTERS)):
        places = order[first : first + len(_QUARTERS)]
        pixels = draw_scene(composer, numbers[places], seed, first)
        _, boxes, found = name_things(pixels, segmenter, classifier)
        middles = (boxes[:, :2] + boxes[:, 2:]) / 2 / pixels.shape[1]
        for place, (spot, reach) in zip(places, spots(len(places)), strict=False):
            near = np.flatnonzero(np.abs(middles - spot).max(axis=1) < reach)
            if len(near) == 1:
                shares[place] = found[near[0]]
    return shares
