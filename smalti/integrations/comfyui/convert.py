"""ComfyUI's IMAGE and MASK to arrays and back; names of arguments as the nodes have them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from smalti.common.checks import quoted
from smalti.common.images import to_rgb
from smalti.errors import SmaltiError


def to_arrays(images: Any, name: str = "image") -> list[np.ndarray]:
    """Return the images of an IMAGE, each (H, W, 3 or 4) uint8.

    Raises:
        SmaltiError: it is no tensor (B, H, W, 3 or 4) of finite numbers.
    """
    known = isinstance(images, torch.Tensor) and images.is_floating_point() and images.ndim == 4
    if not known or images.shape[3] not in (3, 4) or not images.numel():
        found = tuple(images.shape) if isinstance(images, torch.Tensor) else type(images).__name__
        raise SmaltiError(
            f"{name} must be an IMAGE, (B, H, W, 3 or 4) from 0 to 1, not {quoted(found)}", argument=name
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

    A mask of another size is scaled to the images. One mask serves them all.

    Raises:
        SmaltiError: it is no tensor (B, H, W) or (H, W), it is empty, or it has another number of masks.
    """
    known = isinstance(mask, torch.Tensor) and mask.is_floating_point() and mask.ndim in (2, 3)
    if not known or not mask.numel():
        found = tuple(mask.shape) if isinstance(mask, torch.Tensor) else type(mask).__name__
        raise SmaltiError(
            f"mask must be a MASK, (B, H, W) or (H, W) from 0 to 1, not {quoted(found)}", argument="mask"
        )
    masks = mask.detach().float().cpu().reshape(-1, *mask.shape[-2:])
    if len(masks) not in (1, count):
        raise SmaltiError(f"mask must be one or {count}, one an image, not {len(masks)}", argument="mask")
    if masks.shape[1:] != size and bool((masks >= 0.5).any()):
        masks = F.interpolate(masks[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    chosen = [np.ascontiguousarray(one) for one in (masks >= 0.5).numpy()]
    if not all(one.any() for one in chosen):
        # LoadImage gives a small empty mask for a file without transparency.
        raise SmaltiError(
            "mask must not be empty: paint where the image is to change, or connect another MASK",
            argument="mask",
        )
    return chosen * (count // len(chosen))


@contextmanager
def named(**names: str) -> Iterator[None]:
    """Give errors in the block the names that a node's inputs have: `named(num_images_per_prompt="batch_size")`."""
    try:
        yield
    except SmaltiError as error:
        name = names.get(error.argument or "")
        if name is None:
            raise
        raise SmaltiError(error.named(name), argument=name) from error
