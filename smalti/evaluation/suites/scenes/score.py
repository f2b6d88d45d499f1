"""GenEval's scoring with the detector of scenes in place of an object detector."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from smalti.errors import SmaltiError
from smalti.evaluation.folder import as_rgb
from smalti.evaluation.geneval import Prompt, Row, is_correct, summarize
from smalti.evaluation.suites.scenes.detector import detect
from smalti.evaluation.suites.scenes.prompts import check_prompt

AnyImage = np.ndarray | Image.Image


def score_scene(prompt: Prompt, images: Sequence[AnyImage]) -> Row:
    """Return which images of a prompt are correct.

    Args:
        prompt: prompt over scenes, as in `smalti.evaluation.suites.scenes.prompts`.
        images: PIL images or uint8 (H, W, 3) arrays.

    Raises:
        SmaltiError: the prompt is not one over scenes.
    """
    check_prompt(prompt)
    correct = [is_correct(prompt, detect(np.asarray(as_rgb(image)))) for image in images]
    return Row(prompt["tag"], bool(prompt.get("held_out")), correct)


def score_images(
    prompts: Sequence[Prompt], images: Iterable[AnyImage | Sequence[AnyImage]]
) -> dict[str, Any]:
    """Return the scores of images of prompts, as `smalti.evaluation.geneval.summarize`.

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
    return summarize(rows)
