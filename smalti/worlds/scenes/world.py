"""Captioned scenes drawn on the fly: flat shapes in GenEval's ten colours, at any resolution.

A scene starts as GenEval metadata (what must be in the picture), which decides its objects and their places,
its caption and, in the end, how a picture made from that caption is scored.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any

import numpy as np
import torch

from smalti.common.checks import check_real
from smalti.errors import SmaltiError
from smalti.worlds.scenes import layout
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
"""Shape-colour pairs that training scenes never show; every shape and every colour is in exactly one."""

TRAINING_MIX: dict[str, float] = {
    "single_object": 0.08,
    "two_object": 0.10,
    "counting": 0.20,
    "colors": 0.17,
    "position": 0.20,
    "color_attr": 0.20,
    "mixed": 0.05,
}
"""Share of each kind of scene: GenEval's six tasks, and `mixed` scenes of three or four objects."""

SPLITS = ("train", "test")
MIN_SIDE, MAX_SIDE = 16, 8192

# A lone object of less than this side is "small", of more "large"; between them captions say neither.
_SMALL, _LARGE = 0.32, 0.47
_SIZE_WORD_SHARE = 0.25

# How many of the captions say colours, where that is not the task itself.
_COLORED_SHARE = {"single_object": 0.0, "two_object": 0.0, "counting": 0.4, "position": 0.7}

# A soft gradient's lightening at the top and darkening at the bottom.
_GRADIENT = 0.05


@dataclass(frozen=True)
class SceneObject:
    """One object: shape, colour by name, centre and side of its box, in fractions of the picture's side.

    Attributes:
        right_color: of its right half, if that has another.
        outline: which one, of a "blob".
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
    """What a picture shows.

    Attributes:
        objects: one to four, none overlapping.
        background: a name in `BACKGROUNDS`.
        gradient: whether the background runs softly from lighter (top) to darker.
        caption: plain English.
        tag: GenEval's task, or "mixed".
        metadata: GenEval's line for this scene: `tag`, `include`, `exclude` (counting), `prompt` (the
        caption).
    """

    objects: tuple[SceneObject, ...]
    background: str
    gradient: bool
    caption: str
    tag: str
    metadata: dict[str, Any]

    @property
    def held_out(self) -> bool:
        """Whether an object is one of the `HELD_OUT` pairs."""
        return any(
            (item.shape, color) in HELD_OUT
            for item in self.objects
            for color in (item.color, item.right_color)
        )


class Scenes:
    """Endless scenes by index; item i depends on `seed`, `split` and i alone, whatever the size.

    Args:
        seed: any whole number; other seeds give other scenes.
        size: side in pixels, or (height, width).
        split: "train" never shows a `HELD_OUT` pair, "test" may; their scenes differ.
        mix: weight of each tag; by default `TRAINING_MIX`.
        lattice: None for objects of any size anywhere. A number L, a multiple of 8, is for models with little time to
            learn: sides of boxes are multiples of 2/L of the picture's, their edges multiples of 1/L, and backgrounds
            are plain.
        lattice_share: the probability that a scene is on the lattice; the others are as without one.
        extra_shapes: the probability that a shape is one of `EXTRA_SHAPES` instead.
        halves: the probability that an object whose colour the caption says has another colour in its right half.
        blobs: the probability that a scene of several kinds of objects has blobs instead, all of one random outline and
            of different colours.
        named: the probability that a caption says its objects' colours where that is not the task. Captions that leave
            the colour of a heart open teach that hearts are never white, if training has no white hearts.

    Raises:
        SmaltiError: an argument is not one of these.
    """

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
        if split not in SPLITS:
            raise SmaltiError(f'split must be "train" or "test", not {split!r}')
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise SmaltiError(f"seed must be a whole number, not {seed!r}")
        mix = TRAINING_MIX if mix is None else mix
        if set(mix) - set(TRAINING_MIX) or min(mix.values(), default=0) < 0 or not sum(mix.values()) > 0:
            raise SmaltiError(f"mix must weight some of {list(TRAINING_MIX)} with 0 or more, not {mix!r}")
        if lattice is not None and (not isinstance(lattice, int) or lattice < 8 or lattice % 8):
            raise SmaltiError(f"lattice must be a multiple of 8, or None, not {lattice!r}")
        shares = dict(
            lattice_share=lattice_share, extra_shapes=extra_shapes, halves=halves, blobs=blobs, named=named
        )
        for name, share in shares.items():
            check_real(name, share, 0, 1)
        self.seed = seed
        self.size = _sides(size)
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
        """Scene number `index` (0 or more), not drawn yet."""
        index = operator.index(index)
        if index < 0:
            raise SmaltiError(f"index must be 0 or more, not {index}")
        random = Random(f"smalti scenes {self.seed} {self.split} {index}")
        tag = random.choices(self._tags, self._weights)[0]
        metadata = sample_metadata(tag, random, self.split)
        lattice = self.lattice
        if self.blobs and len(metadata["include"]) > 1 and random.random() < self.blobs:
            _make_blobs(metadata, random, self.split)
        elif self.extra_shapes or self.halves:
            _vary(metadata, random, self.split, self.extra_shapes, self.halves)
        # Without a share no number is drawn for it, so that scenes stay what they were.
        if self.lattice_share < 1 and random.random() >= self.lattice_share:
            lattice = None
        # Pictures are the same whether their colours are named: these are the colours that `compose` would draw.
        if self.named and Random(f"smalti names {self.seed} {self.split} {index}").random() < self.named:
            for entry in metadata["include"]:
                if "color" not in entry:
                    entry["color"] = random.choice(_colors_of(entry["class"], self.split))
        return compose(metadata, random, split=self.split, lattice=lattice)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`{"image": uint8 (3, H, W) tensor, "caption": str}`."""
        scene = self.scene(index)
        pixels = torch.from_numpy(render(scene, self.size))
        return {"image": pixels.permute(2, 0, 1).contiguous(), "caption": scene.caption}


