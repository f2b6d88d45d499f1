"""Composition of scenes from GenEval metadata: sprites, places, a ground that they stand out from, a caption."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any

import numpy as np

from smalti.errors import SmaltiError
from smalti.worlds.layout import RELATIONS, Box, Layout, related_second
from smalti.worlds.objects.captions import GROUND_SHARE, choose_name, ground_words, write_caption
from smalti.worlds.objects.collection import Collection
from smalti.worlds.objects.grounds import GROUNDS, Ground, colors_behind, draw_ground, draw_quiet_ground
from smalti.worlds.objects.likeness import Likeness
from smalti.worlds.objects.pictures import Pictures, oklab
from smalti.worlds.objects.scene import Scene, Thing
from smalti.worlds.objects.textures import RGB

SIZES = {1: (0.45, 0.85), 2: (0.34, 0.47), 3: (0.3, 0.44), 4: (0.28, 0.42)}
"""Smallest and largest side of a box, by the number of things."""

LATTICE_SIZE = 0.5
"""Side of every box on a lattice. A model learns each thing at one size: three sizes are four times as much."""

_PLACES = {
    1: ((0.5, 0.5),),
    2: ((0.25, 0.5), (0.75, 0.5)),
    3: ((0.25, 0.25), (0.75, 0.25), (0.5, 0.75)),
    4: ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)),
}
"""Centres of the boxes of a compact scene, in the order of its caption, by the number of things."""

_LARGE = (0.52, 0.72)  # sides up to which a lone thing is small and from which it is large
_SIZE_WORD_SHARE = 0.2
_TURN, _TURN_SHARE, _MIRROR_SHARE = 12.0, 0.5, 0.5

# A ground fits if at most this share of a thing's outline is nearer to it than this distance in Oklab, times 100.
_BLURRED_SHARE, _LEAST_CONTRAST = 0.25, 18.0
_GROUND_ATTEMPTS = 12


@dataclass(frozen=True)
class Composer:
    """Composes scenes.

    Attributes:
        collection: sprites that scenes may show.
        pictures: their images.
        likeness: classes that are alike.
        grounds: weight of each kind of ground.
        fallback: sprites for what `collection` lacks.
    """

    collection: Collection
    pictures: Pictures
    likeness: Likeness
    grounds: Mapping[str, float]
    fallback: Collection | None = None

    @classmethod
    def of(
        cls,
        collection: Collection,
        grounds: Mapping[str, float] = GROUNDS,
        fallback: Collection | None = None,
    ) -> Composer:
        """Return a composer of a collection's sprites."""
        archive = collection.archive
        return cls(collection, Pictures(archive), Likeness(archive.sprites), grounds, fallback)

    def compose(
        self,
        metadata: dict[str, Any],
        random: Random,
        styles: Sequence[str | None] | None = None,
        lattice: int | None = None,
    ) -> Scene:
        """Compose a random scene with exactly the things that GenEval metadata describes.

        The caption is the metadata's `prompt`; without one, a caption is written.

        Args:
            metadata: GenEval's line for the scene.
            random: source of every draw.
            styles: style of each entry of `include`, None for any.
            lattice: as in `smalti.worlds.objects.world.Objects`.

        Raises:
            SmaltiError: no sprite shows a class in a colour, an unknown relation, or more than four things.
        """
        include = metadata["include"]
        shown = [
            self._draw_sprites(random, entry, style)
            for entry, style in zip(include, styles or [None] * len(include), strict=True)
        ]
        kinds = [
            (entry["class"], number)
            for entry, numbers in zip(include, shown, strict=True)
            for number in numbers
        ]
        compact = self.collection.compact
        boxes = (
            _fixed_boxes(metadata, len(kinds)) if compact else _boxes(metadata, len(kinds), random, lattice)
        )
        still = compact or lattice is not None
        things = tuple(
            Thing(number, noun, *box, *_pose(random, still))
            for (noun, number), box in zip(kinds, boxes, strict=True)
        )
        caption = metadata.get("prompt")
        # The ground of a compact scene depends on whether the caption names it.
        named = caption is None and random.random() < GROUND_SHARE if compact else None
        ground = self._draw_ground(things, random, lattice, quiet=named is False)
        shadow = _draw_shadow(ground, random, still)
        if caption is None:
            caption = self._caption(metadata, shown, things, ground, named, random, lattice)
        return Scene(things, ground, shadow, caption, metadata["tag"], {**metadata, "prompt": caption})

    def _draw_sprites(self, random: Random, entry: dict[str, Any], style: str | None) -> list[int]:
        noun, count, color = entry["class"], entry["count"], entry.get("color")
        for collection in (self.collection, self.fallback):
            found = collection and collection.draw_sprites(random, noun, count, style=style, color=color)
            if found:
                return found
        wanted = f"{color} {noun}" if color else noun
        raise SmaltiError(f"class must be that of a sprite of this split, not {wanted!r}", argument="class")

    def _draw_ground(
        self, things: tuple[Thing, ...], random: Random, lattice: int | None, quiet: bool = False
    ) -> Ground:
        """Return a ground that all outlines stand out from, or the best of a few."""
        kinds, weights = list(self.grounds), list(self.grounds.values())
        horizon = _horizon(things, random, lattice)
        best: tuple[float, Ground] | None = None
        for _ in range(_GROUND_ATTEMPTS):
            kind = random.choices(kinds, weights)[0]
            ground = (
                draw_quiet_ground(random) if quiet else draw_ground(kind, random, horizon, lattice is None)
            )
            blurred = max(self._blurred(thing, ground) for thing in things)
            if best is None or blurred < best[0]:
                best = blurred, ground
            if blurred <= _BLURRED_SHARE:
                break
        assert best is not None
        return best[1]

    def _blurred(self, thing: Thing, ground: Ground) -> float:
        """Return the share of a thing's outline that is hardly told from the ground."""
        colors = colors_behind(ground, thing.y - thing.size / 2, thing.y + thing.size / 2)
        behind = np.stack([_oklab_of(color) for color in colors])
        distance = np.linalg.norm(self.pictures.outline(thing.sprite)[:, None] - behind, axis=2)
        return float((distance < _LEAST_CONTRAST).any(axis=1).mean())

    def _caption(
        self,
        metadata: dict[str, Any],
        shown: list[list[int]],
        things: tuple[Thing, ...],
        ground: Ground,
        named: bool | None,
        random: Random,
        lattice: int | None,
    ) -> str:
        include = metadata["include"]
        sprites = [[self.collection.archive.sprites[number] for number in numbers] for numbers in shown]
        names = []
        for entry, group in zip(include, sprites, strict=True):
            others = [other["class"] for other in include if other is not entry]
            kinds = [
                kind
                for kind in group[0].hypernyms
                if not any(self.likeness.is_kind(noun, kind) or noun == kind for noun in others)
            ]
            default = self.collection.name_of(entry["class"])
            synonyms = self.collection.synonyms_of(entry["class"])
            names.append(choose_name(entry, group, default, random, kinds, synonyms))
        style = {sprite.style for group in sprites for sprite in group}
        size_word = _size_word(things, random, lattice is not None)
        if named is None:
            named = random.random() < GROUND_SHARE
        place = ground_words(ground, random) if named else ""
        return write_caption(
            metadata,
            random,
            names,
            style.pop() if len(style) == 1 else None,
            size_word,
            place,
            in_order=self.collection.compact,
        )


