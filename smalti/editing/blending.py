"""Blending of decoded and original pixels, so that the image stays sharp outside the edit."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from smalti.editing.canvas import Canvas

# Number of image rows that are in memory as float at a time.
_ROWS = 256


def blend(
    picture: np.ndarray,
    canvas: Canvas,
    before: np.ndarray,
    after: np.ndarray,
    region: np.ndarray,
    side: int,
) -> np.ndarray:
    """Return the edited image: `after` inside the region, the original outside, and no seam between them.

    The decoder sees the whole grid. It decodes unchanged tokens a little differently beside new ones, such as an
    object's edge on another background. The original takes over that difference within two tokens of the region:

        original + near · (after − before) + seam · (before − original)

    `near` is 1 within one token of the region and falls to 0 at two. `seam` falls from 1 to 0 within a quarter of a
    token. Inside the region the result is `after`. Farther out it is the original, bit for bit.

    Args:
        picture: the original, (H, W, 3) or (H, W, 4) uint8; the region becomes opaque.
        canvas: place of the image on the model's canvas.
        before: canvas decoded from the tokens before the edit, (height, width, 3) uint8.
        after: canvas decoded from the tokens after the edit, (height, width, 3) uint8.
        region: pixels of the canvas whose tokens were filled again, (height, width) bool.
        side: side of a token in pixels of the canvas.

    Returns:
        The edited image, uint8, of the shape of `picture`.
    """
    near, seam = falloff(region, side, 2 * side), falloff(region, 0, max(1, side // 4))
    layers = [Image.fromarray(layer) for layer in (before, after, near, seam)]
    result = picture.copy()
    for first in range(0, len(picture), _ROWS):
        rows = slice(first, min(first + _ROWS, len(picture)))
        old, new, close, border = (
            np.asarray(canvas.lift(layer, (rows.start, rows.stop)), dtype=np.float32) for layer in layers
        )
        # Bicubic scaling overshoots the range from 0 to 1.
        close, border = close.clip(0, 1)[..., None], border.clip(0, 1)[..., None]
        original = picture[rows, :, :3].astype(np.float32)
        mixed = original + close * (new - old) + border * (old - original)
        touched = (close > 0) | (border > 0)
        result[rows, :, :3] = np.where(touched, mixed.round().clip(0, 255), original).astype(np.uint8)
        if picture.shape[2] == 4:
            alpha = picture[rows, :, 3:].astype(np.float32)
            result[rows, :, 3:] = (alpha + border * (255 - alpha)).round().astype(np.uint8)
    return result


def paste(picture: np.ndarray, canvas: Canvas, after: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Return the edited image without a blend: `after` inside the region, the original outside, bit for bit.

    The arguments and the result are those of `blend`. A pixel of the image belongs to the region if its middle does.
    """
    result = picture.copy()
    (H, W), (top, left, height, width) = canvas.size, canvas.place
    rows = top + (2 * np.arange(H) + 1) * height // (2 * H)
    columns = left + (2 * np.arange(W) + 1) * width // (2 * W)
    inside = region[np.ix_(rows, columns)]
    result[..., :3] = np.where(inside[..., None], redrawn(canvas, after), picture[..., :3])
    if picture.shape[2] == 4:
        result[..., 3][inside] = 255
    return result


def redrawn(canvas: Canvas, after: np.ndarray) -> np.ndarray:
    """Return the decoded image without the original's pixels: canvas (height, width, 3) → (H, W, 3), uint8."""
    return np.array(canvas.lift(Image.fromarray(after), (0, canvas.size[0])))


def draw_map(picture: np.ndarray, canvas: Canvas, region: np.ndarray, side: int) -> Image.Image:
    """Return an image with its selected tokens tinted and framed, and the rest paler.

    Args:
        picture: the image, (H, W, 3) uint8.
        canvas: place of the image on the model's canvas.
        region: selected tokens, (h, w) bool.
        side: side of a token in pixels of the canvas.

    Returns:
        An RGB image of W × H pixels.
    """
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
    """Return weights that are 1 in the region and within `full` pixels of it and fall linearly to 0 at `end`.

    The distance between two pixels is the larger of their distances along rows and columns.

    Args:
        region: (H, W) bool.
        full: distance in pixels up to which weights are 1.
        end: distance in pixels from which weights are 0.

    Returns:
        (H, W) float32.
    """
    reached = torch.from_numpy(region).float()[None, None]
    total = torch.zeros_like(reached)
    for distance in range(end):
        if distance >= full:
            total += reached
        reached = F.max_pool2d(reached, 3, stride=1, padding=1)
    return (total / (end - full))[0, 0].numpy()
