"""A noun that the scenes lack, the rabbit: its outline, pictures to learn it from, and a reader that finds it."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
from skimage.measure import find_contours

from smalti.evaluation.suites.scenes.outlines import OUTLINES, masks
from smalti.worlds.scenes.captions import geneval_prompt
from smalti.worlds.scenes.extra_shapes import EXTRA_SHAPES, Field, disc, union
from smalti.worlds.scenes.palette import COLORS
from smalti.worlds.scenes.scene import Scene, compose
from smalti.worlds.scenes.shapes import SHAPES

NOUN = "rabbit"
LATTICE = 8  # of the bundled model's training
TAGS = ("single_object", "color_attr", "position")


def _ear(x0: float) -> Field:
    """Return the field of an upright ellipse, which is exact at its edge alone."""
    width, height, middle = 0.22, 0.62, -0.38
    return lambda x, y: (
        (np.hypot((x - np.float32(x0)) / width, (y - np.float32(middle)) / height) - 1) * width
    ).astype(np.float32)


RABBIT = union(disc(0, 0.38, 0.62), _ear(-0.43), _ear(0.43))


def add_noun() -> None:
    """Let the renderer draw rabbits and the detector find them, in this process."""
    EXTRA_SHAPES[NOUN] = RABBIT
    places = np.linspace(-1.2, 1.2, 241, dtype=np.float32)
    contours = find_contours(RABBIT(places[None, :], places[:, None]), 0.0)
    OUTLINES[NOUN] = [[contour[:, ::-1] * 0.01 - 1.2 for contour in contours]]
    masks.cache_clear()


def metadata(number: int, random: Random) -> dict[str, Any]:
    """Return GenEval's line for a rabbit in one of ten colours: alone, beside a shape, or in relation to one."""
    tag = TAGS[number % len(TAGS)]
    color = list(COLORS)[number % len(COLORS)]
    include: list[dict[str, Any]] = [{"class": NOUN, "count": 1, "color": color}]
    if tag != "single_object":
        other = random.choice([name for name in COLORS if name != color])
        include.append({"class": random.choice(list(SHAPES)), "count": 1, "color": other})
        if random.random() < 0.5:
            include.reverse()
    if tag == "position":
        include[1]["position"] = [random.choice(["left of", "right of", "above", "below"]), 0]
    return {"tag": tag, "include": include}


def lessons(count: int = 20) -> list[Scene]:
    """Return scenes with a rabbit to learn from."""
    random = Random("rabbits to learn from")
    return [
        compose(metadata(number, random), random, split="train", lattice=LATTICE) for number in range(count)
    ]


def questions(count: int = 20) -> list[dict[str, Any]]:
    """Return prompts that no lesson has, as GenEval's lines."""
    random, known = Random("rabbits to draw"), {scene.caption for scene in lessons()}
    lines: list[dict[str, Any]] = []
    number = 0
    while len(lines) < count:
        line = metadata(1 + number * 7, random)  # other colours for each tag than the lessons'
        line["prompt"] = geneval_prompt(line)
        number += 1
        if line["prompt"].removeprefix("a photo of ") not in {
            one.removeprefix("a photo of ") for one in known
        }:
            known.add(line["prompt"])
            lines.append(line)
    return lines
