"""Detection of things in an image: where they are, what they are, and which colour covers most of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from smalti.errors import SmaltiError
from smalti.evaluation.geneval import Detection
from smalti.evaluation.suites.objects.crops import cut
from smalti.evaluation.suites.objects.grouping import join_pieces
from smalti.evaluation.suites.objects.instances import find_instances
from smalti.evaluation.suites.objects.networks import FINE, STRIDE
from smalti.evaluation.suites.objects.scorer import Scorer
from smalti.worlds.objects.colors import COLOR_NAMES, color_votes

UNKNOWN = ""
"""Name of what is none of the classifiers' nouns."""

WORKING_SIDE = 256
"""Shorter side in pixels of the images that are segmented."""

_MULTIPLE = 32  # sides of the segmenter's input are divisible by it
_LEAST_COLOR = 0.3  # smallest share of a thing's inside that gives it its colour


class Thing(NamedTuple):
    """One thing in an image.

    Attributes:
        classes: its claimed classes, the most certain first, with their probabilities; none if it is unknown.
        color: the colour of most of it; None without one.
        box: (left, top, right, bottom) in fractions of the image.
        probability: probability of the noun that the classifier finds most likely, claimed or not.
        guess: that noun, or `UNKNOWN` for none.
    """

    classes: dict[str, float]
    color: str | None
    box: tuple[float, float, float, float]
    probability: float
    guess: str


def detect(image: np.ndarray, scorer: Scorer) -> list[Detection]:
    """Return the things of a claimed class in an image, the most certain first.

    As in GenEval, a thing can count as several classes: as each that is likely enough.

    Args:
        image: (H, W, 3) uint8.
        scorer: the trained scorer.

    Raises:
        SmaltiError: the image has another shape or dtype.
    """
    found = [
        Detection(name, thing.color, thing.box, probability)
        for thing in find_things(image, scorer)
        for name, probability in thing.classes.items()
    ]
    return sorted(found, key=lambda detection: -detection.score)


@torch.inference_mode()
def find_things(image: np.ndarray, scorer: Scorer) -> list[Thing]:
    """Return all things in an image, also those of no claimed class.

    Raises:
        SmaltiError: the image has another shape or dtype.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise SmaltiError(f"image must be uint8 (H, W, 3), not {image.dtype} {image.shape}", argument="image")
    pixels = working_pixels(image)
    masks, boxes, shares = name_things(pixels, scorer.segmenter, scorer.classifier)
    names = [*scorer.knowledge.nouns, UNKNOWN]
    rgb = (pixels.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    scale = np.array([pixels.shape[2], pixels.shape[1]] * 2, dtype=np.float64)
    things = []
    for mask, box, share in zip(masks, boxes, shares, strict=True):
        left, top, right, bottom = (float(value) for value in box / scale)
        guess = int(share.argmax())
        things.append(
            Thing(
                scorer.knowledge.classes_of(share),
                _color(rgb, mask),
                (left, top, right, bottom),
                float(share[guess]),
                names[guess],
            )
        )
    return things


def name_things(
    pixels: torch.Tensor, segmenter: nn.Module, classifier: nn.Module
) -> tuple[torch.Tensor, np.ndarray, torch.Tensor]:
    """Return the masks (n, h, w) from 0 to 1 of things, their boxes (n, 4) in pixels, and what they are.

    Args:
        pixels: (3, h, w) floats from 0 to 1, as `working_pixels` returns them.
        segmenter: network with the outputs of a `Segmenter`.
        classifier: network with the outputs of `NounClassifiers`: probabilities of nouns, and of anything else.
    """
    cover, offsets = segmenter(pixels[None])
    instances = find_instances(cover[0], offsets[0])

    def name(pieces: Sequence[np.ndarray]) -> torch.Tensor:
        """Return the probabilities of the nouns for the cells of each piece."""
        masks, boxes = masks_of(pieces, instances.owners, instances.covered, pixels.shape[1:])
        return classifier(cut(pixels, masks, boxes))

    owners, shares = join_pieces(instances.owners, name)
    masks, boxes = masks_of(_pieces(owners), owners, instances.covered, pixels.shape[1:])
    return masks, boxes, shares


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


def _pieces(owners: np.ndarray) -> list[np.ndarray]:
    """Return the cells (h, w) bool of each owner."""
    return [owners == number for number in range(int(owners.max()) + 1)]


def masks_of(
    pieces: Sequence[np.ndarray], owners: np.ndarray, covered: np.ndarray, size: tuple[int, ...]
) -> tuple[torch.Tensor, np.ndarray]:
    """Return the masks (n, H, W) from 0 to 1 and the boxes (n, 4) in pixels of pieces.

    Args:
        pieces: (h, w) bool each, the cells of a piece.
        owners: (h, w) int64, the thing that covers each cell.
        covered: (2h, 2w) float32, how certain that is of cells of half the side.
        size: height and width of the masks.
    """
    shares, free = torch.from_numpy(covered), torch.from_numpy(owners < 0)
    masks = []
    for piece in pieces:
        inside = torch.from_numpy(piece)
        # A thing also has the half-covered cells around it, unless another thing has them.
        around = F.max_pool2d(inside.float()[None, None], 3, 1, 1) * (inside | free)
        masks.append(shares * F.interpolate(around, scale_factor=STRIDE // FINE)[0, 0])
    if not masks:
        return torch.empty(0, *size), np.empty((0, 4))
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
            rows = np.flatnonzero(cells.any(1).numpy()) * FINE
            columns = np.flatnonzero(cells.any(0).numpy()) * FINE
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
