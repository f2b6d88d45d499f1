"""GenEval's protocol (Ghosh et al., 2023) over the detections of any detector: prompts, verdicts, scores by task.

A prompt is a dict with GenEval's keys `tag`, `include`, `exclude` (counting only) and `prompt`, as in its
`evaluation_metadata.jsonl`. Smalti adds `held_out`: whether the prompt asks for a pair that training never shows.

An image is correct if every entry of `include` matches and no entry of `exclude` does. An entry matches if at least
`count` objects have its class, and its colour and position if it has them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from smalti.common.checks import quoted
from smalti.errors import SmaltiError
from smalti.evaluation.folder import check_text
from smalti.worlds.layout import RELATIONS
from smalti.worlds.tasks import TAGS

PAIR_TAGS = ("colors", "color_attr")
"""Tasks whose prompts name the colour of every object."""

Prompt = dict[str, Any]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Detection:
    """One detected object.

    Attributes:
        name: name of its class.
        color: name of its colour; None without one.
        box: (left, top, right, bottom) in fractions of the image, from 0 to 1.
        score: confidence, up to 1.
    """

    name: str
    color: str | None
    box: Box
    score: float


class Row(NamedTuple):
    """Whether the images of one prompt are correct.

    Attributes:
        tag: GenEval's name of the task.
        held_out: whether the prompt asks for a held-out pair.
        correct: whether each image is correct.
    """

    tag: str
    held_out: bool
    correct: list[bool]


def relations(related: Detection, reference: Detection, threshold: float = 0.1) -> set[str]:
    """Return the relations of `related` to `reference`: some of `RELATIONS`.

    The rule is GenEval's: along an axis, the offset of the centres, less `threshold` of both boxes' sides, must exceed
    half of the offset's length.

    Example:
        >>> cat = Detection("cat", None, (0.6, 0.1, 0.8, 0.3), 1.0)
        >>> relations(cat, Detection("dog", None, (0.1, 0.1, 0.3, 0.3), 1.0))
        {'right of'}
    """
    near, far = np.array(reference.box).reshape(2, 2), np.array(related.box).reshape(2, 2)
    offset = far.mean(axis=0) - near.mean(axis=0)
    slack = threshold * (near[1] - near[0] + far[1] - far[0])
    length = float(np.hypot(*offset))
    if length == 0:
        return set()
    dx, dy = np.sign(offset) * np.maximum(np.abs(offset) - slack, 0) / length
    names = {"left of": dx < -0.5, "right of": dx > 0.5, "above": dy < -0.5, "below": dy > 0.5}
    return {name for name, holds in names.items() if holds}


def is_correct(prompt: Prompt, detections: Sequence[Detection]) -> bool:
    """Return whether the objects detected in an image, best first, are those of the prompt.

    As in GenEval, the `count` best detections of each class count. All of them must have the colour, and the relation
    to every object of their reference.

    Args:
        prompt: prompt in GenEval's format.
        detections: detected objects, the most certain first.
    """
    matched: list[list[Detection]] = []
    for entry in prompt["include"]:
        found = [item for item in detections if item.name == entry["class"]][: entry["count"]]
        if len(found) < entry["count"]:
            return False
        if "color" in entry and any(item.color != entry["color"] for item in found):
            return False
        if "position" in entry:
            relation, reference = entry["position"]
            if any(relation not in relations(item, other) for item in found for other in matched[reference]):
                return False
        matched.append(found)
    return all(
        sum(item.name == entry["class"] for item in detections) < entry["count"]
        for entry in prompt.get("exclude", [])
    )


def summarize(rows: Iterable[Row]) -> dict[str, Any]:
    """Return the scores of many prompts.

    Returns:
        The fraction of correct images of each task by name, None without images. `mean`: mean over tasks. `held_out`:
        fraction over prompts with held-out pairs, or None. `seen`: fraction over the other prompts of the same tasks.
        `images`: number of images.

    Raises:
        SmaltiError: there are no images.
    """
    results: dict[str, list[bool]] = {tag: [] for tag in TAGS}
    pairs: dict[bool, list[bool]] = {True: [], False: []}
    for row in rows:
        results[row.tag] += row.correct
        if row.tag in PAIR_TAGS:
            pairs[row.held_out] += row.correct
    scores = {tag: mean(correct) for tag, correct in results.items()}
    known = [score for score in scores.values() if score is not None]
    if not known:
        raise SmaltiError("rows must not be empty: there are no images to score", argument="rows")
    return {
        **scores,
        "mean": mean(known),
        "held_out": mean(pairs[True]),
        "seen": mean(pairs[False]),
        "images": sum(map(len, results.values())),
    }


def survived(before: Row, after: Row) -> list[bool]:
    """Return, for each image that is correct before a round trip, whether it is correct after it.

    Example:
        >>> survived(Row("counting", False, [True, False, True]), Row("counting", False, [True, True, False]))
        [True, False]
    """
    return [later for earlier, later in zip(before.correct, after.correct, strict=True) if earlier]


def mean(values: Sequence[float]) -> float | None:
    """Return the mean of values, or None without any."""
    return round(sum(values) / len(values), 4) if values else None


def spread(total: int) -> list[int]:
    """Return the number of prompts of each task, as even as possible; the first tasks have one more.

    Example:
        >>> spread(8)
        [2, 2, 1, 1, 1, 1]
    """
    return [total // len(TAGS) + (tag < total % len(TAGS)) for tag in range(len(TAGS))]


def check_prompt(prompt: Any, names: Collection[str] | None, colors: Collection[str]) -> None:
    """Raise SmaltiError, which names the fault, unless a prompt has GenEval's format.

    Args:
        prompt: metadata of a prompt.
        names: classes that a prompt may ask for; None means any text.
        colors: colours that a prompt may ask for.
    """
    check_text(prompt)
    if not _is_one_of(prompt.get("tag"), TAGS):
        raise SmaltiError(f"tag must be one of {list(TAGS)}, not {quoted(prompt.get('tag'))}")
    include, exclude = prompt.get("include"), prompt.get("exclude", [])
    if not isinstance(include, list) or not include or not isinstance(exclude, list):
        raise SmaltiError("include must be a list of at least one object, and exclude, if given, a list")
    for index, entry in enumerate([*include, *exclude]):
        _check_entry(entry, names, colors)
        position = entry.get("position", ["above", 0])
        known = isinstance(position, list) and len(position) == 2 and _is_one_of(position[0], RELATIONS)
        if not known or ("position" in entry and position[1] not in range(min(index, len(include)))):
            raise SmaltiError(
                f"position must be [relation, index of an earlier object] with one of {list(RELATIONS)}, "
                f"not {quoted(position)}"
            )


def _check_entry(entry: Any, names: Collection[str] | None, colors: Collection[str]) -> None:
    """Raise SmaltiError unless class, count and colour of an entry are allowed."""
    if not isinstance(entry, dict) or not isinstance(entry.get("class"), str):
        raise SmaltiError(f"class must be the name of a class, not {quoted(entry)}")
    if names is not None and entry["class"] not in names:
        raise SmaltiError(f"class must be one of {list(names)}, not {quoted(entry['class'])}")
    count = entry.get("count")
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise SmaltiError(f"count must be a positive whole number, not {quoted(count)}")
    if "color" in entry and not _is_one_of(entry["color"], colors):
        raise SmaltiError(f"color must be one of {list(colors)}, not {quoted(entry['color'])}")


def _is_one_of(value: Any, names: Collection[str]) -> bool:
    """Return whether a value of JSON is one of some names; a list cannot be looked up."""
    return isinstance(value, str) and value in names
