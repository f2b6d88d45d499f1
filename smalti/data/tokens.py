"""Images as grids of tokens with their captions, in a folder of shards that are mapped, not loaded.

`tokens.json` says what the tokens depend on and lists the shards. A shard, `shard-00000.safetensors`, holds the images
of a range of a source:

| array | content |
| --- | --- |
| `records` | a record an image, see `smalti.data.records` |
| `starts` | (n + 1,) where each record begins |
| `grids`, `sizes` | (n, 2) height and width in tokens; width and height in pixels before the image was fitted |
| `texts`, `text_starts` | UTF-8 texts, and where each begins |
| `first_texts` | (n + 1,) number of each image's first text, which is its name; its captions follow |
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from smalti.common.arrays import ArrayFile
from smalti.common.checks import quoted
from smalti.common.files import read_json
from smalti.data.buckets import Bucket
from smalti.data.records import LARGEST_CODEBOOK, unpack_record
from smalti.errors import SmaltiError

METADATA = "tokens.json"
"""File that makes a folder of shards complete."""

FORMAT = 1
_OPEN = 256  # shards that are mapped at once; each takes a file handle


class TokenShards:
    """The images of a folder that `smalti tokenize` or a training wrote.

    Attributes:
        folder: the folder.
        metadata: what the tokens depend on: tokenizer, data, files, number of samples.
        codes: size of the codebook.
        mirrored: whether the mirror image of each image is there, too.
        grids: height and width in tokens of each shape, by number of images.
        buckets: what each shape holds, for `bucket_table`.
        captions: number of captions of all images.

    Raises:
        SmaltiError: the folder holds no complete shards, or one is missing or cut short.

    Example:
        >>> shards = TokenShards("tokens")  # doctest: +SKIP
        >>> shards.tokens(0)[0].shape, shards.captions_of(0)  # doctest: +SKIP
        ((64, 64), ['a cat on a sofa'])
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        values = read_description(self.folder)
        try:
            self._read(values)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise SmaltiError(f"{self.folder / METADATA} is damaged: {error}") from error
        self._check_sizes()
        self._opened = lru_cache(_OPEN)(self._open)

    def _read(self, values: dict[str, Any]) -> None:
        """Take over the description."""
        self.metadata: dict[str, Any] = values["metadata"]
        self.codes, self.mirrored = int(values["codes"]), bool(values["mirrored"])
        self.buckets = [Bucket(**bucket) for bucket in values["buckets"]]
        self.grids = {(int(h), int(w)): int(count) for h, w, count in values["grids"]}
        counts = np.array(values["shards"], np.int64).reshape(-1, 3)
        self._ends: list[int] = np.cumsum(counts[:, 0]).tolist()
        self._bytes: list[int] = counts[:, 2].tolist()
        self.captions = int(counts[:, 1].sum())
        if not 1 <= self.codes <= LARGEST_CODEBOOK or len(self) < 1 or sum(self.grids.values()) != len(self):
            raise ValueError("its numbers do not fit together")

    def _check_sizes(self) -> None:
        """Raise SmaltiError unless every shard is there and as long as it was written."""
        for number, expected in enumerate(self._bytes):
            path = self.folder / shard_name(number)
            try:
                found = os.stat(path).st_size
            except OSError as error:
                raise SmaltiError(f"{path} is missing: delete {self.folder} and encode again") from error
            if found != expected:
                raise SmaltiError(
                    f"{path} is cut short or damaged: it has {found} bytes, not {expected}; "
                    f"delete {self.folder} and encode again"
                )

    def __len__(self) -> int:
        """Return the number of images."""
        return self._ends[-1] if self._ends else 0

    @property
    def bytes(self) -> int:
        """Number of bytes of the shards."""
        return sum(self._bytes)

    def tokens(self, row: int, *, flip: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
        """Return an image's tokens (h, w) int64, and its loss weights (h, w) uint8, or None for 255 everywhere.

        Args:
            row: number of the image.
            flip: whether its mirror image is wanted, which `mirrored` says is there.
        """
        shard, place = self._find(row)
        start, end = shard["starts"][place : place + 2].tolist()
        try:
            return unpack_record(
                shard.bytes("records", start, end),
                tuple(shard["grids"][place].tolist()),
                self.codes,
                mirrored=self.mirrored,
                flip=flip,
            )
        except ValueError as error:
            raise _damaged(shard.path) from error

    def prefetch(self, rows: Sequence[int]) -> None:
        """Ask the system to read the records of images, all at once and without waiting."""
        for row in rows:
            shard, place = self._find(row)
            shard.will_need("records", *shard["starts"][place : place + 2].tolist())

    def name(self, row: int) -> str:
        """Return where an image came from."""
        return self._texts(row)[0]

    def captions_of(self, row: int) -> list[str]:
        """Return the captions of an image, one or more."""
        return self._texts(row)[1:]

    def rows_with_long_captions(self, most: int) -> Iterator[int]:
        """Yield the images that have a caption of more than `most` bytes, from the lengths alone."""
        for number in range(len(self._bytes)):
            shard = self._opened(number)
            long = np.diff(shard["text_starts"]) > most
            long[shard["first_texts"][:-1]] = False  # names
            places = np.searchsorted(shard["first_texts"], long.nonzero()[0], side="right") - 1
            start = self._ends[number - 1] if number else 0
            yield from (start + place for place in dict.fromkeys(places.tolist()))

    def all_captions(self) -> Iterator[str]:
        """Yield the captions of all images, in their order."""
        return (caption for row in range(len(self)) for caption in self.captions_of(row))

    def kinds(self) -> tuple[list[tuple[int, int]], np.ndarray] | None:
        """Return the grids, and the number of each image's grid, (N,) int16; None if all images have one grid."""
        if len(self.grids) == 1:
            return None
        grids = list(self.grids)
        kinds = np.empty(len(self), np.int16)
        start = 0
        for number in range(len(self._bytes)):
            found = self._opened(number)["grids"]
            for kind, grid in enumerate(grids):
                kinds[start : start + len(found)][(found == grid).all(axis=1)] = kind
            start += len(found)
        return grids, kinds

    def _texts(self, row: int) -> list[str]:
        shard, place = self._find(row)
        first, last = shard["first_texts"][place : place + 2].tolist()
        starts = shard["text_starts"][first : last + 1].tolist()
        if len(starts) < 3:
            raise _damaged(shard.path)
        texts = shard.bytes("texts", starts[0], starts[-1])
        try:
            return [texts[a - starts[0] : b - starts[0]].decode() for a, b in pairwise(starts)]
        except UnicodeDecodeError as error:
            raise _damaged(shard.path) from error

    def _find(self, row: int) -> tuple[ArrayFile, int]:
        """Return the shard of an image, and the image's place in it."""
        number = bisect_right(self._ends, row)
        return self._opened(number), row - (self._ends[number - 1] if number else 0)

    def _open(self, number: int) -> ArrayFile:
        shard = ArrayFile(self.folder / shard_name(number))
        count = self._ends[number] - (self._ends[number - 1] if number else 0)
        if len(shard["starts"]) != count + 1 or len(shard["first_texts"]) != count + 1:
            raise _damaged(shard.path)
        return shard


def shard_name(number: int) -> str:
    """Return the name of a shard's file."""
    return f"shard-{number:05d}.safetensors"


def read_description(folder: Path) -> dict[str, Any]:
    """Return the content of a folder's `tokens.json`.

    Raises:
        SmaltiError: it is missing, or of another format.
    """
    path = folder / METADATA
    if not os.path.exists(path) and os.path.exists(folder / "cache.json"):
        raise SmaltiError(f"{folder} holds tokens of an older version: delete or rename it, and encode again")
    values = read_json(path)
    if values.get("format") != FORMAT:
        raise SmaltiError(f"{path} must have format {FORMAT}, not {values.get('format')!r}: encode again")
    metadata = values.get("metadata")
    if not isinstance(metadata, dict):
        raise SmaltiError(f"{path} is damaged: its metadata must be an object, not {quoted(metadata)}")
    return values


def _damaged(path: Path) -> SmaltiError:
    return SmaltiError(f"{path} is damaged: delete {path.parent} and encode again")
