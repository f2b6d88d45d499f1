"""Colours of detected things by CLIP: the thing on grey, cut out by its box, against ten colours in three templates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
from PIL import Image

from smalti.evaluation.clip import Clip, load_clip, prepare
from smalti.evaluation.suites.geneval.rules import COLORS, Found

EXAMPLE = "openai/clip-vit-large-patch14"
"""Hub id of GenEval's CLIP."""

TEMPLATES = (
    "a photo of a {color} {name}",
    "a photo of a {color}-colored {name}",
    "a photo of a {color} object",
)
"""Texts whose mean embedding is a colour."""

BACKGROUND = "#999"
"""Colour around the thing."""


@dataclass(frozen=True)
class ColorReader:
    """A CLIP model that names the colours of things.

    Attributes:
        clip: the model.
        known: embeddings of the colours by the name of a class.
    """

    clip: Clip
    known: dict[str, torch.Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def name(self, image: Image.Image, objects: Sequence[Found], kind: str) -> list[str]:
        """Return the name of each object's colour.

        Args:
            image: image in RGB.
            objects: objects in it.
            kind: name of their class.
        """
        if kind not in self.known:
            self.known[kind] = self._embed_colors(kind)
        crops = torch.stack([prepare(crop(image, item), self.clip.size) for item in objects])
        seen = self.clip.embed_images(crops)
        return [COLORS[index] for index in (seen @ self.known[kind].T).argmax(dim=1).tolist()]

    def _embed_colors(self, kind: str) -> torch.Tensor:
        """Return the normalised embedding of each colour of a class of things, (10, D)."""
        rows = []
        for color in COLORS:
            texts = [template.format(color=color, name=kind) for template in TEMPLATES]
            mean = self.clip.embed_texts(texts).mean(dim=0)
            rows.append(mean / mean.norm())
        return torch.stack(rows)


@cache
def load_colors(clip: str, device: str) -> ColorReader:
    """Return a reader of colours from a folder or a hub id.

    Raises:
        SmaltiError: there is no such model, or transformers is missing.
    """
    return ColorReader(load_clip("clip", clip, device, EXAMPLE))


def crop(image: Image.Image, item: Found) -> Image.Image:
    """Return an object cut out of an image by its box, on grey outside its mask.

    Example:
        >>> import numpy as np
        >>> mask = np.zeros((8, 8), dtype=bool)
        >>> mask[2:4, 2:6] = True
        >>> crop(Image.new("RGB", (8, 8), "red"), Found((2, 2, 6, 4), 0.9, mask)).size
        (4, 2)
    """
    if item.mask is not None:
        blank = Image.new("RGB", image.size, color=BACKGROUND)
        image = Image.composite(image, blank, Image.fromarray(item.mask))
    left, top, right, bottom = map(round, item.box)
    return image.crop((left, top, right, bottom))
