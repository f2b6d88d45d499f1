"""Scores of edits against known results: what changed, what stayed, and which tokens were selected."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from skimage.color import rgb2lab

from smalti.evaluation.geneval import Detection, is_correct
from smalti.evaluation.suites.scenes.detector import detect
from smalti.evaluation.suites.scenes.edit_pairs import KINDS, EditPair, changed_tokens
from smalti.evaluation.suites.scenes.edit_selections import Edited
from smalti.worlds.scenes.palette import BACKGROUNDS
from smalti.worlds.scenes.scene import SceneObject

NUMBERS = ("success", "kept", "psnr_outside", "iou", "redrawn", "changed", "psnr_unchosen", "tokens_kept")

# Intersection over union of an object's boxes before and after; below it the object has moved.
_LEAST_OVERLAP = 0.6
# PSNR in dB of equal pixels, and the largest that is reported.
_HIGHEST_PSNR = 100.0
# Width, as a fraction of the image's side, of the frame whose median is the background.
_FRAME = 0.02


def score_edit(pair: EditPair, edited: Edited, seen: Sequence[Detection]) -> dict[str, float | None]:
    """Score one edit.

    Args:
        pair: edit with its known result.
        edited: image after the edit.
        seen: detections in the image before the edit.

    Returns:
        success: 1 if the detector finds the objects of the prompt and none that should be gone, else 0.
        kept: fraction of the untouched objects that keep class, colour and place.
        psnr_outside: PSNR in dB against the original over the tokens that do not truly change, at most 100; None
            without any.
        iou: intersection over union of the tokens that were filled again and those that truly change.
        redrawn: fraction of the tokens that were filled again.
        changed: fraction of the tokens that truly change.
        psnr_unchosen: as `psnr_outside`, over the tokens that were not filled again.
        tokens_kept: 1 if these tokens have the same ids as before, else 0.
    """
    size = len(edited.pixels)
    before, after = pair.images(size)
    changed = changed_tokens(before, after, size // len(edited.region))
    found = detect(edited.pixels)
    success = is_correct(pair.asked, found)
    if pair.kind == "background":
        success = success and background_name(edited.pixels) == pair.after.background
    union = (edited.region | changed).sum()
    return {
        "success": float(success),
        "kept": float(np.mean([_is_there(item, seen, found) for item in pair.untouched])),
        "psnr_outside": _psnr(before, edited.pixels, ~changed),
        "iou": float((edited.region & changed).sum() / union) if union else 1.0,
        "redrawn": float(edited.region.mean()),
        "changed": float(changed.mean()),
        "psnr_unchosen": _psnr(before, edited.pixels, ~edited.region),
        "tokens_kept": float(edited.tokens_kept),
    }


def summarize_edits(rows: Iterable[tuple[str, dict[str, float | None]]]) -> dict[str, Any]:
    """Return the mean over the kinds of each number, and the means of each kind under `by_kind`.

    A number that no edit of a kind has is None there, and the mean leaves it out.

    Args:
        rows: kind and numbers (`score_edit`) of each edit.
    """
    rows = list(rows)
    by_kind = {}
    for kind in KINDS:
        scores = [score for name, score in rows if name == kind]
        if scores:
            by_kind[kind] = {number: _mean([score[number] for score in scores]) for number in NUMBERS}
    means = {number: _mean([score[number] for score in by_kind.values()]) for number in NUMBERS}
    return {**means, "by_kind": by_kind}


def background_name(image: np.ndarray) -> str:
    """Return the name of the background: the tint of scenes nearest, in Lab, to the median of the frame."""
    width = max(1, round(_FRAME * min(image.shape[:2])))
    inner = np.zeros(image.shape[:2], dtype=bool)
    inner[width:-width, width:-width] = True
    seen = np.median(image[~inner], axis=0)
    colors = np.array([[*BACKGROUNDS.values(), seen]], dtype=np.float32) / 255
    lab = rgb2lab(colors)[0]
    return list(BACKGROUNDS)[int(((lab[:-1] - lab[-1]) ** 2).sum(axis=-1).argmin())]


def _is_there(item: SceneObject, seen: Sequence[Detection], found: Sequence[Detection]) -> bool:
    """Return whether an object that was detected before is detected again, with class, colour and place."""

    def alike(ones: Sequence[Detection]) -> list[Detection]:
        """Return the detections with the object's class and colour."""
        return [one for one in ones if (one.name, one.color) == (item.shape, item.color)]

    return any(_overlap(old.box, new.box) >= _LEAST_OVERLAP for old in alike(seen) for new in alike(found))


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """Return the intersection over union of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def _psnr(before: np.ndarray, after: np.ndarray, tokens: np.ndarray) -> float | None:
    """Return the PSNR in dB over the pixels of some tokens, (h, w) bool; None without any."""
    side = len(before) // len(tokens)
    pixels = tokens.repeat(side, axis=0).repeat(side, axis=1)
    if not pixels.any():
        return None
    error = (before[pixels].astype(np.float64) - after[pixels]) ** 2
    return (
        _HIGHEST_PSNR if not error.any() else min(_HIGHEST_PSNR, float(10 * np.log10(255**2 / error.mean())))
    )


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are not None, or None without any."""
    known = [value for value in values if value is not None]
    return round(float(np.mean(known)), 4) if known else None
