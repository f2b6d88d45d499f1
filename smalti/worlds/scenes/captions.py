"""Captions of scenes: GenEval's metadata in plain English, in several wordings.

`smalti.worlds.wording` describes the metadata.
"""

from __future__ import annotations

from random import Random
from typing import Any

from smalti.worlds.wording import NUMBERS, join_phrases

_OPENINGS = ("", "", "", "a photo of ", "a photo of ", "a picture of ")

_PLURALS = {"fish": "fish", "leaf": "leaves"}

_BACKGROUND_SHARE = 0.25


def plural(shape: str) -> str:
    """Return the plural of a shape's name.

    Example:
        >>> plural("cross"), plural("leaf")
        ('crosses', 'leaves')
    """
    if shape in _PLURALS:
        return _PLURALS[shape]
    return shape + ("es" if shape.endswith("s") else "s")


def noun_phrase(entry: dict[str, Any], size_word: str = "") -> str:
    """Return one entry of `include` in words: "a red circle", "an arrow", "three large squares"."""
    shape, count, color = entry["class"], entry["count"], entry.get("color", "")
    if entry.get("right_color"):
        color = f"{color} and {entry['right_color']}"
    words = " ".join(word for word in (size_word, color) if word)
    words = f"{words} {shape if count == 1 else plural(shape)}".strip()
    if count > 1:
        return f"{NUMBERS[count]} {words}"
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def geneval_prompt(metadata: dict[str, Any]) -> str:
    """Return GenEval's wording: "a photo of a red circle left of a blue square"."""
    return "a photo of " + join_phrases(
        metadata["include"], [noun_phrase(entry) for entry in metadata["include"]]
    )


def write_caption(
    metadata: dict[str, Any], random: Random, *, background: str | None = None, size_word: str = ""
) -> str:
    """Return a caption of a scene, in one of several wordings.

    Args:
        metadata: GenEval's metadata of the scene.
        random: source of the wording.
        background: name of the background, mentioned in about a quarter of the captions; None is never mentioned.
        size_word: "small" or "large" for a scene's only object, or "".
    """
    phrases = [noun_phrase(entry, size_word) for entry in metadata["include"]]
    related = any("position" in entry for entry in metadata["include"])
    if not related and len(phrases) == 1 and metadata["include"][0]["count"] > 1 and random.random() < 0.2:
        subject = f"there are {phrases[0]}"
    else:
        if not related:
            random.shuffle(phrases)
        subject = random.choice(_OPENINGS) + join_phrases(metadata["include"], phrases, random)
    if background is not None and random.random() < _BACKGROUND_SHARE:
        subject += f" on a {background} background"
    return subject
