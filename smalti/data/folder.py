"""Your own images from a folder, with captions beside them.

A caption is a text file (`cat.png` and `cat.txt` or `cat.caption`), or a row of a `metadata.jsonl`, `metadata.csv` or
`metadata.parquet`, as in Hugging Face's ImageFolder. A row has a `file_name`, relative to the folder of the metadata
file, and a `text`, which may be a list of captions. Subfolders and links to folders are read, hidden files are not. A
mask (`cat.mask.png`) weighs the loss on its image: white counts, black does not.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from smalti.common.checks import check_path
from smalti.common.images import to_rgb
from smalti.common.opening import (
    UnreadableImageError,
    check_header,
    open_image,
    readable_suffixes,
    unreadable_suffixes,
)
from smalti.data.buckets import Shape
from smalti.data.captions import CAPTION_SUFFIXES, METADATA, find_caption_file, read_captions, read_metadata
from smalti.data.fitting import Fitting
from smalti.data.images import ImageFiles
from smalti.errors import SmaltiError

logger = logging.getLogger(__name__)

MASK = ".mask"
"""What stands before the suffix of a mask: `cat.mask.png` is that of `cat.jpg`."""

_MOST_KINDS = 5  # suffixes that the note on other files lists


class ImageFolder(ImageFiles):
    """Captioned images of a folder in the order of their paths, resized and cropped.

    A file that is no readable image gets one warning and is skipped. A broken header is found when the folder is
    opened. Other damage is found when the image is read; the next readable image then takes its place.

    Args:
        path: the folder.
        size: side in pixels, or (height, width). Images are scaled until they cover it and then cropped.
        crop: part that is kept, "center" or "random". A random crop depends on `seed` and the index.
        seed: seed of random crops.
        shapes: heights and widths in place of `size`; each image takes the one whose aspect ratio is nearest.
        caption_lines: whether each line of a text file is a caption of its own.

    Attributes:
        samples: paths and captions of the images.

    Raises:
        SmaltiError: the folder is missing or has no readable image; an image has no caption; a row of a
            metadata file is malformed; an argument is wrong.

    Example:
        >>> images = ImageFolder("my-images", 256)  # doctest: +SKIP
        >>> images[0]["caption"]  # doctest: +SKIP
        'a cat on a sofa'
    """

    def __init__(
        self,
        path: str | Path,
        size: int | tuple[int, int],
        *,
        crop: str = "center",
        seed: int = 0,
        shapes: Sequence[Shape] | None = None,
        caption_lines: bool = False,
    ) -> None:
        self.path = Path(os.path.normpath(check_path("path", path)))
        super().__init__(Fitting.of(size, crop, seed, shapes))
        if not os.path.isdir(self.path):
            raise SmaltiError(f"{self.path} is not a folder")
        self.samples, self._masks = _scan(self.path, caption_lines)
        self.samples = [item for item in self.samples if _has_image_header(item[0])]
        if not self.samples:
            raise SmaltiError(f"{self.path} has no readable image ({', '.join(sorted(readable_suffixes()))})")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.samples)

    def __str__(self) -> str:
        """Return the folder's path."""
        return str(self.path)

    def name(self, place: int) -> str:
        """Return the path of an image."""
        return str(self.samples[place][0])

    def captions_of(self, place: int) -> tuple[str, ...]:
        """Return the captions of an image."""
        return self.samples[place][1]

    def open(self, place: int) -> tuple[Image.Image, Image.Image | None]:
        """Return an image and its mask, if there is one."""
        path = self.samples[place][0]
        mask = self.mask_of(path)
        return to_rgb(open_image(path)), to_rgb(open_image(mask)).convert("L") if mask else None

    def mask_of(self, path: Path) -> Path | None:
        """Return the mask of an image, or None."""
        return self._masks.get(path)

    @property
    def captions(self) -> list[str]:
        """Return the captions of all images, in their order."""
        return [caption for _, captions in self.samples for caption in captions]

    def fingerprint(self) -> str:
        """Return a short hash of the names, sizes, times and captions of the files."""
        digest = hashlib.sha256()
        for path, captions in self.samples:
            for file in (path, self._masks.get(path)):
                if file is not None:
                    digest.update(b"\0".join([*self._state(file), *map(str.encode, captions)]) + b"\0\0")
        return digest.hexdigest()[:16]

    def _state(self, path: Path) -> tuple[bytes, bytes]:
        """Return the name of a file, and its size and time."""
        name = os.fsencode(path.relative_to(self.path) if path.is_relative_to(self.path) else path)
        try:
            status = path.stat()
        except OSError:
            return name, b"gone"
        return name, f"{status.st_size} {status.st_mtime_ns}".encode()

    def check_captions(self, check: Callable[[str], None]) -> None:
        """Raise SmaltiError with the name of the image if `check` raises it for one of its captions."""
        for path, captions in self.samples:
            for caption in captions:
                try:
                    check(caption)
                except SmaltiError as error:
                    raise SmaltiError(f"the caption of {path}: {error}") from error


def _scan(folder: Path, caption_lines: bool) -> tuple[list[tuple[Path, tuple[str, ...]]], dict[Path, Path]]:
    """Return paths and captions of the images in `folder`, sorted by path, and the masks of some of them."""
    captions: dict[Path, tuple[str, ...]] = {}
    images: list[Path] = []
    others: Counter[str] = Counter()
    for path in _walk(folder):
        if path.name in METADATA:
            captions.update(read_metadata(path))
        elif path.suffix.lower() in readable_suffixes():
            images.append(path)
        elif path.suffix.lower() not in CAPTION_SUFFIXES:
            others[path.suffix.lower()] += 1
    masks = _find_masks(images)
    users: dict[Path, list[str]] = {}
    for path in sorted(set(images) - set(masks.values())):
        if path not in captions:
            captions[path] = read_captions(path, caption_lines)
            users.setdefault(find_caption_file(path) or path, []).append(path.name)
    _note_others(folder, others)
    _note_shared(folder, {file: names for file, names in users.items() if len(names) > 1})
    return sorted(captions.items(), key=lambda item: item[0].as_posix()), masks


def _find_masks(images: list[Path]) -> dict[Path, Path]:
    """Return the masks of images: `cat.mask.png` is that of every `cat.SUFFIX` beside it."""
    by_stem: dict[Path, list[Path]] = {}
    for path in images:
        by_stem.setdefault(path.with_suffix(""), []).append(path)
    masks: dict[Path, Path] = {}
    for path in images:
        stem = path.with_suffix("")
        if stem.suffix == MASK:
            masks |= dict.fromkeys(by_stem.get(stem.with_suffix(""), []), path)
    return masks


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
        reason = error.reason if isinstance(error, UnreadableImageError) else error
        logger.warning("skipping %s: %s", path, reason)
        return False
