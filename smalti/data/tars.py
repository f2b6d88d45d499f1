"""Captioned images in tar shards, WebDataset's layout: `NAME.jpg`, `NAME.txt`, `NAME.json`, `NAME.mask.png`.

No package is needed: a tar is a file with members one after another, and an index says where each is.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from smalti.common.arrays import ArrayFile
from smalti.common.checks import check_path, quoted
from smalti.common.files import decode_text, parse_json
from smalti.common.images import to_rgb
from smalti.common.opening import open_image
from smalti.data.buckets import Shape
from smalti.data.captions import is_unicode, single_spaced
from smalti.data.fitting import Fitting
from smalti.data.images import ImageFiles
from smalti.data.tar_index import BLOCK, ROLES, index_path, member_name, open_index, read_member, write_index
from smalti.errors import SmaltiError

CAPTIONS = ("txt", "json:caption")
"""Where captions are by default: the text member, and the key `caption` of the JSON member."""

_OPEN = 256  # indexes that are mapped at once


class TarShards(ImageFiles):
    """Captioned images of the tars in a folder, in the order of the tars' names and of their members.

    Args:
        path: the folder; tars in its subfolders are read, too.
        size: side in pixels, or (height, width). Images are scaled until they cover it and then cropped.
        crop: part that is kept, "center" or "random". A random crop depends on `seed` and the index.
        seed: seed of random crops.
        shapes: heights and widths in place of `size`; each image takes the one whose aspect ratio is nearest.
        captions: where captions are, "txt" or "json:KEY"; those that an image has are its captions. A value of JSON
            may be a text or a list of texts.
        index: folder for indexes that are missing; None writes them beside the tars.

    Raises:
        SmaltiError: there is no tar; one is cut short, or is not that of its index; no image has a caption.

    Example:
        >>> images = TarShards("shards", 256)  # doctest: +SKIP
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
        captions: Sequence[str] = CAPTIONS,
        index: str | Path | None = None,
    ) -> None:
        self.path = Path(os.path.normpath(check_path("path", path)))
        super().__init__(Fitting.of(size, crop, seed, shapes))
        self._captions = [parse_place(place) for place in captions]
        self._tars = find_tars(self.path)
        folder = None if index is None else Path(index)
        self._indexes = [make_index(tar, self.path, folder) for tar in self._tars]
        wanted = [ROLES.index("json" if key else "text") for key in self._captions]
        self._digests, counts, captioned = [], [], False
        for number in range(len(self._tars)):  # one at a time: thousands of open files are too many
            file = self._open_index(number)
            self._digests.append(file.notes.get("digest", ""))
            counts.append(len(file["places"]))
            captioned = captioned or bool((file["places"][:, wanted, 0] >= 0).any())
        self._ends = np.cumsum(counts)
        if not len(self):
            raise SmaltiError(f"{self.path} has no image in its {len(self._tars)} tars")
        if not captioned:
            raise SmaltiError(
                f"{self.path} has no caption in its tars: no member for {' or '.join(captions)}"
            )
        self._opened = lru_cache(_OPEN)(self._open_index)

    def __len__(self) -> int:
        """Return the number of images."""
        return int(self._ends[-1])

    def __str__(self) -> str:
        """Return the folder's path."""
        return str(self.path)

    def name(self, place: int) -> str:
        """Return the tar of an image and the member's name."""
        tar, members = self._find(place)
        return f"{tar.relative_to(self.path)}: {member_name(tar, int(members[0][0]))}"

    def captions_of(self, place: int) -> tuple[str, ...]:
        """Return the captions of an image."""
        texts: list[str] = []
        for key in self._captions:
            content = self._content(place, "json" if key else "text")
            if content is not None:
                texts += _texts(content, key)
        captions = single_spaced(texts)
        if not captions:
            raise SmaltiError("it has no caption")
        if not all(map(is_unicode, captions)):
            raise SmaltiError("its caption must be valid Unicode")
        return captions

    def open(self, place: int) -> tuple[Image.Image, Image.Image | None]:
        """Return an image and its mask, if there is one."""
        image, mask = self._content(place, "image"), self._content(place, "mask")
        assert image is not None
        whole = to_rgb(open_image(BytesIO(image)))
        return whole, None if mask is None else to_rgb(open_image(BytesIO(mask))).convert("L")

    def fingerprint(self) -> str:
        """Return a short hash of the names of the tars, and of their members' names, sizes and times."""
        digest = hashlib.sha256()
        for tar, part in zip(self._tars, self._digests, strict=True):
            digest.update(f"{tar.relative_to(self.path).as_posix()}\0{part}\0".encode())
        return digest.hexdigest()[:16]

    def _find(self, place: int) -> tuple[Path, np.ndarray]:
        """Return the tar of an image, and the places of its members, (4, 2) int64."""
        number = int(np.searchsorted(self._ends, place, side="right"))
        start = int(self._ends[number - 1]) if number else 0
        return self._tars[number], self._opened(number)["places"][place - start]

    def _open_index(self, number: int) -> ArrayFile:
        return open_index(self._tars[number], self._indexes[number])

    def _content(self, place: int, role: str) -> bytes | None:
        """Return the content of an image's member, or None if it has none."""
        tar, members = self._find(place)
        offset, size = map(int, members[ROLES.index(role)])
        return None if offset < BLOCK else read_member(tar, offset, size)


def find_tars(path: Path) -> list[Path]:
    """Return the tars of a folder and its subfolders, in the order of their names.

    Raises:
        SmaltiError: it is no folder, or has none.
    """
    if not os.path.isdir(path):
        raise SmaltiError(f"{path} is not a folder")
    tars = sorted(tar for tar in path.rglob("*.tar") if not tar.name.startswith(".") and tar.is_file())
    if not tars:
        raise SmaltiError(f"{path} has no tar")
    return tars


def make_index(tar: Path, root: Path, folder: Path | None) -> Path:
    """Return the index of a tar, which is written if there is none.

    Raises:
        SmaltiError: the tar is cut short, or the index cannot be written.
    """
    paths = [index_path(tar, root, None), index_path(tar, root, folder)]
    for path in paths:
        if os.path.exists(path):
            return path
    write_index(tar, paths[-1])
    return paths[-1]


def parse_place(text: str) -> str:
    """Return the JSON key of a place of captions, or "" for the text member.

    Raises:
        SmaltiError: it is neither "txt" nor "json:KEY".
    """
    kind, colon, key = text.partition(":")
    if text != "txt" and not (kind == "json" and colon and key):
        raise SmaltiError(f"captions must be txt or json:KEY, not {quoted(text)}", argument="captions")
    return key


def _texts(content: bytes, key: str) -> list[str]:
    """Return the texts of a text member, or those under a key of a JSON member."""
    if not key:
        return [decode_text(content, "its caption")]
    found = parse_json(content, "its JSON")
    value = found.get(key) if isinstance(found, dict) else None
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str)]
