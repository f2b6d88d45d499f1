"""Variety of training scenes: extra shapes, objects in two halves, blobs, and colours that captions name."""

from __future__ import annotations

from random import Random
from typing import Any

from smalti.worlds.scenes.extra_shapes import EXTRA_SHAPES
from smalti.worlds.scenes.scene import colors_of


def vary(metadata: dict[str, Any], random: Random, split: str, extra_shapes: float, halves: float) -> None:
    """Give some entries an extra shape or a second colour (`right_color`), in place.

    In "train" no entry becomes a held-out pair.

    Args:
        metadata: GenEval's metadata of a scene, without `prompt`.
        random: source of every draw.
        split: "train" or "test".
        extra_shapes: probability that an entry's shape becomes one of `EXTRA_SHAPES`.
        halves: probability that an entry with a colour gets another one in its right half.
    """
    free = random.sample(list(EXTRA_SHAPES), len(metadata["include"]))
    for entry in metadata["include"]:
        if random.random() < extra_shapes:
            entry["class"] = free.pop()
            allowed = colors_of(entry["class"], split)
            if "color" in entry and entry["color"] not in allowed:
                used = {other.get("color") for other in metadata["include"]}
                entry["color"] = random.choice([color for color in allowed if color not in used])
        if random.random() < halves and "color" in entry:
            others = [color for color in colors_of(entry["class"], split) if color != entry["color"]]
            entry["right_color"] = random.choice(others)
    for excluded in metadata.get("exclude", []):
        excluded["class"] = metadata["include"][0]["class"]


def make_blobs(metadata: dict[str, Any], random: Random, split: str) -> None:
    """Turn all entries into blobs of one outline (`outline`) and different colours, in place.

    Such objects differ in their colours alone, and every scene has a new outline. A model must take the second object's
    outline from the first object, and its colour from the prompt.
    """
    outline = random.randrange(2**32)
    colors = random.sample(colors_of("blob", split, outline), len(metadata["include"]))
    for entry, color in zip(metadata["include"], colors, strict=True):
        entry.update({"class": "blob", "color": color, "outline": outline})


def name_colors(metadata: dict[str, Any], random: Random, split: str) -> None:
    """Draw the colours that the metadata leaves open, in place, so that the caption names them.

    These are the colours that `compose` draws from the same `random`, so the image stays the same.
    """
    for entry in metadata["include"]:
        if "color" not in entry:
            entry["color"] = random.choice(colors_of(entry["class"], split))
