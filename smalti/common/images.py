"""Images as files: PNG with text metadata, sample grids, the unmasking as an animated GIF."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, PngImagePlugin

from smalti.common.files import atomic_path

# A position that is still unknown is a blank tile: two dark greys in turn, with a darker joint around it.
_TILES = ((94, 98, 106), (86, 90, 98))
_JOINT = (70, 73, 80)
_FRAME_MILLISECONDS = 120
_LAST_FRAME_MILLISECONDS = 2000


def to_pil(pixels: np.ndarray) -> Image.Image:
    """(H, W, 3) uint8 → picture."""
    return Image.fromarray(np.ascontiguousarray(pixels))


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB; what is transparent shows white."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Sixteen bits a pixel: Pillow's own conversion would cut off instead of scaling.
        return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layered = image.convert("RGBA")
    white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, layered).convert("RGB")


def save_png(image: Image.Image, path: str | Path, text: Mapping[str, str] | None = None) -> None:
    """Write a PNG with text metadata, whole or not at all.

    Raises:
        SmaltiError: it cannot be written; a file that was there before stays as it was.
    """
    info = PngImagePlugin.PngInfo()
    for key, value in (text or {}).items():
        info.add_text(key, value)
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=info)


def save_gif(frames: Sequence[Image.Image], path: str | Path) -> None:
    """Write frames as a GIF that loops and rests at its last frame, whole or not at all.

    Raises:
        SmaltiError: it cannot be written; a file that was there before stays as it was.
    """
    # Dithering would flicker from frame to frame.
    first, *rest = [frame.quantize(256, dither=Image.Dither.NONE) for frame in frames]
    durations = [_FRAME_MILLISECONDS] * len(rest) + [_LAST_FRAME_MILLISECONDS]
    with atomic_path(path) as temporary:
        first.save(
            temporary, format="GIF", save_all=True, append_images=rest, duration=durations, loop=0, disposal=1
        )


def paint_unknown(pixels: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """Lay blank tiles over the positions that are not known yet.

    Args:
        pixels: (H, W, 3) uint8.
        unknown: (h, w) bool; H and W are multiples of h and w.

    Returns:
        A new (H, W, 3) uint8.
    """
    height, width = unknown.shape
    rows, columns = pixels.shape[0] // height, pixels.shape[1] // width
    parity = np.add.outer(np.arange(height), np.arange(width)) % 2
    tiles = np.array(_TILES, dtype=np.uint8)[parity].repeat(rows, axis=0).repeat(columns, axis=1)
    if min(rows, columns) >= 8:
        tiles[::rows] = tiles[:, ::columns] = _JOINT
    covered = unknown.repeat(rows, axis=0).repeat(columns, axis=1)
    return np.where(covered[..., None], tiles, pixels)


def make_grid(images: torch.Tensor, columns: int, gap: int = 4) -> Image.Image:
    """Return images side by side: (N, 3, H, W) uint8, `columns` a row, with a white gap in pixels between them."""
    N, _, H, W = images.shape
    rows = -(-N // columns)
    canvas = torch.full((rows * (H + gap) - gap, columns * (W + gap) - gap, 3), 255, dtype=torch.uint8)
    for index, image in enumerate(images.cpu()):
        top, left = index // columns * (H + gap), index % columns * (W + gap)
        canvas[top : top + H, left : left + W] = image.permute(1, 2, 0)
    return Image.fromarray(canvas.numpy())


def save_grid(images: torch.Tensor, path: str | Path, columns: int) -> None:
    """Write a grid of images (N, 3, H, W) uint8, whole or not at all.

    Raises:
        SmaltiError: it cannot be written; a file that was there before stays as it was.
    """
    with atomic_path(path) as temporary:
        make_grid(images, columns).save(temporary)
