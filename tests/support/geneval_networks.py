"""Stand-ins for GenEval's networks that read composed images without fault: bars, told apart by their shape."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from scipy import ndimage
from torch import nn

from smalti.evaluation import clip
from smalti.evaluation.suites.geneval import detector
from smalti.evaluation.suites.geneval.rules import CLASSES, COLORS

SHAPES = {"bench": (60, 20), "tie": (20, 60), "dog": (36, 36)}
"""(width, height) of each class of things."""

Thing = tuple[str, str, tuple[int, int]]
"""Class, colour, and centre in pixels."""


def compose(*things: Thing, size: tuple[int, int] = (320, 200)) -> Image.Image:
    image = Image.new("RGB", size, "white")
    for name, color, (x, y) in things:
        width, height = SHAPES[name]
        box = (x - width // 2, y - height // 2, x + width // 2 - 1, y + height // 2 - 1)
        ImageDraw.Draw(image).rectangle(box, fill=color)
    return image


class Segmenter(nn.Module):
    """Mask2Former's outputs for composed images: one query a thing, and one query of nothing."""

    def __init__(self, certainty: float = 20.0) -> None:
        super().__init__()
        self.device_of = nn.Parameter(torch.zeros(1))
        self.certainty = certainty

    def forward(self, pixel_values: torch.Tensor) -> Any:
        mean, std = (torch.tensor(value)[:, None, None] for value in (detector._MEAN, detector._STD))
        pixels = pixel_values[0] * std + mean
        # The padding is zero after normalisation, which is no white either.
        empty = (pixels > 0.9).all(dim=0) | (pixel_values[0] == 0).all(dim=0)
        labels, count = ndimage.label(~empty.numpy())
        shapes = [piece for piece in ndimage.find_objects(labels)]
        classes = torch.zeros(count + 1, len(CLASSES) + 1)
        classes[:, -1] = 5.0
        masks = torch.full((count + 1, *pixels.shape[1:]), -10.0)
        for number, (rows, columns) in enumerate(shapes):
            aspect = (columns.stop - columns.start) / (rows.stop - rows.start)
            name = "bench" if aspect > 2 else "tie" if aspect < 0.5 else "dog"
            classes[number, CLASSES.index(name)] = 5 + self.certainty
            masks[number][torch.from_numpy(labels == number + 1)] = 10.0
        quarter = nn.functional.interpolate(masks[None], scale_factor=0.25, mode="bilinear")
        return SimpleNamespace(class_queries_logits=classes[None], masks_queries_logits=quarter)


class Palette(nn.Module):
    """CLIP's outputs: the nearest colour of what is not grey, and the colour that a text names."""

    config = SimpleNamespace(vision_config=SimpleNamespace(image_size=32))

    def __init__(self) -> None:
        super().__init__()
        self.device_of = nn.Parameter(torch.zeros(1))
        self.visual_projection = self.text_projection = nn.Identity()
        blank = [Image.new("RGB", (1, 1), color).getpixel((0, 0)) for color in COLORS]
        self.values = np.array(blank, dtype=float) / 255

    def vision_model(self, pixel_values: torch.Tensor) -> Any:
        mean, std = (np.array(value)[:, None, None] for value in (clip.MEAN, clip.STD))
        rows = []
        for crop in pixel_values.numpy():
            middle = (crop * std + mean)[:, 12:20, 12:20].mean(axis=(1, 2))
            rows.append(np.eye(len(COLORS))[np.abs(self.values - middle).sum(axis=1).argmin()])
        return SimpleNamespace(pooler_output=torch.tensor(np.array(rows), dtype=torch.float32))

    def text_model(self, input_ids: torch.Tensor) -> Any:
        return SimpleNamespace(pooler_output=torch.eye(len(COLORS))[input_ids[:, 0]])


class ColorWords:
    """A tokenizer whose first id is the colour that a text names."""

    def encode_batch(self, texts: list[str]) -> list[Any]:
        named = [next(index for index, color in enumerate(COLORS) if f" {color}" in text) for text in texts]
        return [SimpleNamespace(ids=[index] * (2 + number)) for number, index in enumerate(named)]
