"""Writing token shards: any number of processes, each shard whole or not at all, a kill loses the shards in work."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from smalti.common.arrays import ArrayFile, write_arrays
from smalti.common.files import make_folder, read_json, write_json_atomic
from smalti.data.buckets import Bucket, cropped_share
from smalti.data.images import CaptionedImage
from smalti.data.records import Grids, pack_record
from smalti.data.tokens import FORMAT, METADATA, TokenShards, read_description, shard_name
from smalti.errors import SmaltiError

SHARD_IMAGES = 4096
"""Images of a source that a shard covers; an interruption loses at most those of one shard a process."""

_STARTED = "started.json"

Encode = Callable[[torch.Tensor], torch.Tensor]
"""Function of (B, 3, H, W) uint8 images that returns (B, h, w) token ids."""


@dataclass(frozen=True)
class TokenPlan:
    """What a folder of token shards will hold.

    Attributes:
        folder: the folder.
        metadata: values that the tokens depend on, such as the tokenizer's hash, the data's settings and a hash of the
            data's files.
        samples: number of the source's images, of which broken ones are left out.
        codes: size of the codebook.
        downscale: pixels of a token's side.
        mirrored: whether the mirror image of each image is encoded, too.
    """

    folder: Path
    metadata: dict[str, Any]
    samples: int
    codes: int
    downscale: int
    mirrored: bool = False

    @property
    def wanted(self) -> dict[str, Any]:
        """Return the metadata with the number of samples."""
        return {**self.metadata, "samples": self.samples}

    def begin(self) -> bool:
        """Create the folder, or find the one that was begun; return whether it is complete.

        Raises:
            SmaltiError: the folder cannot be written, or holds tokens of other images.
        """
        make_folder(self.folder)
        if os.path.exists(self.folder / METADATA) or os.path.exists(self.folder / "cache.json"):
            self._check_same(read_description(self.folder)["metadata"])
            return True
        layout = {"format": FORMAT, "shard_images": SHARD_IMAGES}
        started = self.folder / _STARTED
        if os.path.exists(started):
            found = read_json(started)
            if any(found.get(name) != value for name, value in layout.items()):
                raise SmaltiError(
                    f"{self.folder} holds tokens that another version began: delete or rename it"
                )
            self._check_same(found.get("metadata"))
        write_json_atomic(started, {"metadata": self.wanted, **layout})
        return False

    def _check_same(self, found: Any) -> None:
        """Raise SmaltiError with the names of the metadata in which a folder's tokens differ from the wanted ones."""
        wanted = self.wanted
        found = found if isinstance(found, dict) else {}
        names = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
        if names:
            raise SmaltiError(
                f"{self.folder} holds a cache of other images: its {' and '.join(names)} differ; "
                "delete or rename it"
            )

    def missing(self) -> list[int]:
        """Return the numbers of the shards that are not written yet."""
        count = -(-self.samples // SHARD_IMAGES)
        return [number for number in range(count) if not os.path.exists(self.folder / shard_name(number))]

    def covered(self, shard: int) -> range:
        """Return the numbers of the source's images that a shard covers."""
        return range(shard * SHARD_IMAGES, min(self.samples, (shard + 1) * SHARD_IMAGES))

    def write(
        self, shard: int, images: Iterable[CaptionedImage | None], encode: Encode, batch_size: int = 32
    ) -> None:
        """Encode the images that a shard covers, and write it.

        Args:
            shard: number of the shard.
            images: the images in order, None for broken ones.
            encode: the image tokenizer.
            batch_size: most images that are encoded at once.

        Raises:
            SmaltiError: the shard cannot be written; the others stay.
        """
        records: dict[int, bytes] = {}
        kept: list[CaptionedImage] = []
        grids: dict[int, tuple[int, int]] = {}
        for part in _of_one_shape(images, kept, batch_size):
            pixels = torch.stack([image.image for _, image in part])
            ids = encode(pixels).cpu().numpy()
            mirrored = encode(pixels.flip(3)).cpu().numpy() if self.mirrored else [None] * len(ids)
            for (place, image), own, other in zip(part, ids, mirrored, strict=True):
                weights = None if image.mask is None else pool_mask(image.mask, own.shape)
                records[place] = pack_record(Grids(own, other, weights), self.codes)
                grids[place] = own.shape
        arrays = _arrays_of(kept, [records[place] for place in range(len(kept))])
        arrays["grids"] = np.array([grids[place] for place in range(len(kept))], np.uint16).reshape(-1, 2)
        write_arrays(self.folder / shard_name(shard), arrays, {"format": str(FORMAT)})

    def finish(self) -> TokenShards:
        """Describe the shards, which are all written, and open them.

        Raises:
            SmaltiError: a shard is damaged, or no image could be read.
        """
        shards: list[list[int]] = []
        tally: dict[tuple[int, int], np.ndarray] = defaultdict(lambda: np.zeros(3))
        for number in range(-(-self.samples // SHARD_IMAGES)):
            path = self.folder / shard_name(number)
            file = ArrayFile(path)
            grids, sizes = file["grids"], file["sizes"]
            captions = int(file["first_texts"][-1]) - len(grids)
            shards.append([len(grids), captions, os.stat(path).st_size])
            for grid in np.unique(grids, axis=0).tolist():
                tally[tuple(grid)] += self._tally(grid, sizes[(grids == grid).all(axis=1)])
        if not tally:
            raise SmaltiError(f"{self.folder}: none of the {self.samples} images can be read")
        ordered = sorted(tally.items(), key=lambda item: (-item[1][0], item[0]))
        buckets = [
            Bucket(grid[0] * self.downscale, grid[1] * self.downscale, int(n), round(cut / n, 4), int(large))
            for grid, (n, cut, large) in ordered
        ]
        values = {
            "format": FORMAT,
            "metadata": self.wanted,
            "codes": self.codes,
            "mirrored": self.mirrored,
            "grids": [[*grid, int(found[0])] for grid, found in ordered],
            "buckets": [bucket._asdict() for bucket in buckets],
            "shards": shards,
        }
        write_json_atomic(self.folder / METADATA, values)
        return TokenShards(self.folder)

    def _tally(self, grid: list[int], sizes: np.ndarray) -> np.ndarray:
        """Return number, cropped shares and number of enlarged ones of images of one grid; sizes are (n, 2)."""
        height, width = (side * self.downscale for side in grid)
        cropped = cropped_share(sizes[:, 0].astype(float), sizes[:, 1].astype(float), (height, width))
        enlarged = (sizes[:, 0] < width) | (sizes[:, 1] < height)
        return np.array([len(sizes), cropped.sum(), enlarged.sum()])


def pool_mask(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Return the mean of a mask (H, W) uint8 over each token's pixels, (h, w) uint8."""
    h, w = grid
    blocks = mask.reshape(h, mask.shape[0] // h, w, mask.shape[1] // w)
    return blocks.mean(axis=(1, 3)).round().astype(np.uint8)


def _of_one_shape(
    images: Iterable[CaptionedImage | None], kept: list[CaptionedImage], batch_size: int
) -> Iterator[list[tuple[int, CaptionedImage]]]:
    """Yield the readable images with their places, in batches of one shape; add all to `kept`, without pixels."""
    waiting: dict[tuple[int, ...], list[tuple[int, CaptionedImage]]] = defaultdict(list)
    for image in images:
        if image is None:
            continue
        part = waiting[tuple(image.image.shape)]
        part.append((len(kept), image))
        kept.append(image._replace(image=torch.empty(0), mask=None))
        if len(part) == batch_size:
            yield part
            waiting[tuple(image.image.shape)] = []
    yield from (part for part in waiting.values() if part)


def _arrays_of(kept: list[CaptionedImage], records: list[bytes]) -> dict[str, np.ndarray]:
    """Return the arrays of a shard, without its grids."""
    texts = [text.encode("utf-8", "replace") for image in kept for text in (image.name, *image.captions)]
    return {
        "records": np.frombuffer(b"".join(records), np.uint8),
        "starts": _starts([len(record) for record in records]),
        "sizes": np.array([image.size for image in kept], np.uint32).reshape(-1, 2),
        "texts": np.frombuffer(b"".join(texts), np.uint8),
        "text_starts": _starts([len(text) for text in texts]),
        "first_texts": _starts([1 + len(image.captions) for image in kept]),
    }


def _starts(lengths: list[int]) -> np.ndarray:
    """Return where each of consecutive parts begins, and where the last one ends, int64."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
