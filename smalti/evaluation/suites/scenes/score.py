"""GenEval's scoring (Ghosh et al., 2023) with the detector of scenes in place of an object detector.

An image is correct if every entry of `include` matches and no entry of `exclude` does. An entry matches if at least
`count` objects have its class, and its colour and position if it has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from smalti.errors import SmaltiError
from smalti.evaluation.folder import as_rgb
from smalti.evaluation.suites.scenes.detector import Detection, detect, relations
from smalti.evaluation.suites.scenes.prompts import PAIR_TAGS, Prompt, check_prompt
from smalti.worlds.tasks import TAGS

AnyImage = np.ndarray | Image.Image


class SceneRow(NamedTuple):
    """Whether the images of one prompt are correct.

    Attributes:
        tag: GenEval's name of the task.
        held_out: whether the prompt asks for a held-out pair.
        correct: whether each image is correct.
    """

    tag: str
    held_out: bool
    correct: list[bool]


def is_correct(prompt: Prompt, detections: Sequence[Detection]) -> bool:
    """Return whether the objects detected in an image, best first, are those of the prompt.

    As in GenEval, the `count` best detections of each class count. All of them must have the colour, and the relation
    to every object of their reference.
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
        prompt: prompt over scenes, as in `smalti.evaluation.suites.scenes.prompts`.
        images: PIL images or uint8 (H, W, 3) arrays.

    Raises:
        SmaltiError: the prompt is not one over scenes.
    """
    check_prompt(prompt)
    correct = [is_correct(prompt, detect(np.asarray(as_rgb(image)))) for image in images]
    return SceneRow(prompt["tag"], bool(prompt.get("held_out")), correct)


def summarize_scenes(rows: Iterable[SceneRow]) -> dict[str, Any]:
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
    scores = {tag: _mean(correct) for tag, correct in results.items()}
    known = [score for score in scores.values() if score is not None]
    if not known:
        raise SmaltiError("rows must not be empty: there are no images to score", argument="rows")
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
        prompts: prompts over scenes, as in `smalti.evaluation.suites.scenes.prompts`.
        images: an image, or a list of images, for each prompt; a generator keeps few in memory.

    Raises:
        SmaltiError: a prompt is not one over scenes; there is nothing to score; a prompt has no image, or an image has
            no prompt.

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
            raise SmaltiError("images must have as many entries as prompts, not fewer", argument="images")
        rows.append(score_scene(prompt, [group] if isinstance(group, np.ndarray | Image.Image) else group))
    if next(rest, None) is not None:
        raise SmaltiError("images must have as many entries as prompts, not more", argument="images")
    return summarize_scenes(rows)


def _mean(values: Sequence[float]) -> float | None:
    """Return the mean of values, or None without any."""
    return round(sum(values) / len(values), 4) if values else None
