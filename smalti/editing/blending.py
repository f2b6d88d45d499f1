"""Bringing what was drawn and the original picture together, so that nothing else loses its sharpness."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from smalti.editing.canvas import Canvas

# Rows of the picture that are held in float at a time.
_ROWS = 256


def blend(
    picture: np.ndarray,
    canvas: Canvas,
    before: np.ndarray,
    after: np.ndarray,
    region: np.ndarray,
    side: int,
) -> np.ndarray:
    """The edited picture: `after` inside the region, the original outside, and no seam between them.

    A decoder that sees the whole grid draws kept tokens a little differently beside new ones: an object's edge on
    another background, for example. So within two tokens of the region, the original is given that difference:

        original + near · (after − before) + seam · (before − original)

    where `near` is 1 within one token of the region and falls to 0 at two, and `seam` falls from 1 to 0 within a
    quarter of a token. Inside the region this is `after`; farther out it is the original, bit for bit.

    Args:
        picture: (H, W, 3) uint8, the original, or (H, W, 4): what is drawn is opaque.
        canvas: where it lies on the model's canvas.
        before, after: (height, width, 3) uint8, the canvas decoded from the tokens before and after.
        region: (height, width) bool, the pixels of the canvas that were drawn anew.
        side: of a token in pixels of the canvas.

    Returns:
        uint8, the shape of `picture`.
    """
    near, seam = falloff(region, side, 2 * side), falloff(region, 0, max(1, side // 4))
    layers = [Image.fromarray(layer) for layer in (before, after, near, seam)]
    result = picture.copy()
    for first in range(0, len(picture), _ROWS):
        rows = slice(first, min(first + _ROWS, len(picture)))
        old, new, close, border = (
            np.asarray(canvas.lift(layer, (rows.start, rows.stop)), dtype=np.float32) for layer in layers
        )
        # Bicubic scaling overshoots.
        close, border = close.clip(0, 1)[..., None], border.clip(0, 1)[..., None]
        original = picture[rows, :, :3].astype(np.float32)
        mixed = original + close * (new - old) + border * (old - original)
        touched = (close > 0) | (border > 0)
        result[rows, :, :3] = np.where(touched, mixed.round().clip(0, 255), original).astype(np.uint8)
        if picture.shape[2] == 4:
            alpha = picture[rows, :, 3:].astype(np.float32)
            result[rows, :, 3:] = (alpha + border * (255 - alpha)).round().astype(np.uint8)
    return result


def redrawn(canvas: Canvas, after: np.ndarray) -> np.ndarray:
    """The picture as it was drawn, without the original: (height, width, 3) uint8 of the canvas → (H, W, 3) uint8."""
    return np.array(canvas.lift(Image.fromarray(after), (0, canvas.size[0])))


def draw_map(picture: np.ndarray, canvas: Canvas, region: np.ndarray, side: int) -> Image.Image:
    """The picture, (H, W, 3) uint8, with the chosen tokens, (h, w) bool, tinted and framed, and the rest paler."""
    pixels = region.repeat(side, axis=0).repeat(side, axis=1)
    inner = torch.from_numpy(~pixels).float()[None, None]
    border = pixels & (F.max_pool2d(inner, 3, stride=1, padding=1)[0, 0].numpy() > 0)
    rows = (0, canvas.size[0])
    share, line = (
        np.asarray(canvas.lift(Image.fromarray(values.astype(np.float32)), rows)).clip(0, 1)[..., None]
        for values in (pixels, border)
    )
    color = np.array((230, 0, 150), dtype=np.float32)
    shown = picture.astype(np.float32)
    tinted = 0.55 * shown + 0.45 * color
    pale = 0.7 * shown + 0.3 * 255
    mixed = pale + share * (tinted - pale)
    return Image.fromarray((mixed + line * (color - mixed)).round().clip(0, 255).astype(np.uint8))


def falloff(region: np.ndarray, full: int, end: int) -> np.ndarray:
    """1 in the region and within `full` pixels of it, falling evenly to 0 at `end`; (H, W) bool → (H, W) float32.

    Distances are the larger of the two along rows and columns.
    """
    reached = torch.from_numpy(region).float()[None, None]
    total = torch.zeros_like(reached)
    for distance in range(end):
        if distance >= full:
            total += reached
        reached = F.max_pool2d(reached, 3, stride=1, padding=1)
    return (total / (end - full))[0, 0].numpy()
