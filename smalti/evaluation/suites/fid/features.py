"""Features of images for Fréchet distances: FID's Inception with a named resize, or a CLIP."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from smalti.evaluation.clip import load_clip, prepare
from smalti.evaluation.suites.fid.inception import SIDE, load_inception

CLIP_EXAMPLE = "openai/clip-vit-base-patch32"
"""Hub id of clean-fid's CLIP."""

FEATURES = ("inception", "clip")

Extractor = Callable[[Sequence[Image.Image]], torch.Tensor]
"""Function from images in RGB to features, (N, D) float32."""


def clean(image: Image.Image) -> torch.Tensor:
    """Return an image at 299×299 as clean-fid resizes it: bicubic in floating point with antialiasing."""
    values = np.asarray(image, dtype=np.float32)
    bands = [Image.fromarray(np.ascontiguousarray(values[..., band])) for band in range(3)]
    resized = [np.asarray(band.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for band in bands]
    return torch.from_numpy(np.stack(resized)).clamp(0, 255)


def bilinear(image: Image.Image) -> torch.Tensor:
    """Return an image at 299×299 as pytorch-fid resizes it: bilinear without antialiasing."""
    values = torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1)
    return F.interpolate(values[None], (SIDE, SIDE), mode="bilinear", align_corners=False)[0]


def tensorflow(image: Image.Image) -> torch.Tensor:
    """Return an image at 299×299 as torch-fidelity and TensorFlow 1 resize it: bilinear from the upper left corner."""
    values = torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1)
    for axis in (1, 2):
        length = values.shape[axis]
        places = torch.arange(SIDE, dtype=torch.float32) * torch.tensor(length / SIDE, dtype=torch.float32)
        lower = places.long()
        upper = (lower + 1).clamp_max(length - 1)
        share = (places - lower).view((1, -1, 1) if axis == 1 else (1, 1, -1))
        below, above = values.index_select(axis, lower), values.index_select(axis, upper)
        values = below + (above - below) * share
    return values


RESIZES: dict[str, Callable[[Image.Image], torch.Tensor]] = {
    "clean": clean,
    "bilinear": bilinear,
    "tensorflow": tensorflow,
}
"""Every resize by name: a function from an image in RGB to (3, 299, 299) float32 in 0 to 255."""

PACKAGES = {"clean": "clean-fid", "bilinear": "pytorch-fid", "tensorflow": "torch-fidelity"}
"""The package whose resize it is."""


@cache
def find_extractor(features: str, weights: str, resize: str, device: str) -> Extractor:
    """Return a function from images to features.

    Args:
        features: "inception" or "clip".
        weights: safetensors file of FID's Inception, or folder or hub id of a CLIP.
        resize: name in `RESIZES`, for Inception.
        device: device of the network.

    Raises:
        SmaltiError: there are no such weights.
    """
    if features == "clip":
        clip = load_clip("weights", weights, device, CLIP_EXAMPLE)

        def seen(images: Sequence[Image.Image]) -> torch.Tensor:
            return clip.project_images(torch.stack([prepare(one, clip.size) for one in images])).cpu()

        return seen
    network, resized = load_inception(Path(weights)).to(device), RESIZES[resize]

    @torch.no_grad()
    def felt(images: Sequence[Image.Image]) -> torch.Tensor:
        pixels = (torch.stack([resized(one) for one in images]).to(device) - 128) / 128
        return network(pixels).cpu()

    return felt


def weights_hash(path: Path) -> str:
    """Return a hash of a file of weights."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def encode(features: torch.Tensor) -> str:
    """Return features, (D,) float32, as text that is ready for JSON and exact.

    Example:
        >>> decode([encode(torch.tensor([0.1, 2.0]))])
        tensor([[0.1000, 2.0000]])
    """
    return base64.b64encode(features.float().numpy().astype("<f4").tobytes()).decode()


def decode(texts: Sequence[str]) -> torch.Tensor:
    """Return the features, (N, D) float32, that `encode` made texts of."""
    rows = [np.frombuffer(base64.b64decode(text), dtype="<f4") for text in texts]
    return torch.from_numpy(np.stack(rows).astype(np.float32))
