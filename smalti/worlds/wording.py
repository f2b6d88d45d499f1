"""Words that captions of all worlds share: numbers, relations, and how noun phrases are joined.

Metadata is GenEval's: `{"tag": ..., "include": [{"class": "circle", "count": 1, "color": "red", "position":
["left of", 0]}], "exclude": [...]}`. `color` and `position` are optional. `position` names a relation and the index of
the entry that it refers to.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four"}

_RELATION_WORDS = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "above", "over"),
    "below": ("below", "below", "under"),
}

_JOINTS = (" and ", " and ", " and ", " with ")


def join_phrases(
    include: Sequence[dict[str, Any]],
    phrases: Sequence[str],
    random: Random | None = None,
    joints: Sequence[str] = _JOINTS,
) -> str:
    """Return the noun phrases of all entries of `include` in one phrase.

    Args:
        include: GenEval's entries.
        phrases: one noun phrase of each.
        random: source of the wording; the plainest wording without it.
        joints: words between two phrases without a relation; the first is the plainest.

    Example:
        >>> join_phrases([{"class": "cat"}, {"class": "dog", "position": ["above", 0]}], ["a cat", "a dog"])
        'a dog above a cat'
    """
    for entry, phrase in zip(include, phrases, strict=True):
        if "position" in entry:
            relation, reference = entry["position"]
            words = random.choice(_RELATION_WORDS[relation]) if random else relation
            return f"{phrase} {words} {phrases[reference]}"
    if len(phrases) == 1:
        return phrases[0]
    joint = random.choice(joints) if random and len(phrases) == 2 else joints[0]
    return ", ".join(phrases[:-1]) + (joint if len(phrases) == 2 else " and ") + phrases[-1]
