"""Sample grids: several pictures in one."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from smalti.common.files import atomic_path


def make_grid(images: torch.Tensor, columns: int, gap: int = 4) -> Image.Image:
    """(N, 3, H, W) uint8 → one picture with `columns` a row and a white gap between."""
    N, _, H, W = images.shape
    rows = -(-N // columns)
    canvas = torch.full((rows * (H + gap) - gap, columns * (W + gap) - gap, 3), 255, dtype=torch.uint8)
    for index, image in enumerate(images.cpu()):
        top, left = index // columns * (H + gap), index % columns * (W + gap)
        canvas[top : top + H, left : left + W] = image.permute(1, 2, 0)
    return Image.fromarray(canvas.numpy())


def save_grid(images: torch.Tensor, path: Path, columns: int) -> None:
    """Write a grid of pictures (N, 3, H, W) uint8 to `path`."""
    with atomic_path(path) as temporary:
        make_grid(images, columns).save(temporary)
