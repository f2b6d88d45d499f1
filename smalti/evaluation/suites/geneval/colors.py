"""Colours of detected things by CLIP: the thing on grey, cut out by its box, against ten colours in three templates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from smalti.evaluation.suites.geneval.rules import COLORS, Found
from smalti.evaluation.weights import find_weights, needed_module, readable

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

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ColorReader:
    """A CLIP model that names the colours of things.

    Attributes:
        network: transformers' CLIPModel, in evaluation mode.
        tokenizer: tokenizer of the package `tokenizers`, which adds the marks of start and end.
        known: embeddings of the colours by the name of a class.
    """

    network: Any
    tokenizer: Any
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
        size = self.network.config.vision_config.image_size
        crops = torch.stack([prepare(crop(image, item), size) for item in objects])
        pooled = self.network.vision_model(pixel_values=crops.to(self._device)).pooler_output
        seen = F.normalize(self.network.visual_projection(pooled), dim=-1)
        return [COLORS[index] for index in (seen @ self.known[kind].T).argmax(dim=1).tolist()]

    @property
    def _device(self) -> torch.device:
        """Device of the network."""
        return next(self.network.parameters()).device

    def _embed_colors(self, kind: str) -> torch.Tensor:
        """Return the normalised embedding of each colour of a class of things, (10, D)."""
        rows = []
        for color in COLORS:
            texts = [template.format(color=color, name=kind) for template in TEMPLATES]
            ids = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
            longest = max(map(len, ids))
            # Zeros after the mark of the end: text attends to what is before it.
            batch = torch.tensor([row + [0] * (longest - len(row)) for row in ids], device=self._device)
            pooled = self.network.text_model(input_ids=batch).pooler_output
            mean = F.normalize(self.network.text_projection(pooled), dim=-1).mean(dim=0)
            rows.append(mean / mean.norm())
        return torch.stack(rows)


@cache
def load_colors(clip: str, device: str) -> ColorReader:
    """Return a reader of colours from a folder or a hub id.

    Raises:
        SmaltiError: there is no such model, or transformers is missing.
    """
    from tokenizers import Tokenizer

    network_class = needed_module("CLIPModel")
    folder = find_weights("clip", clip, EXAMPLE)
    with readable("clip", clip):
        network = network_class.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    return ColorReader(network.eval().to(device), tokenizer)


def crop(image: Image.Image, item: Found) -> Image.Image:
    """Return an object cut out of an image by its box, on grey outside its mask.

    Example:
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


def prepare(image: Image.Image, size: int) -> torch.Tensor:
    """Return an image as CLIP reads it: its shorter side resized to `size`, its centre cut out, (3, size, size)."""
    width, height = (int(size * side / min(image.size)) for side in image.size)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    values = np.asarray(resized.crop((left, top, left + size, top + size)), dtype=np.float32)
    normal = (values / 255 - np.array(_MEAN, dtype=np.float32)) / np.array(_STD, dtype=np.float32)
    return torch.from_numpy(normal).permute(2, 0, 1)
