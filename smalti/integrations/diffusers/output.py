"""What the pipelines return, and the forms of images that diffusers' users ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.utils import BaseOutput
from PIL import Image

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


@dataclass
class SmaltiPipelineOutput(BaseOutput):
    """Images, the tokens that they were decoded from, and their seeds.

    Attributes:
        images: list of PIL images; (B, H, W, 3) float32 array from 0 to 1 for "np"; (B, 3, H, W) tensor for "pt"; the
            tokens for "latent".
        latents: (B, h, w) int64, the tokens.
        seeds: seed of each image.
    """

    images: Any
    latents: torch.Tensor
    seeds: list[int]


def convert(images: Sequence[Image.Image], output_type: str) -> Any:
    """Return PIL images as "pil", "np" or "pt", as in `SmaltiPipelineOutput`."""
    if output_type == "pil":
        return list(images)
    values = np.stack([np.asarray(image.convert("RGB"), dtype=np.float32) / 255 for image in images])
    return values if output_type == "np" else torch.from_numpy(values).permute(0, 3, 1, 2).contiguous()
