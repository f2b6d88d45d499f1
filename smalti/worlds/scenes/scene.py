"""One scene: its content, its composition from metadata, and its rendering."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any

import numpy as np

from smalti.errors import SmaltiError
from smalti.worlds.arguments import sides
from smalti.worlds.layout import Box, Layout, between, related_second
from smalti.worlds.scenes.captions import write_caption
from smalti.worlds.scenes.extra_shapes import EXTRA_SHAPES, Field, blob, resembles
from smalti.worlds.scenes.palette import BACKGROUNDS, COLORS
from smalti.worlds.scenes.shapes import SHAPES

HELD_OUT: frozenset[tuple[str, str]] = frozenset(
    {
        ("circle", "orange"),
        ("square", "pink"),
        ("triangle", "blue"),
        ("star", "green"),
        ("heart", "white"),
        ("diamond", "brown"),
        ("cross", "yellow"),
        ("ring", "red"),
        ("crescent", "black"),
        ("arrow", "purple"),
    }
)
"""Shape-colour pairs that training scenes never show. Every shape and every colour is in exactly one pair."""

SIZES = {1: (0.25, 0.55), 2: (0.22, 0.40), 3: (0.20, 0.30), 4: (0.20, 0.30)}
"""Smallest and largest side of a box, by the number of objects. With a lattice of L, sides are multiples of 2/L."""

MARGIN, GAP = 0.03, 0.04
"""Least distance of a box from the image's edge, and of two boxes."""

# Sides, in fractions of the image's side, up to which a lone object is "small" and from which it is "large".
_SMALL, _LARGE = 0.32, 0.47
_SIZE_WORD_SHARE = 0.25

