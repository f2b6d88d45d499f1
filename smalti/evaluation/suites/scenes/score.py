"""GenEval's scoring (Ghosh et al., 2023) with the detector of scenes in the place of an object detector.

An image is correct or not. Each entry of `include` must find at least `count` objects of its class, of its colour and
in its position where given. No entry of `exclude` may find as many as `count`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from smalti.errors import SmaltiError
from smalti.evaluation.folder import as_rgb
from smalti.evaluation.suites.scenes.detector import Detection, detect, relations
from smalti.evaluation.suites.scenes.prompts import PAIR_TAGS, TAGS, Prompt, check_prompt

AnyImage = np.ndarray | Image.Image


class SceneRow(NamedTuple):
    """Whether the images of one prompt are correct.

    Attributes:
        tag: GenEval's name of the task.
        held_out: whether the prompt asks for a held-out pair.
        correct: an entry an image.
    """

    tag: str
    held_out: bool
    correct: list[bool]


def is_correct(prompt: Prompt, detections: Sequence[Detection]) -> bool:
    """Return whether the objects of an image, best first, are what the prompt asks for.

    As in GenEval, the `count` best detections of each class decide. All of them must have the colour, and stand in the
    relation to all the objects that they are relative to.
    """
    matched: list[list[Detection]] = []
    for entry in prompt["include"]:
        found = [item for item in detections if item.shape == entry["class"]][: entry["count"]]
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
        sum(item.shape == entry["class"] for item in detections) < entry["count"]
        for entry in prompt.get("exclude", [])
    )


def score_scene(prompt: Prompt, images: Sequence[AnyImage]) -> SceneRow:
    """Return which images of a prompt are correct.

    Args:
        prompt: as in `smalti.evaluation.suites.scenes.prompts`.
        images: PIL images, or uint8 (H, W, 3).

    Raises:
        SmaltiError: the prompt is not one over scenes.
    """
    check_prompt(prompt)
    correct = [is_correct(prompt, detect(np.asarray(as_rgb(image)))) for image in images]
    return SceneRow(prompt["tag"], bool(prompt.get("held_out")), correct)


def summarize_scenes(rows: Iterable[SceneRow]) -> dict[str, Any]:
    """Return the scores of many prompts.

    Returns:
        `single_object`, `two_object`, `counting`, `colors`, `position`, `color_attr`: fraction of each task's images
        that are correct, None where the task has none; `mean`: mean of these; `held_out`: fraction over prompts with
        held-out pairs, or None; `seen`: fraction over the other prompts of the same tasks; `images`: number of images.

    Raises:
        SmaltiError: there are no images.
    """
    results: dict[str, list[bool]] = {tag: [] for tag in TAGS}
    pairs: dict[bool, list[bool]] = {True: [], False: []}
    for row in rows:
        results[row.tag] += row.correct
        if row.tag in PAIR_TAGS:
            pairs[row.held_out] += row.correct
    scores = {tag: _mean(correct) for tag, correct in results.items()}
    known = [score for score in scores.values() if score is not None]
    if not known:
        raise SmaltiError("there are no images to score")
    return {
        **scores,
        "mean": _mean(known),
        "held_out": _mean(pairs[True]),
        "seen": _mean(pairs[False]),
        "images": sum(map(len, results.values())),
    }


def score_images(
    prompts: Sequence[Prompt], images: Iterable[AnyImage | Sequence[AnyImage]]
) -> dict[str, Any]:
    """Return the scores of images of prompts, as `summarize_scenes`.

    Args:
        prompts: as in `smalti.evaluation.suites.scenes.prompts`.
        images: an image, or a list of images, for each prompt; it may be a generator, so that not all are held at once.

    Raises:
        SmaltiError: a prompt is not one over scenes; there is nothing to score, or not an image for each prompt.

    Example:
        >>> from smalti.evaluation.suites.scenes.prompts import ground_truth, scene_prompts
        >>> prompts = scene_prompts(1)
        >>> score_images(prompts, ground_truth(prompts))["mean"]
        1.0
    """
    rest = iter(images)
    rows = []
    for prompt in prompts:
        group = next(rest, None)
        if group is None:
            raise SmaltiError("images must have as many entries as prompts, not fewer")
        rows.append(score_scene(prompt, group if isinstance(group, list | tuple) else [group]))
    if next(rest, None) is not None:
        raise SmaltiError("images must have as many entries as prompts, not more")
    return summarize_scenes(rows)


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None
