"""Random GenEval metadata for scenes of objects, such that an archive can show it."""

from __future__ import annotations

from random import Random
from typing import Any

from smalti.errors import SmaltiError
from smalti.worlds.layout import RELATIONS
from smalti.worlds.objects.collection import Collection
from smalti.worlds.objects.language import countable
from smalti.worlds.objects.likeness import Likeness
from smalti.worlds.objects.splits import is_held_out_pair
from smalti.worlds.tasks import TRAINING_MIX

# Share of the captions that name colours, by tag, where colours are not the task.
_COLORED_SHARE = {"single_object": 0.0, "two_object": 0.0, "counting": 0.15, "position": 0.25, "mixed": 0.3}
_ONE_STYLE_SHARE = 0.75

_ATTEMPTS, _ENTRY_ATTEMPTS = 60, 8


def sample_metadata(
    tag: str, random: Random, collection: Collection, likeness: Likeness, split: str = "train"
) -> tuple[dict[str, Any], list[str | None]]:
    """Draw GenEval metadata, without `prompt`, of one kind of scene, and the style of each entry.

    Classes of a scene are never alike. Colours of its entries differ, except in "mixed". In "train" no two classes
    are a held-out pair.

    Args:
        tag: a key of `TRAINING_MIX`.
        random: source of every draw.
        collection: sprites that scenes may show.
        likeness: classes that are alike.
        split: "train" or "test".

    Raises:
        SmaltiError: an unknown tag, or a collection that is too small for the tag.
    """
    if tag not in TRAINING_MIX:
        raise SmaltiError(f"tag must be one of {list(TRAINING_MIX)}, not {tag!r}", argument="tag")
    counts = {"single_object": [1], "colors": [1], "counting": [random.randint(2, 4)]}.get(tag, [1, 1])
    if tag == "mixed":
        counts = random.choice(([1, 1, 1], [1, 1, 1, 1], [1, 2], [2, 2], [1, 3]))
    colored = random.random() < _COLORED_SHARE.get(tag, 1)
    for _ in range(_ATTEMPTS):
        one = collection.draw_style(random) if random.random() < _ONE_STYLE_SHARE else None
        include: list[dict[str, Any]] = []
        styles: list[str | None] = []
        for count in counts:
            style = one or collection.draw_style(random)
            entry = _draw_entry(random, collection, likeness, include, style, count, colored, tag, split)
            if entry is None:
                break
            include.append(entry)
            styles.append(style)
        if len(include) == len(counts):
            return _with_task(tag, include, random), styles
    raise SmaltiError(f"{collection.archive.path} has too few sprites for scenes of the kind {tag!r}")


def _draw_entry(
    random: Random,
    collection: Collection,
    likeness: Likeness,
    include: list[dict[str, Any]],
    style: str | None,
    count: int,
    colored: bool,
    tag: str,
    split: str,
) -> dict[str, Any] | None:
    """Return an entry that fits the others, or None after a few attempts."""
    for _ in range(_ENTRY_ATTEMPTS):
        noun = collection.draw_noun(random, style, colored)
        if noun is None:
            return None
        others = [other["class"] for other in include]
        if any(noun == other or likeness.alike(noun, other) for other in others):
            continue
        if split == "train" and any(is_held_out_pair(noun, other) for other in others):
            continue
        if count > 1 and not countable(collection.name_of(noun)):
            continue
        entry: dict[str, Any] = {"class": noun, "count": count}
        if colored:
            color = collection.draw_color(random, noun, style)
            if color is None or (tag != "mixed" and color in [other["color"] for other in include]):
                continue
            entry["color"] = color
        return entry
    return None


def _with_task(tag: str, include: list[dict[str, Any]], random: Random) -> dict[str, Any]:
    metadata: dict[str, Any] = {"tag": tag, "include": include}
    if tag == "counting":
        metadata["exclude"] = [{"class": include[0]["class"], "count": include[0]["count"] + 1}]
    if tag == "position":
        include[1]["position"] = [random.choice(list(RELATIONS)), 0]
    return metadata
