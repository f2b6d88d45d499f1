"""DPG-Bench's images: a PNG file for each prompt, with its images in a square of two by two."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from smalti.errors import SmaltiError
from smalti.evaluation.folder import open_images

GRIDS, SINGLES = "grids", "images"
"""Folders of the benchmark's files and of single images, in a folder that a run draws into."""

MOST_IMAGES = 4


def make_grid(images: Sequence[Image.Image]) -> Image.Image:
    """Return up to four images of one size in a square, row by row; a single image stays as it is.

    Example:
        >>> make_grid([Image.new("RGB", (8, 4))] * 3).size
        (16, 8)
    """
    if len(images) == 1:
        return images[0]
    width, height = images[0].size
    grid = Image.new("RGB", (2 * width, 2 * height))
    for number, image in enumerate(images):
        grid.paste(image, (number % 2 * width, number // 2 * height))
    return grid


def cut_grid(grid: Image.Image, count: int) -> list[Image.Image]:
    """Return the first `count` images of a square; a count of 1 means that the file is one image.

    Raises:
        SmaltiError: the square cannot be cut into four images of one size.
    """
    if count == 1:
        return [grid]
    width, height = grid.size[0] // 2, grid.size[1] // 2
    if grid.size != (2 * width, 2 * height) or not width or not height:
        raise SmaltiError(
            f"images must lie in a square of two by two; {grid.size[0]}×{grid.size[1]} pixels is odd"
        )
    places = [(number % 2 * width, number // 2 * height) for number in range(count)]
    return [grid.crop((left, top, left + width, top + height)) for left, top in places]


def grid_folder(folder: Path) -> Path:
    """Return the folder of the benchmark's files: `grids` of a folder that a run drew into, or the folder itself."""
    return folder / GRIDS if (folder / GRIDS).is_dir() else folder


def read_grid(folder: Path, name: str, count: int) -> list[Image.Image]:
    """Return the images of a prompt.

    Raises:
        SmaltiError: the file is missing, no readable image, or cannot be cut.
    """
    path = grid_folder(folder) / f"{name}.png"
    try:
        return cut_grid(open_images([path])[0], count)
    except SmaltiError as error:
        raise SmaltiError(f"{path}: {error}") from error
