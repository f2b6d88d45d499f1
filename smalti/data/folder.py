"""Your own images from a folder, with captions beside them.

A caption is a text file (`cat.png` and `cat.txt`), or a line of a `metadata.jsonl`, as in Hugging Face's ImageFolder.
The line has a `file_name`, relative to the folder of the `metadata.jsonl`, and a `text`. Subfolders are read, hidden
files are not.
"""

from __future__ import annotations

import json
import logging
import operator
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image

from smalti.common.checks import check_choice
from smalti.common.images import to_rgb
from smalti.common.opening import UnreadableImageError, check_header, open_image, readable
from smalti.errors import SmaltiError

logger = logging.getLogger(__name__)

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
METADATA = "metadata.jsonl"
CROPS = ("center", "random")


class ImageFolder:
    """Captioned images of a folder in the order of their paths, resized and cropped.

    A file that is no readable image gets one warning and is skipped. A broken header is found when the folder is
    opened. Other damage is found when the image is read; the next readable image then takes its place.

    Args:
        path: the folder.
        size: side in pixels, or (height, width). Images are scaled until they cover it and then cropped.
        crop: part that is kept, "center" or "random". A random crop depends on `seed` and the index.
        seed: seed of random crops.

    Raises:
        SmaltiError: the folder is missing or has no readable image; an image has no caption; a line of
            `metadata.jsonl` is malformed; an argument is wrong.

    Example:
        >>> images = ImageFolder("my-images", 256)  # doctest: +SKIP
        >>> images[0]["caption"]  # doctest: +SKIP
        'a cat on a sofa'
    """

    def __init__(
        self, path: str | Path, size: int | tuple[int, int], *, crop: str = "center", seed: int = 0
    ) -> None:
        self.path = Path(os.path.normpath(path))
        self.size = size if isinstance(size, tuple) else (size, size)
        if any(not isinstance(side, int) or isinstance(side, bool) or side < 1 for side in self.size):
            raise SmaltiError(
                f"size must be a positive whole number of pixels, or two, not {size!r}", argument="size"
            )
        check_choice("crop", crop, CROPS)
        if not self.path.is_dir():
            raise SmaltiError(f"{self.path} is not a folder")
        self._random_crop, self._seed = crop == "random", seed
        self.samples = [item for item in _scan(self.path) if _has_image_header(item[0])]
        self._broken: set[int] = set()
        if not self.samples:
            raise SmaltiError(f"{self.path} has no readable image ({', '.join(sorted(SUFFIXES))})")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.samples)

    @property
    def length(self) -> int:
        """Return the number of images: a folder is a finite source."""
        return len(self.samples)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield each image once."""
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return `{"image": uint8 (3, H, W) tensor, "caption": str}`.

        An index beyond the last image starts again at the first one, with other random crops.
        """
        index = operator.index(index)
        if index < 0:
            raise SmaltiError(f"index must be 0 or more, not {index}", argument="index")
        for step in range(len(self)):
            place = (index + step) % len(self)
            if place in self._broken:
                continue
            path, caption = self.samples[place]
            try:
                pixels = self._read(path, Random(f"smalti crop {self._seed} {index}"))
            except SmaltiError as error:
                self._broken.add(place)
                _warn(path, error)
                continue
            return {"image": torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), "caption": caption}
        raise SmaltiError(f"{self.path} has no readable image left: all {len(self)} are broken")

    def _read(self, path: Path, random: Random) -> np.ndarray:
        """Read one image as uint8 (H, W, 3)."""
        with readable(str(path)):
            whole = to_rgb(open_image(path))
        height, width = self.size
        scale = min(whole.width / width, whole.height / height)
        spare_x, spare_y = whole.width - width * scale, whole.height - height * scale
        x, y = (random.random(), random.random()) if self._random_crop else (0.5, 0.5)
        left, top = spare_x * x, spare_y * y
        box = (left, top, min(left + width * scale, whole.width), min(top + height * scale, whole.height))
        # Pillow's resize widens its filter when it shrinks, so that nothing aliases.
        return np.array(whole.resize((width, height), Image.Resampling.LANCZOS, box=box))


def _scan(folder: Path) -> list[tuple[Path, str]]:
    """Return paths and captions of all files in `folder` with an image's suffix, sorted by path."""
    captions: dict[Path, str] = {}
    images: list[Path] = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(place, name)
            if name == METADATA:
                captions.update(_read_metadata(path))
            elif path.suffix.lower() in SUFFIXES and not name.startswith("."):
                images.append(path)
    for path in images:
        if path not in captions:
            captions[path] = _read_caption(path)
    return sorted(captions.items(), key=lambda item: item[0].as_posix())


def _read_caption(image: Path) -> str:
    beside = image.with_suffix(".txt")
    try:
        caption = " ".join(beside.read_text(encoding="utf-8-sig").split())
    except FileNotFoundError as error:
        raise SmaltiError(
            f"{image} has no caption: neither {beside.name} nor a line in {METADATA}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise SmaltiError(f"cannot read the caption {beside}: {error}") from error
    if not caption:
        raise SmaltiError(f"{beside} is empty; it must hold a caption")
    return caption


def _read_metadata(path: Path) -> dict[Path, str]:
    captions: dict[Path, str] = {}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SmaltiError(f"cannot read {path}: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise SmaltiError(f"{path} line {number} is not JSON: {error}") from error
        for key in ("file_name", "text"):
            value = entry.get(key) if isinstance(entry, dict) else None
            if not isinstance(value, str) or not value.strip():
                raise SmaltiError(
                    f"{path} line {number} must be an object with the text {key!r}, not {line[:80]}"
                )
        captions[Path(os.path.normpath(path.parent / entry["file_name"]))] = " ".join(entry["text"].split())
    return captions


def _has_image_header(path: Path) -> bool:
    try:
        check_header(path)
        return True
    except SmaltiError as error:
        _warn(path, error)
        return False


def _warn(path: Path, error: SmaltiError) -> None:
    reason = error.reason if isinstance(error, UnreadableImageError) else error
    logger.warning("skipping %s: %s", path, reason)
