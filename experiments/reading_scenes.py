"""Scenes with questions whose answers are known: labels to choose from, and phrases with the masks of their objects."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np

from smalti.worlds.scenes.captions import geneval_prompt, noun_phrase
from smalti.worlds.scenes.palette import COLORS
from smalti.worlds.scenes.scene import Scene, compose, render
from smalti.worlds.scenes.shapes import SHAPES
from smalti.worlds.scenes.world import sample_metadata

Metadata = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """An image with labels, one of which is true.

    Attributes:
        scene: the scene that the image shows.
        labels: captions that differ in one word.
        truth: number of the true label.
    """

    scene: Scene
    labels: list[str]
    truth: int


def _with(key: str, values: tuple[Any, ...], entry: int = 0) -> Callable[[Metadata], list[Metadata]]:
    def change(metadata: Metadata) -> list[Metadata]:
        changed = [copy.deepcopy(metadata) for _ in values]
        for one, value in zip(changed, values, strict=True):
            one["include"][entry][key] = value
        return changed

    return change


TASKS: dict[str, tuple[str, Callable[[Metadata], list[Metadata]]]] = {
    "shape": ("single_object", _with("class", tuple(SHAPES))),
    "color": ("colors", _with("color", tuple(COLORS))),
    "beside": ("position", _with("position", (["left of", 0], ["right of", 0]), 1)),
    "above": ("position", _with("position", (["above", 0], ["below", 0]), 1)),
    "count": ("counting", _with("count", (1, 2, 3, 4))),
}
"""Kinds of questions by name: GenEval's task of the scene, and a function that returns the metadata of all labels."""


def question(task: str, index: int, *, seed: int, lattice: int | None) -> Question:
    """Return question `index` of a task; its scene is of the split that training never shows."""
    tag, change = TASKS[task]
    random = Random(f"smalti reading {seed} {task} {index}")
    while True:
        metadata = sample_metadata(tag, random, "test")
        if task == "count":
            metadata["include"][0]["count"] = random.randint(1, 4)
        choices = change(metadata)
        if metadata in choices:  # a relation of the other axis is no question of this task
            break
    labels = [geneval_prompt(choice) for choice in choices]
    truth = choices.index(metadata)
    scene = compose({**metadata, "prompt": labels[truth]}, random, split="test", lattice=lattice)
    return Question(scene, labels, truth)


@dataclass(frozen=True, eq=False)
class Marked:
    """An image with a caption, and the masks of the objects that its phrases name.

    Attributes:
        scene: the scene; its caption is the prompt.
        phrases: a phrase an object.
        masks: (phrases, size, size) bool, pixels that each object covers by half or more.
    """

    scene: Scene
    phrases: list[str]
    masks: np.ndarray


def marked(index: int, *, seed: int, lattice: int | None, size: int = 256) -> Marked:
    """Return scene `index` of two objects in different colours, on either side of a relation or without one."""
    random = Random(f"smalti grounding {seed} {index}")
    metadata = sample_metadata(("color_attr", "position")[index % 2], random, "test")
    for entry in metadata["include"]:
        entry.setdefault("color", random.choice(list(COLORS)))
    prompt = geneval_prompt(metadata)
    scene = compose({**metadata, "prompt": prompt}, random, split="test", lattice=lattice)
    phrases = [noun_phrase(entry) for entry in metadata["include"]]
    return Marked(
        scene, phrases, np.stack([object_mask(scene, number, size) for number in range(len(phrases))])
    )


def object_mask(scene: Scene, number: int, size: int) -> np.ndarray:
    """Return the pixels of an object, (size, size) bool, whatever covers it: rendered alone in white and in black."""
    alone = [
        replace(scene, objects=(replace(scene.objects[number], color=color, right_color=None),))
        for color in ("white", "black")
    ]
    white, black = (render(one, size).astype(np.float32).sum(axis=2) for one in alone)
    reach = 3 * (254 - (24 + 24 + 28) / 3)
    return (white - black) >= reach / 2
