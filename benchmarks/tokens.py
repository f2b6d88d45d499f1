"""Measure token shards: write grids, open them, read them in random order; rates, bytes and memory.

python benchmarks/tokens.py [--images 1000000] [--side 64] [--codes 131072] [--reads 50000] [--folder FOLDER] [--json]

The grids are random. Reading happens in a process of its own, in the order of a training and in its batches. Its memory
is `RssAnon` of /proc/self/status: what the process holds itself, without pages of files, which the system can drop. The
first pass finds what the page cache has kept of the writing. A second one reads from the disk, after the shards were
dropped from the cache. The shards are deleted at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from measure import in_a_process

from smalti.data.encoding import SHARD_IMAGES, TokenPlan
from smalti.data.images import CaptionedImage
from smalti.data.order import Order, Shuffled
from smalti.data.records import grid_bytes
from smalti.data.tokens import TokenShards

_BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1_000_000, help="number of grids")
    parser.add_argument("--side", type=int, default=64, help="tokens of a grid's side")
    parser.add_argument("--codes", type=int, default=131_072, help="size of the codebook")
    parser.add_argument("--reads", type=int, default=50_000, help="images that are read in random order")
    parser.add_argument("--folder", help="an empty folder for the shards; a temporary one by default")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--read", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        print(json.dumps(read(Path(options.read), options.reads)))
        return
    folder = Path(tempfile.mkdtemp(prefix="smalti-tokens-", dir=options.folder))
    try:
        found = {"images": options.images, "tokens": options.side**2, "codes": options.codes}
        found |= write(folder, options.images, options.side, options.codes)
        reading = ["--read", str(folder), "--reads", str(options.reads)]
        found |= in_a_process(__file__, reading)
        drop(folder)
        found["read a second from the disk"] = in_a_process(__file__, reading)["read a second"]
        if options.json:
            print(json.dumps(found))
        else:
            print("\n".join(f"{name:32} {value:,.6g}" for name, value in found.items()))
    finally:
        shutil.rmtree(folder)


def write(folder: Path, images: int, side: int, codes: int) -> dict[str, float]:
    """Write random grids, and return how fast and how large."""
    plan = TokenPlan(folder, {"of": "random grids"}, images, codes, downscale=1)
    plan.begin()
    generator = torch.Generator().manual_seed(0)
    started = time.perf_counter()

    def made(numbers: range) -> Iterator[CaptionedImage]:
        blank = torch.empty(3, side, side, dtype=torch.uint8)
        for number in numbers:
            yield CaptionedImage(blank, (f"random grid number {number}",), str(number), (side, side))

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        return torch.randint(codes, (len(pixels), side, side), generator=generator)

    for shard in plan.missing():
        plan.write(shard, made(plan.covered(shard)), encode, _BATCH)
    written = time.perf_counter()
    plan.finish()
    size = sum(path.stat().st_size for path in folder.iterdir())
    return {
        "shards": -(-images // SHARD_IMAGES),
        "written a second": images / (written - started),
        "described in seconds": time.perf_counter() - written,
        "bytes an image": size / images,
        "bytes of its tokens": grid_bytes(side * side, codes),
    }


def read(folder: Path, reads: int) -> dict[str, float]:
    """Open the shards and read images in a training's order; return seconds, rates and anonymous memory."""
    before = anonymous_bytes()
    started = time.perf_counter()
    shards = TokenShards(folder)
    opened = time.perf_counter()
    order = Order(Shuffled(len(shards), seed=0))
    order.places([0])
    shuffled = time.perf_counter()
    most, used = 0, time.process_time()
    for start in range(0, reads, _BATCH):
        rows = [place.row for place in order.places(range(start, start + _BATCH))]
        shards.prefetch(rows)
        for row in rows:
            shards.tokens(row)
            shards.captions_of(row)
        most = max(most, anonymous_bytes()) if start % 3200 == 0 else most
    seconds = time.perf_counter() - shuffled
    return {
        "opened in seconds": opened - started,
        "shuffled in seconds": shuffled - opened,
        "read a second": reads / seconds,
        "read a second of processor time": reads / (time.process_time() - used),
        "megabytes of anonymous memory": most / 1e6,
        "of them before opening": before / 1e6,
    }


def anonymous_bytes() -> int:
    """Return the bytes of this process's memory that are no pages of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def drop(folder: Path) -> None:
    """Ask the system to forget the pages of a folder's files, which are on the disk."""
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main()