def sample_metadata(tag: str, random: Random, split: str = "train") -> dict[str, Any]:
    """Draw GenEval metadata (without `prompt`) of a kind of scene; in "train", without held-out pairs.

    Two or more entries of `include` have different shapes; where both colours matter they differ as well.
    """
    if tag not in TRAINING_MIX:
        raise SmaltiError(f"tag must be one of {list(TRAINING_MIX)}, not {tag!r}")
    counts = {"single_object": [1], "colors": [1], "counting": [random.randint(2, 4)]}.get(tag, [1, 1])
    if tag == "mixed":
        counts = random.choice(([1, 1, 1], [1, 1, 1, 1], [1, 2], [2, 2], [1, 3]))
    colored = random.random() < _COLORED_SHARE.get(tag, 1)
    include: list[dict[str, Any]] = []
    for shape, count in zip(random.sample(list(SHAPES), len(counts)), counts, strict=True):
        entry: dict[str, Any] = {"class": shape, "count": count}
        if colored:
            used = {other["color"] for other in include} if tag != "mixed" else set()
            entry["color"] = random.choice([color for color in _colors_of(shape, split) if color not in used])
        include.append(entry)
    metadata: dict[str, Any] = {"tag": tag, "include": include}
    if tag == "counting":
        metadata["exclude"] = [{"class": include[0]["class"], "count": include[0]["count"] + 1}]
    if tag == "position":
        include[1]["position"] = [random.choice(list(layout.RELATIONS)), 0]
    return metadata


def _vary(metadata: dict[str, Any], random: Random, split: str, extra_shapes: float, halves: float) -> None:
    """Give some entries one of the extra shapes, and some a second colour (`right_color`), none of a held-out pair."""
    free = random.sample(list(EXTRA_SHAPES), len(metadata["include"]))
    for entry in metadata["include"]:
        if random.random() < extra_shapes:
            entry["class"] = free.pop()
            allowed = _colors_of(entry["class"], split)
            if "color" in entry and entry["color"] not in allowed:
                used = {other.get("color") for other in metadata["include"]}
                entry["color"] = random.choice([color for color in allowed if color not in used])
        if random.random() < halves and "color" in entry:
            others = [color for color in _colors_of(entry["class"], split) if color != entry["color"]]
            entry["right_color"] = random.choice(others)
    for excluded in metadata.get("exclude", []):
        excluded["class"] = metadata["include"][0]["class"]


def _make_blobs(metadata: dict[str, Any], random: Random, split: str) -> None:
    """Let all entries be blobs of one outline (`outline`), in different colours.

    Of two things that differ in nothing but their colours, one in sight shows all of the other but that. To lay it is
    to put the outline of the one and the colour that the prompt says together, for outlines never seen before.
    """
    outline = random.randrange(2**32)
    colors = random.sample(_colors_of("blob", split, outline), len(metadata["include"]))
    for entry, color in zip(metadata["include"], colors, strict=True):
        entry.update({"class": "blob", "color": color, "outline": outline})


