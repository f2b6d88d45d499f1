"""Scoring edits against known truth: what changed, what stayed, and which tokens were chosen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from skimage.color import rgb2lab

from smalti.editing.regions import NothingChosen, random_share
from smalti.evaluation.suites.scenes.detector import Detection, detect
from smalti.evaluation.suites.scenes.edit_pairs import KINDS, EditPair, changed_tokens
from smalti.evaluation.suites.scenes.score import is_correct
from smalti.worlds.scenes.palette import BACKGROUNDS
from smalti.worlds.scenes.scene import SceneObject

if TYPE_CHECKING:
    from smalti.generation.settings import GenerationSettings
    from smalti.pipeline import Pipeline

WAYS = ("automatic", "true_mask", "redraw_all", "random_share")
"""How tokens are chosen: by belief; those that truly change; all; as many as by belief, at random."""

NUMBERS = ("success", "kept", "psnr_outside", "iou", "redrawn", "changed", "psnr_unchosen", "tokens_kept")

_LEAST_OVERLAP = (
    0.6  # of an object's box then and now (intersection over union); below it the object has moved
)
_HIGHEST_PSNR = 100.0  # what counts for pixels that are all equal
_FRAME = 0.02  # of the picture's side: the frame whose median is the background


class Edited(NamedTuple):
    """A picture, (H, W, 3) uint8, which tokens were drawn again, (h, w) bool, and whether the others are as before."""

    pixels: np.ndarray
    region: np.ndarray
    tokens_kept: bool


def edit_by(
    pipeline: Pipeline,
    pair: EditPair,
    settings: GenerationSettings,
    *,
    seed: int,
    size: int = 256,
    ways: Sequence[str] = WAYS,
) -> Iterator[tuple[str, Edited]]:
    """One edit in several ways; "random_share" needs "automatic" before it.

    Args:
        seed: of the filling, and of the random share.
        size: of the pictures in pixels.
    """
    before, after = pair.pictures(size)
    side = pipeline.image_tokenizer.config.downscale
    share = 1.0
    for way in ways:
        if way == "automatic":
            how: dict[str, Any] = {"source_prompt": pair.source_prompt}
        elif way == "true_mask":
            how = _within(changed_tokens(before, after, side))
        elif way == "redraw_all":
            how = {"strength": 1.0}
        else:
            draw = torch.Generator().manual_seed(seed)
            grid = torch.zeros(size // side, size // side)
            how = _within(random_share(grid, share, draw).numpy()) if share else {}
        try:
            if not how:
                raise NothingChosen("as by belief")
            result = pipeline.edit(before, pair.prompt, settings=settings, seed=seed, **how)
        except NothingChosen:
            none = np.zeros((size // side, size // side), dtype=bool)
            edited = Edited(before, none, True)
        else:
            region = result.region
            same = (result.tokens[0] == result.tokens_before) | region
            edited = Edited(np.array(result.image), region.numpy(), bool(same.all()))
        if way == "automatic":
            share = float(edited.region.mean())
        yield way, edited


def truth(pair: EditPair, *, size: int = 256, side: int = 16) -> Edited:
    """What a perfect edit would be, to check the ruler with."""
    before, after = pair.pictures(size)
    return Edited(after, changed_tokens(before, after, side), True)


def score_edit(
    pair: EditPair, edited: Edited, seen: Sequence[Detection], *, size: int = 256
) -> dict[str, float | None]:
    """The numbers of one edit.

    Args:
        seen: what the detector finds in the picture before the edit.

    Returns:
        success: 1 if the detector sees what the prompt asks for, and nothing that should be gone, else 0.
        kept: the share of untouched objects that keep class, colour and place.
        psnr_outside: dB against the original, over the tokens that do not truly change; at most 100; None without any.
        iou: of the tokens drawn again with those that truly change.
        redrawn, changed: the shares of the tokens that were drawn again, and that truly change.
        psnr_unchosen: as `psnr_outside`, over the tokens that were not drawn again.
        tokens_kept: 1 if all of these have the ids that they had, else 0.
    """
    before, after = pair.pictures(size)
    side = size // edited.region.shape[0]
    changed = changed_tokens(before, after, side)
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


def summarize(rows: Iterable[tuple[str, dict[str, float | None]]]) -> dict[str, Any]:
    """Scores of (kind, `score_edit`) → the mean over the kinds of each number, and `by_kind` each kind's own mean.

    A number that no edit of a kind has is None there and left out of the mean.
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
    """The name of the background: of the tints of scenes, the nearest in Lab to the median of the picture's frame."""
    width = max(1, round(_FRAME * min(image.shape[:2])))
    inner = np.zeros(image.shape[:2], dtype=bool)
    inner[width:-width, width:-width] = True
    seen = np.median(image[~inner], axis=0)
    colors = np.array([[*BACKGROUNDS.values(), seen]], dtype=np.float32) / 255
    lab = rgb2lab(colors)[0]
    return list(BACKGROUNDS)[int(((lab[:-1] - lab[-1]) ** 2).sum(axis=-1).argmin())]


def _within(region: np.ndarray) -> dict[str, Any]:
    """The argument of an edit that draws these tokens again."""
    return {"strength": 1.0} if region.all() else {"mask": region}


def _is_there(item: SceneObject, seen: Sequence[Detection], found: Sequence[Detection]) -> bool:
    """Whether an object that was seen before is found again, with its class, colour and place."""

    def alike(ones: Sequence[Detection]) -> list[Detection]:
        return [one for one in ones if (one.shape, one.color) == (item.shape, item.color)]

    return any(_overlap(old.box, new.box) >= _LEAST_OVERLAP for old in alike(seen) for new in alike(found))


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """Intersection over union of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def _psnr(before: np.ndarray, after: np.ndarray, tokens: np.ndarray) -> float | None:
    """PSNR in dB over the pixels of some tokens, (h, w) bool; None without any."""
    side = len(before) // len(tokens)
    pixels = tokens.repeat(side, axis=0).repeat(side, axis=1)
    if not pixels.any():
        return None
    error = (before[pixels].astype(np.float64) - after[pixels]) ** 2
    return (
        _HIGHEST_PSNR if not error.any() else min(_HIGHEST_PSNR, float(10 * np.log10(255**2 / error.mean())))
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(float(np.mean(known)), 4) if known else None
