"""Detection of things in an image: where they are, what they are, and which colour covers most of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from smalti.errors import SmaltiError
from smalti.evaluation.geneval import Detection
from smalti.evaluation.suites.objects.crops import cut
from smalti.evaluation.suites.objects.instances import find_instances
from smalti.evaluation.suites.objects.networks import STRIDE, Segmenter
from smalti.evaluation.suites.objects.scorer import Scorer
from smalti.worlds.objects.colors import COLOR_NAMES, color_votes

UNKNOWN = ""
"""Name of a thing that has none of the nouns that the scorer claims."""

WORKING_SIDE = 256
"""Shorter side in pixels of the images that are segmented."""

_MULTIPLE = 32  # sides of the segmenter's input are divisible by it
_LEAST_COLOR = 0.3  # smallest share of a thing's inside that gives it its colour


class Thing(NamedTuple):
    """One thing in an image.

    Attributes:
        noun: its noun, or `UNKNOWN`.
        color: the colour of most of it; None without one.
        box: (left, top, right, bottom) in fractions of the image.
        probability: probability of the noun that the classifier finds most likely, claimed or not.
        guess: that noun, or `UNKNOWN` for none.
    """

    noun: str
    color: str | None
    box: tuple[float, float, float, float]
    probability: float
    guess: str


def detect(image: np.ndarray, scorer: Scorer) -> list[Detection]:
    """Return the things with a claimed noun in an image, the most certain first.

    Args:
        image: (H, W, 3) uint8.
        scorer: the trained scorer.

    Raises:
        SmaltiError: the image has another shape or dtype.
    """
    things = [thing for thing in find_things(image, scorer) if thing.noun != UNKNOWN]
    found = [Detection(thing.noun, thing.color, thing.box, thing.probability) for thing in things]
    return sorted(found, key=lambda detection: -detection.score)


@torch.inference_mode()
def find_things(image: np.ndarray, scorer: Scorer) -> list[Thing]:
    """Return all things in an image, also those without a claimed noun.

    Raises:
        SmaltiError: the image has another shape or dtype.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise SmaltiError(f"image must be uint8 (H, W, 3), not {image.dtype} {image.shape}", argument="image")
    pixels = working_pixels(image)
    crops, masks, boxes = cut_things(pixels, scorer.segmenter)
    if not len(crops):
        return []
    shares = scorer.classifier(crops).float().softmax(dim=1)
    shares = (shares + scorer.classifier(crops.flip(3)).float().softmax(dim=1)) / 2
    knowledge = scorer.knowledge
    names = [*knowledge.nouns, UNKNOWN]
    rgb = (pixels.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    scale = np.array([pixels.shape[2], pixels.shape[1]] * 2, dtype=np.float64)
    things = []
    for mask, box, share in zip(masks, boxes, shares, strict=True):
        probability, index = (float(value) for value in share.max(dim=0))
        guess = names[int(index)]
        known = guess in knowledge.claimed and probability >= knowledge.threshold
        left, top, right, bottom = (float(value) for value in box / scale)
        things.append(
            Thing(
                guess if known else UNKNOWN, _color(rgb, mask), (left, top, right, bottom), probability, guess
            )
        )
    return things


def cut_things(pixels: torch.Tensor, segmenter: Segmenter) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Return the crops (n, 4, 40, 40), the masks (n, h, w) from 0 to 1, and the boxes (n, 4) in pixels of things.

    Args:
        pixels: (3, h, w) floats from 0 to 1, as `working_pixels` returns them.
        segmenter: the trained segmenter.
    """
    instances = find_instances(segmenter(pixels[None])[0])
    if not instances.count:
        none = pixels.new_zeros(0, *pixels.shape[1:])
        return cut(pixels, none, np.empty((0, 4))), none, np.empty((0, 4))
    masks, boxes = _masks(instances.owners, instances.covered, pixels.shape[1:])
    return cut(pixels, masks, boxes), masks, boxes


def working_pixels(image: np.ndarray) -> torch.Tensor:
    """Return an image as (3, h, w) floats from 0 to 1 of the working size."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    scale = WORKING_SIDE / min(image.shape[:2])
    sides = [max(_MULTIPLE, round(side * scale / _MULTIPLE) * _MULTIPLE) for side in image.shape[:2]]
    if list(image.shape[:2]) != sides:
        if scale < 0.8:
            pixels = F.interpolate(pixels, sides, mode="bilinear", align_corners=False, antialias=True)
        else:
            pixels = F.interpolate(pixels, sides, mode="bilinear", align_corners=False)
    return pixels[0]


def _masks(owners: np.ndarray, covered: np.ndarray, size: tuple[int, ...]) -> tuple[torch.Tensor, np.ndarray]:
    """Return the masks (n, H, W) from 0 to 1 and the boxes (n, 4) in pixels of things.

    Args:
        owners: (h, w) int64, the thing that covers each cell.
        covered: (h, w) float32, how certain that is.
        size: height and width of the masks.
    """
    shares = torch.from_numpy(covered)
    own = torch.from_numpy(owners)
    masks = []
    for number in range(int(own.max()) + 1):
        inside = (own == number).float()
        # A thing also has the half-covered cells around it, unless another thing has them.
        around = F.max_pool2d(inside[None, None], 3, 1, 1)[0, 0] * ((own == number) | (own < 0))
        masks.append(shares * around)
    soft = F.interpolate(torch.stack(masks)[:, None], size=list(size), mode="bilinear", align_corners=False)
    soft = ((soft - 0.5) * 6 + 0.5).clamp(0, 1)[:, 0]
    boxes = []
    for mask, inside in zip(soft, masks, strict=True):
        rows, columns = (
            np.flatnonzero((mask > 0.5).any(1).numpy()),
            np.flatnonzero((mask > 0.5).any(0).numpy()),
        )
        if not len(rows):  # a thing as thin as its cells
            cells = inside > 0
            rows = np.flatnonzero(cells.any(1).numpy()) * STRIDE
            columns = np.flatnonzero(cells.any(0).numpy()) * STRIDE
        boxes.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    return soft, np.array(boxes, dtype=np.float64)


def _color(rgb: np.ndarray, mask: torch.Tensor) -> str | None:
    """Return the colour of most of a thing's inside, or None where none covers enough."""
    whole = mask.numpy() > 0.5
    # Edges blend with the ground into other colours, so the inside counts where there is enough of it.
    inner = -F.max_pool2d(-torch.from_numpy(whole).float()[None, None], 5, 1, 2)[0, 0].numpy() > 0.5
    inside = inner if inner.sum() >= 0.3 * whole.sum() else whole
    if not inside.any():
        return None
    votes = color_votes(rgb[inside])
    best = int(votes.argmax())
    return COLOR_NAMES[best] if votes[best] >= _LEAST_COLOR else None
