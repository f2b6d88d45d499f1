"""CLIP networks of transformers: embeddings of texts and images, and how images become their pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from smalti.evaluation.weights import find_weights, needed_module, readable

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Clip:
    """A CLIP network and its tokenizer.

    Attributes:
        network: transformers' CLIPModel, in evaluation mode.
        tokenizer: tokenizer of the package `tokenizers`, which adds the marks of start and end and cuts long texts.
    """

    network: Any
    tokenizer: Any

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return next(self.network.parameters()).device

    @property
    def size(self) -> int:
        """Side in pixels of the images that the network reads."""
        return int(self.network.config.vision_config.image_size)

    @property
    def scale(self) -> float:
        """Factor of cosines that the network has learned."""
        return float(self.network.logit_scale.detach().exp())

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Return the embedding of each text, (N, D), of length 1."""
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]
        longest = max(map(len, ids))
        # Zeros after the mark of the end: text attends to what is before it.
        batch = torch.tensor([row + [0] * (longest - len(row)) for row in ids], device=self.device)
        pooled = self.network.text_model(input_ids=batch).pooler_output
        return F.normalize(self.network.text_projection(pooled), dim=-1)

    @torch.no_grad()
    def project_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the embedding of each image, (N, D), of any length.

        Args:
            pixels: (N, 3, size, size), as `prepare` returns them.
        """
        pooled = self.network.vision_model(pixel_values=pixels.to(self.device)).pooler_output
        return self.network.visual_projection(pooled)

    def embed_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the embedding of each image, (N, D), of length 1."""
        return F.normalize(self.project_images(pixels), dim=-1)


@cache
def load_clip(option: str, text: str, device: str, example: str) -> Clip:
    """Return a CLIP from a folder or a hub id, in float32.

    Args:
        option: name of the suite's option, for errors.
        text: its value.
        device: device of the network.
        example: a hub id that fits, for errors.

    Raises:
        SmaltiError: there is no such model, or transformers is missing.
    """
    from tokenizers import Tokenizer

    network_class = needed_module("CLIPModel")
    folder = find_weights(option, text, example)
    with readable(option, text):
        network = network_class.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(network.config.text_config.max_position_embeddings)
    return Clip(network.float().eval().to(device), tokenizer)


def prepare(image: Image.Image, size: int) -> torch.Tensor:
    """Return an image as CLIP reads it: its shorter side resized to `size`, its centre cut out, (3, size, size).

    Example:
        >>> tuple(prepare(Image.new("RGB", (64, 48)), 32).shape)
        (3, 32, 32)
    """
    width, height = (int(size * side / min(image.size)) for side in image.size)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return normalize(resized.crop((left, top, left + size, top + size)))


def prepare_whole(image: Image.Image, size: int) -> torch.Tensor:
    """Return an image as HPSv2 reads it: its longer side resized to `size`, zeros around, (3, size, size).

    Pixels are resized after they have become numbers, with antialiasing, as in the published package with
    torchvision 0.17 or later.
    """
    width, height = image.size
    scale = size / max(width, height)
    values = torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1) / 255
    if scale != 1:
        resized = (round(height * scale), round(width * scale))
        values = F.interpolate(values[None], resized, mode="bicubic", antialias=True)[0]
        below, right = size - resized[0], size - resized[1]
        values = F.pad(values, (right // 2, right - right // 2, below // 2, below - below // 2))
    return (values - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def normalize(image: Image.Image) -> torch.Tensor:
    """Return the pixels of an image less CLIP's mean, over its deviation: (3, H, W) float32."""
    values = np.asarray(image, dtype=np.float32) / 255
    normal = (values - np.array(MEAN, dtype=np.float32)) / np.array(STD, dtype=np.float32)
    return torch.from_numpy(normal).permute(2, 0, 1)
