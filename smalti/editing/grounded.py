"""The result of grounding: regions, boxes and an overlay, in the pixels of the image as it was given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from smalti.common.checks import check_real
from smalti.components import Components
from smalti.editing.canvas import Canvas
from smalti.editing.source import WorkingImage, open_source, prepare
from smalti.reading.candidates import Report
from smalti.reading.grounding import PASSES, PhraseMap, check_phrases, ground
from smalti.reading.regions import boxes, region, sharpened

THRESHOLD = 0.5
"""Part of (nearly) the largest value of a map from which a pixel belongs to the phrase."""

_COLORS = ((230, 0, 150), (0, 140, 255), (255, 150, 0), (0, 170, 90), (140, 80, 220), (120, 120, 0))
_TINT = 0.5


@dataclass(frozen=True, eq=False)
class Grounded:
    """A phrase and where it is in an image.

    Attributes:
        phrase: the phrase.
        without: the prompt without it.
        values: map over the tokens, (h, w) float32 from 0 to 1.
        map: the same over the image's pixels, (H, W) float32 from 0 to 1, sharpened along its edges.
        region: pixels of the phrase, (H, W) bool.
        boxes: (left, top, right, bottom) around each connected part, the largest first; the last two are exclusive.
    """

    phrase: str
    without: str
    values: np.ndarray
    map: np.ndarray
    region: np.ndarray
    boxes: list[tuple[int, int, int, int]]

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold: phrase, boxes, share of the pixels, and the map over the tokens."""
        return {
            "phrase": self.phrase,
            "without": self.without,
            "boxes": [list(box) for box in self.boxes],
            "share": round(float(self.region.mean()), 4),
            "map": [[round(float(value), 4) for value in row] for row in self.values],
        }


@dataclass(frozen=True, eq=False)
class GroundResult:
    """Phrases found in an image.

    Attributes:
        picture: pixels of the image, (H, W, 3) uint8.
        prompt: prompt of the image.
        phrases: what was found for each phrase.
    """

    picture: np.ndarray
    prompt: str
    phrases: list[Grounded]

    def overlay(self) -> Image.Image:
        """Return the image with each region tinted and each box drawn, a colour a phrase."""
        pixels = 0.75 * self.picture.astype(np.float32) + 0.25 * 255
        for number, found in enumerate(self.phrases):
            color = np.array(_COLORS[number % len(_COLORS)], dtype=np.float32)
            share = _TINT * found.region[..., None]
            pixels = pixels + share * (color - pixels)
        image = Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))
        draw, line = ImageDraw.Draw(image), max(1, min(image.size) // 128)
        for number, found in enumerate(self.phrases):
            for left, top, right, bottom in found.boxes:
                draw.rectangle(
                    (left, top, right - 1, bottom - 1), outline=_COLORS[number % len(_COLORS)], width=line
                )
        return image


def find_phrases(
    components: Components,
    image: Any,
    phrases: Sequence[str],
    size: tuple[int, int],
    *,
    prompt: str | None = None,
    by: str = "likelihood",
    threshold: float = THRESHOLD,
    masks: int = PASSES,
    seed: int = 0,
    report: Report | None = None,
) -> GroundResult:
    """Find where in an image the things are that phrases of its prompt name.

    Args:
        components: the model.
        image: image as for `smalti.editing.source.open_source`.
        phrases: parts of the prompt.
        size: (height, width) in pixels of the canvas of an image that has none.
        prompt: what the image shows; None is the prompt that it was made with.
        threshold: part of (nearly) the largest value of a map from which a pixel belongs to the phrase.
        by, masks, seed, report: as for `smalti.reading.grounding.ground`.

    Raises:
        SmaltiError: an argument that is wrong, by name.
    """
    check_real("threshold", threshold, 0, 1)
    source = open_source(components, image, size, reuse=True)
    text = source.described(prompt)
    check_phrases(text, phrases)
    work = prepare(components, source, None)
    maps = ground(components, work.tokens, text, phrases, by=by, masks=masks, seed=seed, report=report)
    return locate(work, maps, text, threshold)


def locate(work: WorkingImage, maps: list[PhraseMap], prompt: str, threshold: float) -> GroundResult:
    """Return where phrases are in an image, from their maps over its tokens.

    Args:
        work: the image, with its canvas.
        maps: maps over the tokens of the canvas.
        prompt: prompt of the image.
        threshold: part of (nearly) the largest value from which a pixel belongs to the phrase.
    """
    shown = work.picture.shown
    pixels = torch.from_numpy(work.canvas.put(shown)).permute(2, 0, 1)
    found = []
    for one in maps:
        values = lifted(work.canvas, sharpened(one.values, pixels))
        chosen = region(torch.from_numpy(values), threshold)
        found.append(
            Grounded(one.phrase, one.without, one.values.numpy(), values, chosen.numpy(), boxes(chosen))
        )
    return GroundResult(shown, prompt, found)


def lifted(canvas: Canvas, values: torch.Tensor) -> np.ndarray:
    """Return a map over the canvas as one over the image, (H, W) float32."""
    whole = canvas.lift(Image.fromarray(values.numpy()), (0, canvas.size[0]))
    return np.asarray(whole, dtype=np.float32).clip(0, 1)