def compose(
    metadata: dict[str, Any], random: Random, *, split: str = "test", lattice: int | None = None
) -> Scene:
    """A random scene that shows what GenEval metadata asks for, and nothing else.

    A colour that the metadata leaves open is drawn, one for all objects of an entry. The caption is the
    metadata's `prompt` if it has one, else it is written here. `lattice` is explained at `Scenes`.

    Raises:
        SmaltiError: an unknown shape, colour or relation, or more than four objects.
    """
    kinds: list[tuple[str, str, str | None, int]] = []
    known = [*SHAPES, *EXTRA_SHAPES, "blob"]
    for entry in metadata["include"]:
        if entry["class"] not in known:
            raise SmaltiError(f"class must be one of {known}, not {entry['class']!r}")
        color = entry.get("color") or random.choice(_colors_of(entry["class"], split))
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
    """Draw a scene: uint8 (H, W, 3), anti-aliased.

    Args:
        size: side in pixels, or (height, width); objects then keep their shape and are measured by the
        shorter side.
    """
    height, width = _sides(size)
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
    coverage = np.clip(0.5 - _field(item.shape, item.outline)(x, y) * np.float32(radius), 0, 1)[..., None]
    box = canvas[top:bottom, left:right]
    behind = box.astype(np.float32)
    color = np.array(COLORS[item.color], dtype=np.float32)
    if item.right_color:
        color = np.where(x[..., None] < 0, color, np.array(COLORS[item.right_color], dtype=np.float32))
    behind += coverage * (color - behind)
    box[:] = (behind + np.float32(0.5)).astype(np.uint8)


def _boxes(metadata: dict[str, Any], count: int, random: Random, lattice: int | None) -> list[layout.Box]:
    if count not in layout.SIZES:
        raise SmaltiError(f"a scene has 1 to {max(layout.SIZES)} objects, not {count}")
    if metadata["tag"] == "counting":
        # Things that are counted look alike.
        smallest, largest = layout.SIZES[count]
        sizes = [layout.draw_size(count, random, lattice)] * count
        if lattice is None:
            sizes = [min(max(size * random.uniform(0.92, 1.08), smallest), largest) for size in sizes]
    else:
        sizes = [layout.draw_size(count, random, lattice) for _ in range(count)]
    relations = [entry["position"] for entry in metadata["include"] if "position" in entry]
    if not relations:
        return layout.place(sizes, random, lattice)
    if count != 2 or len(relations) > 1 or "position" not in metadata["include"][1] or relations[0][1] != 0:
        raise SmaltiError("position must relate the second of two single objects to the first (index 0)")
    if relations[0][0] not in layout.RELATIONS:
        raise SmaltiError(f"position must be one of {list(layout.RELATIONS)}, not {relations[0][0]!r}")
    return list(layout.place_related(relations[0][0], (sizes[0], sizes[1]), random, lattice))


def _size_word(objects: tuple[SceneObject, ...], random: Random) -> str:
    if len(objects) > 1 or _SMALL < objects[0].size < _LARGE or random.random() >= _SIZE_WORD_SHARE:
        return ""
    return "small" if objects[0].size <= _SMALL else "large"


def _colors_of(shape: str, split: str, outline: int = 0) -> list[str]:
    """The colours that a shape may have. In "train" what looks like a shape shares its held-out pair."""
    if split == "test":
        return list(COLORS)
    alike = {shape} if shape in SHAPES else _alike(shape, outline)
    return [color for color in COLORS if not any((name, color) in HELD_OUT for name in alike)]


@lru_cache(4096)
def _alike(shape: str, outline: int) -> frozenset[str]:
    return resembles(_field(shape, outline))


def _field(shape: str, outline: int) -> Field:
    if shape == "blob":
        return blob(outline)
    return SHAPES[shape] if shape in SHAPES else EXTRA_SHAPES[shape]


def _sides(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = size if isinstance(size, tuple) else (size, size)
    for side in (height, width):
        if not isinstance(side, int) or isinstance(side, bool) or not MIN_SIDE <= side <= MAX_SIDE:
            raise SmaltiError(f"size must be {MIN_SIDE} to {MAX_SIDE} pixels, in whole numbers, not {size!r}")
    return height, width
