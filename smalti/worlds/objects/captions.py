"""Captions of scenes: GenEval's metadata in plain English, in many wordings.

A caption knows a thing by its noun, its name or a kind that it belongs to: "truck", "fire engine", "vehicle". It may
say the style of the image, the ground, and the size of a lone thing.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from smalti.worlds.objects.archive import Sprite
from smalti.worlds.objects.colors import COLOR_NAMES
from smalti.worlds.objects.grounds import Ground
from smalti.worlds.objects.language import countable, noun_phrase, plural, with_article
from smalti.worlds.wording import join_phrases

STYLE_WORDS: dict[str, tuple[str, ...]] = {
    "fluent-3d": ("3D icon", "3D emoji", "glossy 3D icon"),
    "fluent-color": ("shaded icon", "colourful icon", "soft icon"),
    "fluent-flat": ("flat icon", "flat emoji", "flat drawing"),
    "noto": ("emoji", "cartoon emoji", "cartoon"),
    "noto-v1": ("emoji", "old emoji", "round emoji"),
    "twemoji": ("emoji", "flat emoji", "simple emoji"),
    "emojione": ("emoji", "cartoon emoji", "glossy emoji"),
    "fxemoji": ("emoji", "simple drawing", "bold emoji"),
    "streamline": ("outlined icon", "line drawing", "sticker"),
    "clipart": ("clip art picture", "clip art drawing", "drawing"),
    "3d-model": ("3D rendering", "3D model", "realistic 3D rendering"),
}
"""Words for the style of an image. A style that is not here is never named."""

KINDS = {
    "art supply": "art supply",
    "clothing": "piece of clothing",
    "electronics": "electronic device",
    "food": "piece of food",
    "furniture": "piece of furniture",
    "kitchenware": "kitchen utensil",
    "natural thing": "",
    "sports equipment": "piece of sports equipment",
    "stationery": "piece of stationery",
}
"""Kinds of things in words that a number may stand before, where they differ; "" is never said."""

_PLAIN = ("on {} background", "on {} background", "against {} background", "in front of {} background")
_GROUND_WORDS = {
    "grass": ("on grass", "on the grass", "on a green lawn"),
    "sand": ("on sand", "on the sand"),
    "wood": ("on wood", "on a wooden table", "on a wooden floor"),
    "water": ("on water", "in the water"),
    "snow": ("on snow", "in the snow"),
    "brick": ("in front of a brick wall", "against a brick wall"),
    "checker": ("on a checkered background", "on checkered tiles"),
    "paper": ("on paper", "on a sheet of paper"),
    "stone": ("on stone", "on a stone floor"),
    "carpet": ("on a carpet", "on a red carpet"),
}
_LANDSCAPE_WORDS = {
    "grass": ("on grass", "on a meadow", "outdoors on grass"),
    "sand": ("on sand", "on a beach", "in the desert"),
    "water": ("on water", "on the sea", "on a lake"),
    "snow": ("on snow", "in the snow", "outdoors in winter"),
}
_SKY_WORDS = {"blue": "a blue sky", "grey": "a grey sky", "evening": "an evening sky"}

_OPENINGS = ("", "", "", "a photo of ", "a photo of ", "a picture of ", "an image of ")
_JOINTS = (" and ", " and ", " and ", " with ", " next to ", " beside ")

GROUND_SHARE = 0.35
"""Share of the captions that name the ground."""

_STYLE_SHARE = 0.3
_KIND_SHARE, _NAME_SHARE, _SYNONYM_SHARE = 0.05, 0.25, 0.15


def geneval_prompt(metadata: dict[str, Any], names: Sequence[str]) -> str:
    """Return GenEval's wording, such as "a photo of a red apple left of a blue kite".

    Args:
        metadata: GenEval's metadata.
        names: the name of each entry of `include`.
    """
    phrases = [
        noun_phrase(name, entry["count"], entry.get("color", ""))
        for entry, name in zip(metadata["include"], names, strict=True)
    ]
    return "a photo of " + join_phrases(metadata["include"], phrases)


def write_caption(
    metadata: dict[str, Any],
    random: Random,
    names: Sequence[str],
    style: str | None,
    size_word: str,
    place: str,
    in_order: bool = False,
) -> str:
    """Return a caption of a scene, in one of many wordings.

    Args:
        metadata: GenEval's metadata of the scene.
        random: source of the wording.
        names: what to call each entry of `include`.
        style: style of all things; None if they differ.
        size_word: "small" or "large" for a scene's only thing, or "".
        place: words for the ground, or "".
        in_order: whether the caption keeps the order of `include`.
    """
    include = metadata["include"]
    phrases = []
    for entry, name in zip(include, names, strict=True):
        color = entry.get("color", "")
        adjectives = " ".join(word for word in (size_word, color) if word and word not in name.split())
        phrases.append(noun_phrase(name, entry["count"], adjectives))
    related = any("position" in entry for entry in include)
    counted = len(include) == 1 and include[0]["count"] > 1
    if counted and random.random() < 0.25:
        group = f"a group of {phrases[0]}"
        subject = random.choice((f"there are {phrases[0]}", f"there are {phrases[0]}", group))
    else:
        order = list(range(len(include)))
        if not related and not in_order:
            random.shuffle(order)
        subject = join_phrases([include[i] for i in order], [phrases[i] for i in order], random, _JOINTS)
        subject = _opening(random, style, several=sum(entry["count"] for entry in include) > 1) + subject
    return f"{subject} {place}".strip()


def choose_name(
    entry: dict[str, Any],
    sprites: Sequence[Sprite],
    default: str,
    random: Random,
    kinds: Sequence[str],
    synonyms: Sequence[str],
) -> str:
    """Return what a caption calls an entry: mostly its noun, sometimes a name, a synonym or a kind of thing.

    Args:
        entry: GenEval's entry.
        sprites: the sprites that show it.
        default: the noun in words that a number may stand before.
        random: source of the choice.
        kinds: kinds of things that no other entry is of.
        synonyms: other words for the noun.
    """
    name, draw = sprites[0].name, random.random()
    if draw < _KIND_SHARE:
        words = [KINDS.get(kind, kind) for kind in kinds]
        words = [word for word in words if word]
        return random.choice(words) if words else default
    if draw > 1 - _SYNONYM_SHARE and synonyms:
        return random.choice(synonyms)
    if (
        name != entry["class"]
        and draw < _KIND_SHARE + _NAME_SHARE
        and all(sprite.name == name for sprite in sprites)
    ):
        named = {*COLOR_NAMES} & set(name.split())
        measured = {color for sprite in sprites for color in (sprite.color, entry.get("color")) if color}
        # A name that says another colour than what is seen, or cannot be counted, is not used.
        fits = not named or (not sprites[0].recolored and named <= (measured or named))
        if fits and (entry["count"] == 1 or countable(name)):
            return name
    return default


def ground_words(ground: Ground, random: Random) -> str:
    """Return words for a ground, such as "on a blue background" or "on a beach under a grey sky"."""
    if ground.kind in ("plain", "gradient"):
        return random.choice(_PLAIN).format(with_article(ground.name))
    if ground.sky is None:
        return random.choice(_GROUND_WORDS[ground.name])
    words = random.choice(_LANDSCAPE_WORDS[ground.name])
    return f"{words} under {_SKY_WORDS[ground.sky]}" if random.random() < 0.4 else words


def _opening(random: Random, style: str | None, several: bool) -> str:
    """Return the words before a scene's things."""
    if style in STYLE_WORDS and random.random() < _STYLE_SHARE:
        words = random.choice(STYLE_WORDS[style])
        if several and random.random() < 0.5:
            return f"{plural(words)} of "
        return f"{with_article(words)} of "
    return random.choice(_OPENINGS)
