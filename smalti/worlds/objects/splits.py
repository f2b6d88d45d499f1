"""What training never shows: held-out drawings, pairs of noun and colour, and pairs of nouns.

All choices are by hash, so that the same archive always has the same splits.

Sprites of one drawing are on one side. The three Fluent styles share a drawing, and all views and colours of a
three-dimensional model are one drawing. A noun with five sprites or more, of two drawings or more, holds out a fifth of
its drawings, and at least one.

A pair of noun and colour is held out only if the noun stays common in other colours and the colour with other nouns.
The test split has all sprites of held-out drawings and pairs; training has all others.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from smalti.worlds.objects.archive import Sprite
from smalti.worlds.objects.colors import COLOR_NAMES

LEAST_SPRITES = 5
"""Number of sprites from which on a noun holds out some of its drawings."""

SCORED_SPRITES, SCORED_DRAWINGS = 5, 3
"""Numbers of sprites and of different drawings that a noun needs to be scored."""

_DRAWING_SHARE = 0.2
_NOUN_PAIR_SHARE = 0.05
_COLOR_PAIR_SHARE, _LEAST_COLOR_PAIRS = 0.05, 20
# A held-out pair has at most this share of its noun's sprites, and a colour holds out at most this share of its pairs.
_NOUN_LOSS, _COLOR_LOSS = 0.4, 0.2


@dataclass(frozen=True)
class Splits:
    """Splits of an archive's sprites.

    Attributes:
        drawings: the drawing of every sprite, in the archive's order.
        test: whether the test split has the sprite; training has the others.
        colors: held-out pairs of noun and colour.
    """

    drawings: tuple[str, ...]
    test: tuple[bool, ...]
    colors: frozenset[tuple[str, str]]


def split_sprites(sprites: Sequence[Sprite]) -> Splits:
    """Return the splits of an archive's sprites."""
    drawings = tuple(drawing_of(sprite) for sprite in sprites)
    colors = _held_out_colors(sprites, drawings)
    held_out = _held_out_drawings(sprites, drawings)
    test = tuple(
        drawing in held_out or any((sprite.noun, color) in colors for color in colors_of(sprite))
        for sprite, drawing in zip(sprites, drawings, strict=True)
    )
    return Splits(drawings, test, colors)


def drawing_of(sprite: Sprite) -> str:
    """Return the name of the drawing or the model that a sprite shows.

    Example:
        >>> drawing_of(Sprite("fluent-flat/cat", "cat", "cat", "fluent-flat"))
        'fluent/cat'
    """
    if sprite.style.startswith("fluent-"):
        return f"fluent/{sprite.name}"
    return f"{sprite.package or sprite.style}/{PurePosixPath(sprite.entry or sprite.key).stem}"


def colors_of(sprite: Sprite) -> frozenset[str]:
    """Return the colours that a caption may name with a sprite: the measured one, and those in its name."""
    return frozenset(COLOR_NAMES) & {*sprite.name.split(), sprite.color or ""}


def is_held_out_pair(first: str, second: str) -> bool:
    """Tell whether training never shows two nouns in one image."""
    return _chance("nouns", *sorted((first, second))) < _NOUN_PAIR_SHARE


def held_out_rank(drawing: str) -> tuple[float, str]:
    """Return the rank of a drawing: a noun holds out those of its drawings that have the smallest ranks."""
    return _chance("drawing", drawing), drawing


def scored_nouns(sprites: Sequence[Sprite]) -> list[str]:
    """Return the nouns that scores know, sorted: those with enough sprites from enough different drawings."""
    count: Counter[str] = Counter()
    drawings: defaultdict[str, set[str]] = defaultdict(set)
    for sprite in sprites:
        if sprite.noun:
            count[sprite.noun] += 1
            drawings[sprite.noun].add(drawing_of(sprite))
    return sorted(
        noun
        for noun, number in count.items()
        if number >= SCORED_SPRITES and len(drawings[noun]) >= SCORED_DRAWINGS
    )


def _held_out_drawings(sprites: Sequence[Sprite], drawings: Sequence[str]) -> frozenset[str]:
    count = Counter(sprite.noun for sprite in sprites)
    of_noun: defaultdict[str, set[str]] = defaultdict(set)
    for sprite, drawing in zip(sprites, drawings, strict=True):
        if sprite.noun and count[sprite.noun] >= LEAST_SPRITES:
            of_noun[sprite.noun].add(drawing)
    held_out: set[str] = set()
    for options in of_noun.values():
        if len(options) > 1:
            ranked = sorted(options, key=held_out_rank)
            held_out.update(ranked[: max(1, round(len(ranked) * _DRAWING_SHARE))])
    return frozenset(held_out)


def _held_out_colors(sprites: Sequence[Sprite], drawings: Sequence[str]) -> frozenset[tuple[str, str]]:
    scored = set(scored_nouns(sprites))
    of_noun = Counter(sprite.noun for sprite in sprites if sprite.noun in scored)
    of_pair = Counter(
        (sprite.noun, sprite.color) for sprite in sprites if sprite.noun in scored and sprite.color
    )
    colors = Counter(noun for noun, _ in of_pair)
    pairs_of_color = Counter(color for _, color in of_pair)
    wanted = max(_LEAST_COLOR_PAIRS, round(len(of_pair) * _COLOR_PAIR_SHARE))
    chosen: set[tuple[str, str]] = set()
    nouns: set[str] = set()
    lost: Counter[str] = Counter()
    for noun, color in sorted(of_pair, key=lambda pair: (_chance("color", *pair), pair)):
        if len(chosen) == wanted:
            break
        common = colors[noun] >= 3 and 2 <= of_pair[noun, color] <= _NOUN_LOSS * of_noun[noun]
        if common and noun not in nouns and lost[color] < _COLOR_LOSS * pairs_of_color[color]:
            chosen.add((noun, color))
            nouns.add(noun)
            lost[color] += 1
    return frozenset(chosen)


def _chance(*words: str) -> float:
    """Return a number from 0 to 1 that depends on the words alone."""
    digest = hashlib.blake2b("/".join(("smalti objects", *words)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64
