"""Your own images from a folder, with captions beside them.

A caption is a text file (`cat.png` and `cat.txt` or `cat.caption`), or a row of a `metadata.jsonl`, `metadata.csv` or
`metadata.parquet`, as in Hugging Face's ImageFolder. A row has a `file_name`, relative to the folder of the metadata
file, and a `text`. Subfolders and links to folders are read, hidden files are not.
"""

from __future__ import annotations

import hashlib
import logging
import operator
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image

from smalti.common.checks import check_choice, check_path, quoted
from smalti.common.images import to_rgb
from smalti.common.opening import (
    UnreadableImageError,
    check_header,
    open_image,
    readable,
    readable_suffixes,
    unreadable_suffixes,
)
from smalti.data.captions import CAPTION_SUFFIXES, METADATA, find_caption_file, read_caption, read_metadata
from smalti.errors import SmaltiError

logger = logging.getLogger(__name__)

CROPS = ("center", "random")
_MOST_SIDE = 8192  # pixels
_MOST_KINDS = 5  # suffixes that the note on other files lists


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
        SmaltiError: the folder is missing or has no readable image; an image has no caption; a row of a
            metadata file is malformed; an argument is wrong.

    Example:
        >>> images = ImageFolder("my-images", 256)  # doctest: +SKIP
        >>> images[0]["caption"]  # doctest: +SKIP
        'a cat on a sofa'
    """

    def __init__(
        self, path: str | Path, size: int | tuple[int, int], *, crop: str = "center", seed: int = 0
    ) -> None:
        self.path = Path(os.path.normpath(check_path("path", path)))
        self.size = size if isinstance(size, tuple) and len(size) == 2 else (size, size)
        if not all(type(side) is int and 1 <= side <= _MOST_SIDE for side in self.size):
            raise SmaltiError(
                f"size must be a whole number of pixels from 1 to {_MOST_SIDE}, or two, not {quoted(size)}",
                argument="size",
            )
        check_choice("crop", crop, CROPS)
        if not os.path.isdir(self.path):
            raise SmaltiError(f"{self.path} is not a folder")
        self._random_crop, self._seed = crop == "random", seed
        self.samples = [item for item in _scan(self.path) if _has_image_header(item[0])]
        self._broken: set[int] = set()
        if not self.samples:
            raise SmaltiError(f"{self.path} has no readable image ({', '.join(sorted(readable_suffixes()))})")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.samples)

    @property
    def length(self) -> int:
        """Return the number of images: a folder is a finite source."""
        return len(self.samples)

    @property
    def captions(self) -> list[str]:
        """Return the captions of all images, in their order."""
        return [caption for _, caption in self.samples]

    def fingerprint(self) -> str:
        """Return a short hash of the names, sizes, times and captions of the files."""
        digest = hashlib.sha256()
        for path, caption in self.samples:
            name = os.fsencode(path.relative_to(self.path) if path.is_relative_to(self.path) else path)
            try:
                status = path.stat()
                state = f"{status.st_size} {status.st_mtime_ns}"
            except OSError:
                state = "gone"
            digest.update(b"\0".join([name, state.encode(), caption.encode()]) + b"\0\0")
        return digest.hexdigest()[:16]

    def check_captions(self, check: Callable[[str], None]) -> None:
        """Raise SmaltiError with the name of the image if `check` raises it for its caption."""
        for path, caption in self.samples:
            try:
                check(caption)
            except SmaltiError as error:
                raise SmaltiError(f"the caption of {path}: {error}") from error

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
    others: Counter[str] = Counter()
    for path in _walk(folder):
        if path.name in METADATA:
            captions.update(read_metadata(path))
        elif path.suffix.lower() in readable_suffixes():
            images.append(path)
        elif path.suffix.lower() not in CAPTION_SUFFIXES:
            others[path.suffix.lower()] += 1
    users: dict[Path, list[str]] = {}
    for path in images:
        if path not in captions:
            captions[path] = read_caption(path)
            users.setdefault(find_caption_file(path) or path, []).append(path.name)
    _note_others(folder, others)
    _note_shared(folder, {file: names for file, names in users.items() if len(names) > 1})
    return sorted(captions.items(), key=lambda item: item[0].as_posix())


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and its subfolders in order, except hidden ones. A link to a folder is followed."""
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(files) if not name.startswith("."))


def _note_others(folder: Path, others: Counter[str]) -> None:
    """Say how many files of which kinds are not taken."""
    if not others:
        return
    kinds = [
        f"{count} {suffix or 'without suffix'}"
        + (" (Pillow cannot read them here)" if suffix in unreadable_suffixes() else "")
        for suffix, count in others.most_common(_MOST_KINDS)
    ]
    kinds += ["…"] * (len(others) > _MOST_KINDS)
    logger.warning("%s: files that are not taken: %s", folder, ", ".join(kinds))


def _note_shared(folder: Path, shared: dict[Path, list[str]]) -> None:
    """Say which images have one caption file together."""
    if shared:
        file, names = next(iter(shared.items()))
        more = f"; so do the images of {len(shared) - 1} more files" if len(shared) > 1 else ""
        logger.warning("%s: %s share the caption %s%s", folder, " and ".join(names[:3]), file.name, more)


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
