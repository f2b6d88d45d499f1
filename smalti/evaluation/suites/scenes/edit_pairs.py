"""Edits with known results: a scene, the scene after the edit, and the prompts of both.

The same code renders both images, and they differ in the edit alone. The truly changed tokens are those whose pixels
differ.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from random import Random
from typing import Any

import numpy as np

from smalti.common.checks import check_choice, check_whole
from smalti.evaluation.geneval import Prompt
from smalti.worlds.scenes.captions import geneval_prompt
from smalti.worlds.scenes.palette import BACKGROUNDS, COLORS
from smalti.worlds.scenes.scene import HELD_OUT, Scene, SceneObject, compose, render
from smalti.worlds.scenes.shapes import SHAPES
from smalti.worlds.scenes.world import sample_metadata

# Smallest side, as a fraction of the image, of an object whose background changes.
_LARGE = 0.4

KINDS = ("recolor", "replace", "remove", "add", "background")


@dataclass(frozen=True)
class EditPair:
    """One edit.

    Attributes:
        kind: one of `KINDS`.
        before: scene before the edit.
        after: scene after the edit.
        source_prompt: prompt of `before`.
        prompt: prompt of `after`, in the same wording.
        asked: GenEval's metadata of `after`; `exclude` names the objects that must be gone.
        untouched: objects that are equal in both scenes.
    """

    kind: str
    before: Scene
    after: Scene
    source_prompt: str
    prompt: str
    asked: Prompt
    untouched: tuple[SceneObject, ...]

    def images(self, size: int = 256) -> tuple[np.ndarray, np.ndarray]:
        """Render the image and the true edited image, uint8 (size, size, 3) each."""
        return render(self.before, size), render(self.after, size)


def edit_pairs(count: int = 200, *, seed: int = 0, lattice: int | None = 8) -> Iterator[EditPair]:
    """Yield `count` edits, the kinds in turn; edit i depends on the seed, the lattice and i alone.

    Every scene has two objects of different shapes and colours, and the edit touches one of them. Half of the prompts
    join the objects by "and", half give their relation. Scenes whose background changes have one large object, because
    every token of a small one also shows background. No object is a held-out pair, so the score measures editing alone.

    Args:
        count: number of edits.
        seed: seed of the edits.
        lattice: lattice of the scenes, as in `smalti.worlds.scenes.world.Scenes`; None means objects of any size
            anywhere.

    Raises:
        SmaltiError: `count` is not a positive whole number.
    """
    check_whole("count", count)
    for index, kind in enumerate(islice(cycle(KINDS), count)):
        yield edit_pair(kind, Random(f"smalti edits {seed} {index}"), lattice=lattice)


def edit_pair(kind: str, random: Random, *, lattice: int | None = 8) -> EditPair:
    """Compose one edit of a kind.

    Raises:
        SmaltiError: there is no such kind.
    """
    check_choice("kind", kind, KINDS)
    if kind == "background":
        return _background_pair(random, lattice)
    placed = random.random() < 0.5
    metadata = sample_metadata("position" if placed else "color_attr", random, "train")
    used: list[str] = []
    for entry in metadata["include"]:
        entry["color"] = _other_color(entry["class"], used, random)
        used.append(entry["color"])
    scene = _plain(metadata, random, lattice)
    touched, other = random.sample((0, 1), 2)
    include = metadata["include"]
    alone = [{name: value for name, value in include[other].items() if name != "position"}]
    kept = (scene.objects[other],)
    without = dataclasses.replace(scene, objects=kept)
    if kind == "remove":
        asked = _asked(alone, gone=[include[touched]["class"]])
        return EditPair(kind, scene, without, _words(include), _words(alone), asked, kept)
    if kind == "add":
        return EditPair(kind, without, scene, _words(alone), _words(include), _asked(include), kept)
    changed, gone = [dict(entry) for entry in include], []
    entry = changed[touched]
    if kind == "recolor":
        entry["color"] = _other_color(entry["class"], used, random)
    else:
        gone = [entry["class"]]
        taken = {item["class"] for item in include}
        shapes = [shape for shape in SHAPES if shape not in taken and (shape, entry["color"]) not in HELD_OUT]
        entry["class"] = random.choice(shapes)
    objects = list(scene.objects)
    objects[touched] = dataclasses.replace(objects[touched], shape=entry["class"], color=entry["color"])
    after = dataclasses.replace(scene, objects=tuple(objects))
    return EditPair(kind, scene, after, _words(include), _words(changed), _asked(changed, gone), kept)


def _background_pair(random: Random, lattice: int | None) -> EditPair:
    """Compose one edit of the background of a large object."""
    metadata = sample_metadata("colors", random, "train")
    scene = _plain(metadata, random, lattice)
    while scene.objects[0].size < _LARGE:
        scene = _plain(metadata, random, lattice)
    tint = random.choice([name for name in BACKGROUNDS if name != scene.background])
    after = dataclasses.replace(scene, background=tint)
    source, target = (
        f"{_words(metadata['include'])} on a {one.background} background" for one in (scene, after)
    )
    return EditPair("background", scene, after, source, target, _asked(metadata["include"]), scene.objects)


def changed_tokens(before: np.ndarray, after: np.ndarray, side: int) -> np.ndarray:
    """Return the tokens, (H/side, W/side) bool, in which two images, (H, W, 3) uint8, differ."""
    height, width = before.shape[:2]
    differ = (before != after).any(axis=-1)
    return differ.reshape(height // side, side, width // side, side).any(axis=(1, 3))


def _plain(metadata: dict[str, Any], random: Random, lattice: int | None) -> Scene:
    """Compose a scene on a plain background; the empty prompt keeps `compose` from writing one."""
    scene = compose({**metadata, "prompt": ""}, random, split="train", lattice=lattice)
    return dataclasses.replace(scene, gradient=False)


def _words(include: list[dict[str, Any]]) -> str:
    """Return the prompt of these objects."""
    return geneval_prompt({"include": include})


def _asked(include: list[dict[str, Any]], gone: list[str] | None = None) -> Prompt:
    """Return GenEval's metadata for these objects, no second of any of them, and none of those that are gone."""
    exclude = [{"class": entry["class"], "count": entry["count"] + 1} for entry in include]
    exclude += [{"class": shape, "count": 1} for shape in gone or []]
    return {"include": include, "exclude": exclude}


def _other_color(shape: str, used: list[str], random: Random) -> str:
    """Choose an unused colour that is not held out for the shape."""
    return random.choice([color for color in COLORS if color not in used and (shape, color) not in HELD_OUT])
