"""ComfyUI's IMAGE and MASK to arrays and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from smalti.common.images import to_rgb
from smalti.errors import SmaltiError


def to_arrays(images: Any, name: str = "image") -> list[np.ndarray]:
    """Return the images of an IMAGE, each (H, W, 3 or 4) uint8.

    Raises:
        SmaltiError: it is no tensor (B, H, W, 3 or 4) of finite numbers.
    """
    known = isinstance(images, torch.Tensor) and images.is_floating_point() and images.ndim == 4
    if not known or images.shape[3] not in (3, 4) or not images.numel():
        raise SmaltiError(
            f"{name} must be an IMAGE, floats (B, H, W, 3 or 4) from 0 to 1, not {_kind(images)}",
            argument=name,
        )
    if not bool(images.isfinite().all()):
        raise SmaltiError(f"{name} must hold finite numbers, not NaN or infinity", argument=name)
    pixels = (images.detach().float().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    return [np.ascontiguousarray(one) for one in pixels.numpy()]


def from_pictures(images: Sequence[Image.Image]) -> torch.Tensor:
    """Return images of one size as an IMAGE, (B, H, W, 3) float32 from 0 to 1; transparent pixels show white."""
    return from_pixels(torch.from_numpy(np.stack([np.array(to_rgb(image)) for image in images])))


def from_pixels(pixels: torch.Tensor) -> torch.Tensor:
    """Return (B, H, W, 3) uint8 as an IMAGE, float32 from 0 to 1."""
    return pixels.float() / 255


def to_masks(mask: Any, count: int, size: tuple[int, int]) -> list[np.ndarray]:
    """Return a mask for each of `count` images of `size` (H, W): bool, True where it is 0.5 or more.

    A mask of another size is scaled to the images, so that thin lines of a larger one stay. One mask serves them all.

    Raises:
        SmaltiError: it is no tensor (B, H, W) or (H, W) of finite numbers, it is empty, or it has another number of
            masks.
    """
    known = isinstance(mask, torch.Tensor) and (mask.is_floating_point() or mask.dtype == torch.bool)
    if not known or mask.ndim not in (2, 3) or not mask.numel():
        raise SmaltiError(
            f"mask must be a MASK, floats (B, H, W) or (H, W) from 0 to 1, not {_kind(mask)}", argument="mask"
        )
    masks = mask.detach().float().cpu().reshape(-1, *mask.shape[-2:])
    check_count("mask", len(masks), count)
    if not bool(masks.isfinite().all()):
        raise SmaltiError("mask must hold finite numbers, not NaN or infinity", argument="mask")
    if masks.shape[1:] != size and bool((masks >= 0.5).any()):
        shrunk = (min(size[0], masks.shape[1]), min(size[1], masks.shape[2]))
        masks = F.adaptive_max_pool2d(masks[:, None], shrunk)
        masks = F.interpolate(masks, size, mode="bilinear", align_corners=False)[:, 0]
    chosen = [np.ascontiguousarray(one) for one in (masks >= 0.5).numpy()]
    if not all(one.any() for one in chosen):
        # LoadImage gives a small empty mask for a file without transparency.
        raise SmaltiError(
            "mask must not be empty: paint where the image is to change, or connect another MASK",
            argument="mask",
        )
    return chosen * (count // len(chosen))


def check_count(name: str, found: int, count: int) -> None:
    """Raise SmaltiError unless an input holds one thing for all images, or one for each."""
    if found not in (1, count):
        allowed = "1 image" if count == 1 else f"1 image or of {count}"
        raise SmaltiError(f"{name} must be of {allowed}, not of {found}", argument=name)


def _kind(value: Any) -> str:
    """Return shape and dtype of a tensor, or the type of something else, for errors."""
    return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, torch.Tensor) else type(value).__name__
