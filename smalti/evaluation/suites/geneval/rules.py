"""GenEval's verdict on one image from detections in pixels, and its summary, as the official scripts compute them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from smalti.evaluation.geneval import Prompt

THRESHOLD = 0.3
"""Least confidence of a detection."""

COUNTING_THRESHOLD = 0.9
"""Least confidence of a detection for the prompts of the task `counting`."""

MOST_OBJECTS = 16
"""Most detections of a class; overlapping ones all count."""

POSITION_MARGIN = 0.1
"""Share of both boxes' sides that is taken off the offset of their centres."""

# fmt: off
CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "computer mouse", "tv remote", "computer keyboard", "cell phone", "microwave", "oven", "toaster",
    "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)
# fmt: on
"""GenEval's names of COCO's 80 classes, in COCO's order."""

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
"""Colours of GenEval's prompts, in its order."""

_LEAST_OFFSET = 1e-3  # pixels


class Found(NamedTuple):
    """One detected object.

    Attributes:
        box: (left, top, right, bottom) in pixels.
        score: confidence, up to 1.
        mask: its pixels, (H, W) bool; None without a mask.
    """

    box: tuple[float, float, float, float]
    score: float
    mask: np.ndarray | None = None


class Verdict(NamedTuple):
    """Whether an image shows its prompt.

    Attributes:
        correct: whether it does.
        reasons: what is missing or too much; empty for a correct image.
    """

    correct: bool
    reasons: list[str]


def keep(found: Mapping[str, Sequence[Found]], tag: str) -> dict[str, list[Found]]:
    """Return the detections that count for a task, the most certain first; classes without any are left out.

    Args:
        found: detections of each class.
        tag: GenEval's name of the task.

    Example:
        >>> sure, unsure = Found((0, 0, 9, 9), 0.95), Found((0, 0, 9, 9), 0.5)
        >>> len(keep({"cat": [unsure, sure]}, "counting")["cat"]), len(keep({"cat": [unsure, sure]}, "colors")["cat"])
        (1, 2)
    """
    threshold = COUNTING_THRESHOLD if tag == "counting" else THRESHOLD
    kept = {}
    for name, objects in found.items():
        # The same call as in the official script, so that equal scores have the same order.
        order = np.argsort(np.array([item.score for item in objects]))[::-1]
        best = [objects[index] for index in order if objects[index].score > threshold][:MOST_OBJECTS]
        if best:
            kept[name] = best
    return kept


def relative_position(related: Found, reference: Found) -> set[str]:
    """Return the relations of an object to another: "left of", "right of", "above", "below".

    The offset of the centres, less `POSITION_MARGIN` of both boxes' sides, must exceed half of the offset's length.
    """
    boxes = np.array([related.box, reference.box], dtype=float).reshape(2, 2, 2)
    first, second = boxes.mean(axis=1)
    sides = np.abs(boxes[:, 1] - boxes[:, 0]).sum(axis=0)
    offset = first - second
    revised = np.maximum(np.abs(offset) - POSITION_MARGIN * sides, 0) * np.sign(offset)
    if (np.abs(revised) < _LEAST_OFFSET).all():
        return set()
    dx, dy = revised / np.linalg.norm(offset)
    names = {"left of": dx < -0.5, "right of": dx > 0.5, "above": dy < -0.5, "below": dy > 0.5}
    return {name for name, holds in names.items() if holds}


def judge(
    prompt: Prompt,
    kept: Mapping[str, Sequence[Found]],
    colors: Callable[[Sequence[Found], str], Sequence[str]],
) -> Verdict:
    """Return whether an image shows a prompt.

    Args:
        prompt: prompt in GenEval's format.
        kept: result of `keep`.
        colors: function from objects and the name of their class to the name of each object's colour.

    Example:
        >>> prompt = {"include": [{"class": "cat", "count": 2}]}
        >>> judge(prompt, {"cat": [Found((0, 0, 9, 9), 0.9)]}, lambda objects, name: [])
        Verdict(correct=False, reasons=['expected cat>=2, found 1'])
    """
    reasons: list[str] = []
    groups: list[Sequence[Found] | None] = []
    for entry in prompt["include"]:
        objects = kept.get(entry["class"], [])[: entry["count"]]
        faults = _faults(entry, objects, groups, colors)
        reasons += faults
        groups.append(None if faults else objects)
    for entry in prompt.get("exclude", []):
        number = len(kept.get(entry["class"], []))
        if number >= entry["count"]:
            reasons.append(f"expected {entry['class']}<{entry['count']}, found {number}")
    return Verdict(not reasons, reasons)


def _faults(
    entry: dict[str, Any],
    objects: Sequence[Found],
    groups: Sequence[Sequence[Found] | None],
    colors: Callable[[Sequence[Found], str], Sequence[str]],
) -> list[str]:
    """Return why an entry of `include` does not match the best objects of its class; empty if it does."""
    name, count = entry["class"], entry["count"]
    if len(objects) < count:
        return [f"expected {name}>={count}, found {len(objects)}"]
    if "color" in entry:
        seen = list(colors(objects, name))
        if seen.count(entry["color"]) < count:
            return [f"expected {entry['color']} {name}>={count}, found {', '.join(seen)}"]
    if "position" in entry:
        relation, target = entry["position"]
        others = groups[target]
        if others is None:
            return [f"no target for {name} to be {relation}"]
        for item in objects:
            for other in others:
                relations = relative_position(item, other)
                if relation not in relations:
                    return [
                        f"expected {name} {relation} target, found {' and '.join(sorted(relations)) or 'neither'}"
                    ]
    return []


def summarize(rows: Iterable[tuple[str, str, Sequence[bool]]]) -> dict[str, Any]:
    """Return the official summary.

    Args:
        rows: task, key of the prompt, and whether each image is correct. Rows with the same key are one prompt.

    Returns:
        The share of correct images of each task that occurs, in the order of the rows. `mean`: mean over these tasks.
        `correct_images` and `correct_prompts`: share of correct images, and of prompts with at least one. `images`
        and `prompts`: their numbers.
    """
    tasks: dict[str, list[bool]] = {}
    prompts: dict[str, bool] = {}
    for tag, key, correct in rows:
        tasks.setdefault(tag, []).extend(correct)
        prompts[key] = prompts.get(key, False) or any(correct)
    shares = {tag: sum(correct) / len(correct) for tag, correct in tasks.items()}
    images = sum(map(len, tasks.values()))
    return {
        **shares,
        "mean": sum(shares.values()) / len(shares),
        "correct_images": sum(map(sum, tasks.values())) / images,
        "correct_prompts": sum(prompts.values()) / len(prompts),
        "images": images,
        "prompts": len(prompts),
    }