def _boxes(metadata: dict[str, Any], count: int, random: Random, lattice: int | None) -> list[Box]:
    _check_count(count)
    if lattice:
        layout, sizes = Layout(0, 0, lattice), [LATTICE_SIZE] * count
    else:
        layout, (smallest, largest) = Layout(0.01, 0.01), SIZES[count]
        sizes = [random.uniform(smallest, largest) for _ in range(count)]
        if metadata["tag"] == "counting":
            # Things that are counted have about the same size.
            sizes = [min(max(sizes[0] * random.uniform(0.92, 1.08), smallest), largest) for _ in sizes]
    relation = related_second(metadata["include"])
    if relation is None:
        return layout.place(sizes, random)
    return list(layout.place_related(relation, (sizes[0], sizes[1]), random))


def _fixed_boxes(metadata: dict[str, Any], count: int) -> list[Box]:
    """Return the boxes of a compact scene. Its caption decides them, so that a model has less to guess."""
    _check_count(count)
    relation = related_second(metadata["include"])
    places: Sequence[tuple[float, float]] = _PLACES[count]
    if relation is not None:
        dx, dy = RELATIONS[relation]
        places = [(0.5 - dx / 4, 0.5 - dy / 4), (0.5 + dx / 4, 0.5 + dy / 4)]
    return [(x, y, LATTICE_SIZE) for x, y in places]


def _check_count(count: int) -> None:
    if count not in SIZES:
        raise SmaltiError(f"a scene has 1 to {max(SIZES)} things, not {count}")


def _pose(random: Random, still: bool) -> tuple[float, bool]:
    """Return the angle of a thing in degrees, and whether it is mirrored."""
    if still:
        return 0.0, False
    turn = random.uniform(-_TURN, _TURN) if random.random() < _TURN_SHARE else 0.0
    return round(turn, 1), random.random() < _MIRROR_SHARE


def _horizon(things: tuple[Thing, ...], random: Random, lattice: int | None) -> float:
    """Return the height of a horizon that every thing stands below, at least with its foot."""
    foot = min(thing.y + thing.size / 2 for thing in things)
    height = max(foot - random.uniform(0.12, 0.3), 0.125)
    return math.floor(height * lattice) / lattice if lattice else height


def _draw_shadow(ground: Ground, random: Random, still: bool) -> str:
    if ground.name == "brick":
        return "none"
    if still or ground.kind == "outdoor":
        return "contact"
    return random.choice(("contact", "drop", "drop", "none"))


def _size_word(things: tuple[Thing, ...], random: Random, lattice: bool) -> str:
    small, large = _LARGE
    if lattice or len(things) > 1 or small < things[0].size < large or random.random() >= _SIZE_WORD_SHARE:
        return ""
    return "small" if things[0].size <= small else "large"


@lru_cache(8192)
def _oklab_of(color: RGB) -> np.ndarray:
    return oklab(np.array(color))
