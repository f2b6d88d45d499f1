"""The sprites of a split, found by noun, style and colour."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection as Container
from collections.abc import Mapping
from itertools import accumulate
from random import Random

from smalti.common.checks import quoted
from smalti.errors import SmaltiError
from smalti.worlds.arguments import check_weights
from smalti.worlds.objects.archive import Sprite, SpriteArchive
from smalti.worlds.objects.colors import COLOR_NAMES
from smalti.worlds.objects.language import countable
from smalti.worlds.objects.nouns import SYNONYMS
from smalti.worlds.objects.splits import held_out_rank, scored_nouns, split_sprites

Groups = dict[str, list[int]]  # numbers of sprites, by drawing


class Collection:
    """Sprites of a split.

    A thing's class is its sprite's noun. A sprite without a noun is of the class of its name, which scores never know.

    Args:
        archive: the archive.
        split: "train" or "test"; see `smalti.worlds.objects.splits`.
        styles: weight of each style; None weighs styles by their numbers of sprites. Other styles are left out.
        compact: whether to keep one sprite of each scored noun, and one of each of its colours. It is of the style
            with the most weight, and scenes are not drawn by style. A noun without a colour is always the same sprite.
        nouns: the only classes to keep; None keeps all.

    Attributes:
        archive: the archive.
        compact: as given.
        splits: splits of all of the archive's sprites.
        scored: nouns that scores know, sorted.

    Raises:
        SmaltiError: a style is unknown, or no sprite is left.
    """

    def __init__(
        self,
        archive: SpriteArchive,
        split: str = "train",
        styles: Mapping[str, float] | None = None,
        compact: bool = False,
        nouns: Container[str] | None = None,
    ) -> None:
        every = Counter(sprite.style for sprite in archive.sprites)
        if styles is not None:
            check_weights("styles", styles, sorted(every))
        self.archive = archive
        self.compact = compact
        self.splits = split_sprites(archive.sprites)
        self.scored = scored_nouns(archive.sprites)
        self._names = _countable_names(archive.sprites)
        self._found: defaultdict[tuple[str, str | None, str | None], Groups] = defaultdict(dict)
        weights: Mapping[str, float] = every if styles is None else styles
        numbers = [
            number
            for number, sprite in enumerate(archive.sprites)
            if weights.get(sprite.style, 0) > 0 and self.splits.test[number] == (split == "test")
        ]
        if nouns is not None:
            numbers = self._of_classes(numbers, nouns)
        plain = set(numbers)
        if compact:
            plain, numbers = self._one_each(numbers, weights)
        present = Counter(archive.sprites[number].style for number in numbers)
        for number in numbers:
            self._add(number, archive.sprites[number], number in plain)
        if not present:
            raise SmaltiError(f"{archive.path} has no sprites of these styles in the split {split!r}")
        weights = present if styles is None else {name: styles[name] for name in present}
        self._styles = None if compact else (list(weights), list(accumulate(weights.values())))
        self._nouns = self._weigh_nouns()

    def _of_classes(self, numbers: list[int], nouns: Container[str]) -> list[int]:
        """Return the sprites of some classes; a class that the archive lacks is an error."""
        classes = [class_of(sprite) for sprite in self.archive.sprites]
        wanted = set(nouns)
        for noun in sorted(wanted - set(classes)):
            raise SmaltiError(f"nouns must be classes of the archive, not {quoted(noun)}", argument="nouns")
        return [number for number in numbers if classes[number] in wanted]

    def _one_each(self, numbers: list[int], weights: Mapping[str, float]) -> tuple[set[int], list[int]]:
        """Return the sprites that stand for the scored nouns, and, in the archive's order, for their colours, too."""
        sprites, drawings, scored = self.archive.sprites, self.splits.drawings, set(self.scored)

        def rank(number: int) -> tuple[float, tuple[float, str], int, int]:
            sprite = sprites[number]
            return -weights[sprite.style], held_out_rank(drawings[number]), _turned(sprite.view), number

        best: dict[tuple[str, str | None], int] = {}
        for number in sorted(numbers, key=rank):
            noun = class_of(sprites[number])
            if noun in scored:
                best.setdefault((noun, None), number)
                best.setdefault((noun, sprites[number].color), number)
        plain = {number for (_, color), number in best.items() if color is None}
        return plain, sorted(set(best.values()))

    def _add(self, number: int, sprite: Sprite, plain: bool) -> None:
        """Add a sprite, which a noun without a colour may stand for if `plain`."""
        noun, drawing = class_of(sprite), self.splits.drawings[number]
        for style in (sprite.style, None):
            for color in {sprite.color, None} if plain else {sprite.color}:
                self._found[noun, style, color].setdefault(drawing, []).append(number)

    def _weigh_nouns(self) -> dict[tuple[str | None, bool], tuple[list[str], list[float]]]:
        """Return classes with cumulative weights, by style and by whether a colour is known."""
        weights: defaultdict[tuple[str | None, bool], dict[str, float]] = defaultdict(dict)
        for (noun, style, color), groups in self._found.items():
            # A noun with many drawings is more frequent, but rare nouns must be learned too.
            key, weight = (style, color is not None), math.sqrt(len(groups))
            weights[key][noun] = max(weights[key].get(noun, 0), weight)
        return {key: (list(found), list(accumulate(found.values()))) for key, found in weights.items()}

    def draw_style(self, random: Random) -> str | None:
        """Return a random style; None, which stands for any, if the collection is compact."""
        if self._styles is None:
            return None
        names, weights = self._styles
        return random.choices(names, cum_weights=weights)[0]

    def draw_noun(self, random: Random, style: str | None = None, colored: bool = False) -> str | None:
        """Return a random class of a style, one with a known colour if `colored`; None if there is none."""
        if (style, colored) not in self._nouns:
            return None
        nouns, weights = self._nouns[style, colored]
        return random.choices(nouns, cum_weights=weights)[0]

    def draw_color(self, random: Random, noun: str, style: str | None = None) -> str | None:
        """Return a random colour that a class has in a style; None if none is known."""
        colors = [color for color in sorted(COLOR_NAMES) if (noun, style, color) in self._found]
        return random.choice(colors) if colors else None

    def draw_sprites(
        self, random: Random, noun: str, count: int, *, style: str | None = None, color: str | None = None
    ) -> list[int] | None:
        """Return numbers of sprites of a class: mostly one sprite repeated, else different ones of one style.

        Args:
            random: source of every draw.
            noun: the class.
            count: number of sprites.
            style: their style; None for any.
            color: their colour; None for any.

        Returns:
            Numbers of sprites, or None if there is no such sprite.
        """
        groups = self._found.get((noun, style, color))
        if not groups:
            return None
        first = self._draw(random, groups)
        if count == 1 or random.random() < _SAME_SHARE:
            return [first] * count
        groups = self._found[noun, self.archive.sprites[first].style, color]
        return [first, *(self._draw(random, groups) for _ in range(count - 1))]

    def sprites(self, noun: str, color: str | None = None) -> list[int]:
        """Return the numbers of all sprites of a class and a colour, None for any, in the archive's order."""
        return sorted(
            number for group in self._found.get((noun, None, color), {}).values() for number in group
        )

    def colors(self, noun: str) -> list[str]:
        """Return the colours in which a class is known, sorted."""
        return [color for color in sorted(COLOR_NAMES) if (noun, None, color) in self._found]

    def name_of(self, noun: str) -> str:
        """Return a class in words that a number may stand before: "loaf of bread" for "bread"."""
        return self._names.get(noun, noun)

    def synonyms_of(self, noun: str) -> list[str]:
        """Return other words for a class, without those that are classes of their own."""
        return [word for word in SYNONYMS.get(noun, ()) if word not in self._names]

    @staticmethod
    def _draw(random: Random, groups: Groups) -> int:
        # Every drawing is as frequent as another, however many views it has.
        return random.choice(random.choice(list(groups.values())))


_SAME_SHARE = 0.7  # of the scenes that count things

_FRONT = 30  # degrees; models show most of themselves from here


def _turned(view: int | None) -> int:
    """Return how far a view is turned from the front of a model, in degrees."""
    turn = abs((view or _FRONT) - _FRONT) % 360
    return min(turn, 360 - turn)


def class_of(sprite: Sprite) -> str:
    """Return the class of a sprite: its noun, or its name without one."""
    return sprite.noun or sprite.name


def _countable_names(sprites: list[Sprite]) -> dict[str, str]:
    """Return the most frequent name of each noun that can be counted, the noun itself if it can."""
    names: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for sprite in sprites:
        if sprite.noun:
            names[sprite.noun][sprite.name] += 1
    chosen = {}
    for noun, found in names.items():
        plain = {name: count for name, count in found.items() if name == noun and countable(noun)}
        measured = {name: count for name, count in found.items() if name.endswith(f" of {noun}")}
        options = {**plain, **measured} or ({noun: 1} if countable(noun) else dict(found))
        chosen[noun] = min(options, key=lambda name: (-options[name], name))
    return chosen