# How much a gradient lightens the top and darkens the bottom of a background.
_GRADIENT = 0.05


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene.

    Attributes:
        shape: key of `SHAPES` or `EXTRA_SHAPES`, or "blob".
        color: key of `COLORS`.
        x, y: centre of its box, in fractions of the image's sides.
        size: side of its box, in fractions of the image's shorter side.
        right_color: colour of its right half; None means `color`.
        outline: number of a blob's outline.
    """

    shape: str
    color: str
    x: float
    y: float
    size: float
    right_color: str | None = None
    outline: int = 0


@dataclass(frozen=True)
class Scene:
    """The content of an image.

    Attributes:
        objects: one to four objects that do not overlap.
        background: key of `BACKGROUNDS`.
        gradient: whether the background gets darker from top to bottom.
        caption: description in plain English.
        tag: name of GenEval's task, or "mixed".
        metadata: GenEval's line for this scene: `tag`, `include`, `exclude` (counting), `prompt` (the caption).
    """

    objects: tuple[SceneObject, ...]
    background: str
    gradient: bool
    caption: str
    tag: str
    metadata: dict[str, Any]

    @property
    def held_out(self) -> bool:
        """Tell whether an object is one of the `HELD_OUT` pairs."""
        return any(
            (item.shape, color) in HELD_OUT
            for item in self.objects
            for color in (item.color, item.right_color)
        )


def compose(
    metadata: dict[str, Any], random: Random, *, split: str = "test", lattice: int | None = None
) -> Scene:
    """Compose a random scene with exactly the objects that GenEval metadata describes.

    If the metadata leaves a colour open, one is drawn for all objects of the entry. The caption is the metadata's
    `prompt`; without one, a caption is written.

    Args:
        metadata: GenEval's line for the scene.
        random: source of every draw.
        split: "train" avoids held-out pairs, "test" does not.
        lattice: as in `Scenes`.

    Raises:
        SmaltiError: an unknown shape, colour or relation, or more than four objects.
    """
    kinds: list[tuple[str, str, str | None, int]] = []
    known = [*SHAPES, *EXTRA_SHAPES, "blob"]
    for entry in metadata["include"]:
        if entry["class"] not in known:
            raise SmaltiError(f"class must be one of {known}, not {entry['class']!r}")
        color = entry.get("color") or random.choice(colors_of(entry["class"], split))
        right_color = entry.get("right_color")
        for name in (color, right_color or color):
            if name not in COLORS:
                raise SmaltiError(f"color must be one of {list(COLORS)}, not {name!r}")
        kinds += [(entry["class"], color, right_color, entry.get("outline", 0))] * entry["count"]
    boxes = _boxes(metadata, len(kinds), random, lattice)
    objects = tuple(
        SceneObject(shape, color, *box, right_color, outline)
        for (shape, color, right_color, outline), box in zip(kinds, boxes, strict=True)
    )
    background = random.choice(list(BACKGROUNDS))
    gradient = lattice is None and random.random() < 0.5
    caption = metadata.get("prompt")
    if caption is None:
        size_word = _size_word(objects, random)
        caption = write_caption(metadata, random, background=background, size_word=size_word)
    return Scene(objects, background, gradient, caption, metadata["tag"], {**metadata, "prompt": caption})


def render(scene: Scene, size: int | tuple[int, int] = 256) -> np.ndarray:
    """Draw a scene as uint8 (H, W, 3), anti-aliased.

    Args:
        scene: the scene.
        size: side in pixels, or (height, width). Objects keep their shape; the shorter side is their unit.
    """
    height, width = sides(size)
    canvas = np.empty((height, width, 3), dtype=np.uint8)
    tint = np.array(BACKGROUNDS[scene.background], dtype=np.float32)
    if scene.gradient:
        falloff = np.linspace(1 + _GRADIENT, 1 - _GRADIENT, height, dtype=np.float32)[:, None, None]
        canvas[:] = np.rint(tint * falloff).clip(0, 255).astype(np.uint8)
    else:
        canvas[:] = tint.astype(np.uint8)
    for item in scene.objects:
        _draw(canvas, item)
    return canvas


def _draw(canvas: np.ndarray, item: SceneObject) -> None:
    """Blend one object into `canvas` (H, W, 3) uint8, touching only its box."""
    height, width = canvas.shape[:2]
    radius = item.size * min(height, width) / 2
    center_x, center_y = item.x * width, item.y * height
    left, right = max(int(center_x - radius) - 1, 0), min(int(center_x + radius) + 2, width)
    top, bottom = max(int(center_y - radius) - 1, 0), min(int(center_y + radius) + 2, height)
    x = ((np.arange(left, right, dtype=np.float32) + 0.5 - center_x) / radius)[None, :].astype(np.float32)
    y = ((np.arange(top, bottom, dtype=np.float32) + 0.5 - center_y) / radius)[:, None].astype(np.float32)
    # A pixel's coverage, from the distance of its centre to the edge in pixels.
    coverage = np.clip(0.5 - field_of(item.shape, item.outline)(x, y) * np.float32(radius), 0, 1)[..., None]
    box = canvas[top:bottom, left:right]
    behind = box.astype(np.float32)
    color = np.array(COLORS[item.color], dtype=np.float32)
    if item.right_color:
        color = np.where(x[..., None] < 0, color, np.array(COLORS[item.right_color], dtype=np.float32))
    behind += coverage * (color - behind)
    box[:] = (behind + np.float32(0.5)).astype(np.uint8)


def _boxes(metadata: dict[str, Any], count: int, random: Random, lattice: int | None) -> list[Box]:
    if count not in SIZES:
        raise SmaltiError(f"a scene has 1 to {max(SIZES)} objects, not {count}")
    smallest, largest = SIZES[count]
    layout, step = Layout(MARGIN, GAP, lattice), lattice and lattice / 2
    if metadata["tag"] == "counting":
        # Objects that are counted have about the same size.
        sizes = [between(smallest, largest, random, step)] * count
        if lattice is None:
            sizes = [min(max(size * random.uniform(0.92, 1.08), smallest), largest) for size in sizes]
    else:
        sizes = [between(smallest, largest, random, step) for _ in range(count)]
    relation = related_second(metadata["include"])
    if relation is None:
        return layout.place(sizes, random)
    return list(layout.place_related(relation, (sizes[0], sizes[1]), random))


def _size_word(objects: tuple[SceneObject, ...], random: Random) -> str:
    if len(objects) > 1 or _SMALL < objects[0].size < _LARGE or random.random() >= _SIZE_WORD_SHARE:
        return ""
    return "small" if objects[0].size <= _SMALL else "large"


def colors_of(shape: str, split: str, outline: int = 0) -> list[str]:
    """Return the colours that a shape may have. In "train" a shape shares the held-out pairs of those it resembles."""
    if split == "test":
        return list(COLORS)
    alike = {shape} if shape in SHAPES else _alike(shape, outline)
    return [color for color in COLORS if not any((name, color) in HELD_OUT for name in alike)]


@lru_cache(4096)
def _alike(shape: str, outline: int) -> frozenset[str]:
    return resembles(field_of(shape, outline))


def field_of(shape: str, outline: int) -> Field:
    """Return the signed distance function of a shape by name; `outline` is a blob's number."""
    if shape == "blob":
        return blob(outline)
    return SHAPES[shape] if shape in SHAPES else EXTRA_SHAPES[shape]
