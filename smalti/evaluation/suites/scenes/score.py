"""GenEval's scoring (Ghosh et al., 2023) with the detector of scenes in place of an object detector.

An image is correct if every entry of `include` matches and no entry of `exclude` does. An entry matches if it finds at
least `count` objects of its class, with its colour and position if it has them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from smalti.common.files import atomic_path, write_text_atomic
from smalti.errors import SmaltiError
from smalti.evaluation.suites.scenes.detector import Detection, detect, relations
from smalti.evaluation.suites.scenes.prompts import (
    PAIR_TAGS,
    TAGS,
    Prompt,
    check_prompt,
    read_prompts,
    shuffle,
)


def is_correct(prompt: Prompt, detections: Sequence[Detection]) -> bool:
    """Return whether the objects detected in an image (best first) are those of the prompt.

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


def score_images(
    prompts: Iterable[Prompt], images: Iterable[np.ndarray | Image.Image | Sequence[np.ndarray | Image.Image]]
) -> dict[str, Any]:
    """Score images against prompts, in step; `images` may be a generator, so that few are in memory.

    Args:
        prompts: as in `smalti.evaluation.suites.scenes.prompts`.
        images: an image, or a list of images, for each prompt: PIL, or uint8 (H, W, 3).

    Returns:
        `single_object`, `two_object`, `counting`, `colors`, `position`, `color_attr`: the fraction of correct images of
        each task (None without images); `mean`: the mean over tasks; `held_out`: the fraction over prompts with
        held-out pairs (or None); `seen`: the fraction over the other prompts of the same tasks; `images`: the number of
        images; `seconds`: the time, including that of making the images.

    Raises:
        SmaltiError: a prompt is not one over scenes, or there is nothing to score, or not an image for each
        prompt.
    """
    started = time.perf_counter()
    results: dict[str, list[bool]] = {tag: [] for tag in TAGS}
    # Results of prompts that name pairs of shape and colour, by whether one of the pairs is held out.
    pairs: dict[bool, list[bool]] = {True: [], False: []}
    # Not zip(strict=True): its error would not be a SmaltiError, and it would hide one raised by a generator of images.
    pictures = iter(images)
    for prompt in prompts:
        check_prompt(prompt)
        group = next(pictures, None)
        if group is None:
            raise SmaltiError("images must have as many entries as prompts, not fewer")
        for image in group if isinstance(group, Sequence) else [group]:
            right = is_correct(prompt, detect(np.asarray(_rgb(image))))
            results[prompt["tag"]].append(right)
            if prompt["tag"] in PAIR_TAGS:
                pairs[bool(prompt.get("held_out"))].append(right)
    if next(pictures, None) is not None:
        raise SmaltiError("images must have as many entries as prompts, not more")
    scores = {tag: _mean(rights) for tag, rights in results.items()}
    known = [score for score in scores.values() if score is not None]
    if not known:
        raise SmaltiError("there are no images to score")
    return {
        **scores,
        "mean": _mean(known),
        "held_out": _mean(pairs[True]),
        "seen": _mean(pairs[False]),
        "images": sum(map(len, results.values())),
        "seconds": round(time.perf_counter() - started, 3),
    }


def write_sample(
    folder: str | Path, index: int, prompt: Prompt, images: Sequence[np.ndarray | Image.Image]
) -> None:
    """Write a prompt's images in GenEval's layout: `00000/metadata.jsonl`, `00000/samples/0000.png`."""
    place = Path(folder) / f"{index:05d}"
    try:
        (place / "samples").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SmaltiError(f"cannot write {place}: {error.strerror or error}") from error
    for number, image in enumerate(images):
        with atomic_path(place / "samples" / f"{number:04d}.png") as path:
            _rgb(image).save(path)
    write_text_atomic(place / "metadata.jsonl", json.dumps(prompt) + "\n")


def score_folder(folder: str | Path, *, shuffle_seed: int | None = None) -> dict[str, Any]:
    """Score images in GenEval's layout, whatever made them.

    Args:
        folder: folder with 00000, 00001, ….
        shuffle_seed: seed to give each prompt another prompt's images, as a check of the scorer; None for its own.

    Raises:
        SmaltiError: the folder is missing or has no prompts, or a prompt has no images or a broken one.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SmaltiError(f"{folder} is not a folder")
    places = sorted(place for place in folder.iterdir() if place.is_dir() and place.name.isdecimal())
    if not places:
        raise SmaltiError(f"{folder} has no folders 00000, 00001, ... with metadata.jsonl and samples/")
    prompts = []
    for place in places:
        if not any((place / "samples").glob("*.png")):
            raise SmaltiError(f"{place / 'samples'} has no .png images")
        prompts.append(read_prompts(place / "metadata.jsonl")[0])
    images = ([_open(path) for path in sorted((place / "samples").glob("*.png"))] for place in places)
    return score_images(prompts if shuffle_seed is None else shuffle(prompts, shuffle_seed), images)


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return _rgb(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise SmaltiError(f"{path} is not a readable image: {error}") from error


def _rgb(image: np.ndarray | Image.Image) -> Image.Image:
    return image.convert("RGB") if isinstance(image, Image.Image) else Image.fromarray(image)


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None
