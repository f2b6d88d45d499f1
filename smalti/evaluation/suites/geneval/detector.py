"""The "HF detector": transformers' Mask2Former, with detections at the image's own size as in GenEval's detector.

The score of a detection is the probability of its class times the mean probability inside its mask, as in mmdet. Masks
are resized to the image before they become boxes. The official detector is mmdet's own training of the same network, so
scores are labelled "HF detector".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from smalti.evaluation.suites.geneval.rules import CLASSES, THRESHOLD, Found
from smalti.evaluation.weights import find_weights, needed_module, readable

EXAMPLE = "facebook/mask2former-swin-small-coco-instance"
"""Hub id of a detector of GenEval's 80 classes."""

SHORT_SIDE, LONG_SIDE = 800, 1333
"""Size in pixels to which an image is resized: its shorter side, unless its longer side would exceed the other."""

_MOST_INSTANCES = 100
_MULTIPLE = 32
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Detector:
    """A network that finds the things of an image.

    Attributes:
        network: Mask2Former for universal segmentation, in evaluation mode.
        names: name of each class, by its index.
    """

    network: Any
    names: tuple[str, ...]

    @torch.no_grad()
    def detect(self, image: Image.Image) -> dict[str, list[Found]]:
        """Return the detections of an image in RGB by class, those above `THRESHOLD`."""
        device = next(self.network.parameters()).device
        pixels, resized = prepare(image)
        output = self.network(pixel_values=pixels[None].to(device))
        width, height = image.size
        return instances(
            output.class_queries_logits[0].float(),
            output.masks_queries_logits[0].float(),
            self.names,
            padded=(pixels.shape[1], pixels.shape[2]),
            resized=resized,
            size=(height, width),
        )


@cache
def load_detector(detector: str, device: str) -> Detector:
    """Return a detector from a folder or a hub id.

    Raises:
        SmaltiError: there is no such detector, or transformers is missing.
    """
    network_class = needed_module("Mask2FormerForUniversalSegmentation")
    folder = find_weights("detector", detector, EXAMPLE)
    with readable("detector", detector):
        network = network_class.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    labels = network.config.id2label
    same = len(labels) == len(CLASSES)  # COCO's classes, whose names differ from GenEval's
    names = CLASSES if same else tuple(labels[index] for index in range(len(labels)))
    return Detector(network.eval().to(device), names)


def prepare(image: Image.Image) -> tuple[torch.Tensor, tuple[int, int]]:
    """Return an image as the network reads it, and its (height, width) before padding.

    Returns:
        (3, H, W) float32; H and W are multiples of 32, with zeros at the bottom and on the right.

    Example:
        >>> pixels, size = prepare(Image.new("RGB", (512, 256)))
        >>> tuple(pixels.shape), size
        ((3, 672, 1344), (667, 1333))
    """
    width, height = image.size
    scale = min(LONG_SIDE / max(width, height), SHORT_SIDE / min(width, height))
    resized = (int(height * scale + 0.5), int(width * scale + 0.5))
    values = np.asarray(image.resize((resized[1], resized[0]), Image.Resampling.BILINEAR), dtype=np.float32)
    normal = (values / 255 - np.array(_MEAN, dtype=np.float32)) / np.array(_STD, dtype=np.float32)
    bottom, right = (-resized[0] % _MULTIPLE, -resized[1] % _MULTIPLE)
    return F.pad(torch.from_numpy(normal).permute(2, 0, 1), (0, right, 0, bottom)), resized


def instances(
    class_logits: torch.Tensor,
    mask_logits: torch.Tensor,
    names: tuple[str, ...],
    *,
    padded: tuple[int, int],
    resized: tuple[int, int],
    size: tuple[int, int],
) -> dict[str, list[Found]]:
    """Return the detections above `THRESHOLD` by class, from the network's outputs for one image.

    Args:
        class_logits: (Q, C + 1) float32; the last class is "nothing".
        mask_logits: (Q, h, w) float32, masks of the padded image.
        names: C names of classes.
        padded: (height, width) of the padded image.
        resized: (height, width) of the part of it that shows the image.
        size: (height, width) of the image itself.
    """
    shares = class_logits.softmax(dim=-1)[:, :-1]
    # One query can be several things: the best pairs of a query and a class count.
    best = shares.flatten().topk(min(_MOST_INSTANCES, shares.numel()))
    found: dict[str, list[Found]] = {}
    for share, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        if share <= THRESHOLD:  # the mask can only lower the score
            break
        query, label = divmod(place, shares.shape[1])
        logits = _at_size(mask_logits[query], padded, resized, size)
        mask = logits > 0
        if not mask.any():
            continue
        score = share * float(logits.sigmoid()[mask].mean())
        if score > THRESHOLD:
            found.setdefault(names[label], []).append(Found(_box(mask), score, mask.cpu().numpy()))
    return found


def _at_size(
    logits: torch.Tensor, padded: tuple[int, int], resized: tuple[int, int], size: tuple[int, int]
) -> torch.Tensor:
    """Return the logits of a mask, (h, w), at the size of the image, (H, W)."""
    whole = F.interpolate(logits[None, None], size=padded, mode="bilinear", align_corners=False)
    shown = whole[..., : resized[0], : resized[1]]
    return F.interpolate(shown, size=size, mode="bilinear", align_corners=False)[0, 0]


def _box(mask: torch.Tensor) -> tuple[float, float, float, float]:
    """Return (left, top, right, bottom) of a mask, (H, W) bool, in pixels; right and bottom lie outside."""
    rows, columns = (mask.any(dim=axis).nonzero().flatten().tolist() for axis in (1, 0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
