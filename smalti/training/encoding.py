"""Images as token shards: every process encodes its share, with an image tokenizer in float32."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from smalti.data.buckets import bucket_table
from smalti.data.config import DataSection, ShardsConfig, plain_data
from smalti.data.encoding import Encode, TokenPlan
from smalti.data.images import CaptionedImage
from smalti.data.sources import FileSource, Source, read_image
from smalti.data.tars import find_tars, make_index
from smalti.data.tokens import TokenShards
from smalti.errors import SmaltiError
from smalti.training.distribution import first_alone, rank, size, wait_for_all
from smalti.training.prefetching import prefetch
from smalti.vq.autoencoder import Encoder
from smalti.vq.patches import PatchMemory
from smalti.vq.tokenizer import ImageTokenizer

logger = logging.getLogger(__name__)

# Threads that read images. One leaves a CPU to the encoder; a GPU waits for several.
_READERS = {"cpu": 1, "cuda": 8}


def open_source(data: DataSection) -> Source | TokenShards:
    """Return the images of a section `data`; every process calls this at the same time.

    Tars without an index get one, each process its share.

    Raises:
        SmaltiError: there are no usable images.
    """
    if isinstance(data, ShardsConfig):
        for number, tar in enumerate(find_tars(Path(data.path))):
            if number % size() == rank():
                make_index(tar, Path(data.path), Path(data.index) if data.index else None)
        wait_for_all()
    return data.training()


def make_plan(
    folder: str | Path,
    data: DataSection,
    source: Source,
    tokenizer: ImageTokenizer,
    samples: int | None,
) -> TokenPlan:
    """Return what the token shards of a source will hold.

    They are keyed by the tokenizer's encoder, the section `data` and the number of images. Sources of files are also
    keyed by their fingerprint, such as names, sizes, times and captions of a folder.

    Args:
        folder: where they will be.
        data: the section `data`.
        source: its images.
        tokenizer: the image tokenizer.
        samples: number of images; None takes each image of a finite source once.
    """
    metadata: dict[str, Any] = {"tokenizer": fingerprint(tokenizer), "data": plain_data(data)}
    if isinstance(source, FileSource):
        metadata["files"] = source.fingerprint()
    count = samples or source.length
    if count is None:
        raise SmaltiError(f"samples must be given for {data.kind}, which are endless", argument="samples")
    codes, downscale = tokenizer.config.codebook_size, tokenizer.config.downscale
    shapes = getattr(data, "shapes", None) or ((data.size, data.size),)
    for side in sorted({side for shape in shapes for side in shape}):
        if side % downscale:
            raise SmaltiError(f"sides of images must be multiples of the tokenizer's {downscale}, not {side}")
    return TokenPlan(
        Path(folder), metadata, count, codes, downscale, mirrored=bool(getattr(data, "flips", False))
    )


def encode_source(
    plan: TokenPlan, source: Source, tokenizer: ImageTokenizer, device: str, batch_size: int = 32
) -> TokenShards:
    """Open the token shards of a plan, after encoding those that are missing.

    Every process calls this at the same time, and encodes its share of the shards. A second call continues an
    interrupted one, with any number of processes.

    Raises:
        SmaltiError: the folder cannot be written, or holds tokens of other images.
    """
    with first_alone():
        complete = plan.begin()
    if not complete:
        own = [shard for shard in plan.missing() if shard % size() == rank()]
        if own:
            _encode(plan, own, source, tokenizer, torch.device(device), batch_size)
        wait_for_all()
        with first_alone():
            if rank() == 0:
                left_out = plan.samples - len(plan.finish())
                if left_out:
                    logger.warning("%d of the %d images were skipped", left_out, plan.samples)
    return TokenShards(plan.folder)


def _encode(
    plan: TokenPlan,
    shards: list[int],
    source: Source,
    tokenizer: ImageTokenizer,
    device: torch.device,
    batch_size: int,
) -> None:
    """Encode shards with a bar in process 0; every process names the images that it skips."""
    logging.getLogger("smalti.data.images").setLevel(logging.WARNING)
    encode = _encoder(tokenizer, device)
    readers = _READERS.get(device.type, 1)
    total = sum(len(plan.covered(shard)) for shard in shards)
    with tqdm(
        total=total, unit="image", desc="encoding", dynamic_ncols=True, disable=None if rank() == 0 else True
    ) as bar:

        def _read(numbers: range) -> Iterator[CaptionedImage | None]:
            """Yield images that threads read, while earlier ones are encoded."""
            for _, image in prefetch(partial(read_image, source), numbers, readers, 2 * batch_size):
                bar.update()
                yield image

        for shard in shards:
            plan.write(shard, _read(plan.covered(shard)), encode, batch_size)
    tokenizer.cpu()


def _encoder(tokenizer: ImageTokenizer, device: torch.device) -> Encode:
    """Return the function that encodes images on a device."""
    tokenizer = tokenizer.eval().to(device)
    tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in PyTorch's types
    by_square = PatchMemory(tokenizer) if not isinstance(tokenizer.encoder, Encoder) else None

    # Images are encoded in float32 everywhere: bf16 changes about one token in four.
    @torch.inference_mode()
    def encode(pixels: torch.Tensor) -> torch.Tensor:
        if by_square:
            return by_square(pixels)
        return tokenizer.from_pixels(pixels.to(device).contiguous(memory_format=torch.channels_last))

    return encode


def print_buckets(shards: TokenShards) -> None:
    """Print the table of aspect-ratio buckets in process 0, if there is more than one."""
    if rank() == 0 and len(shards.buckets) > 1:
        tqdm.write(bucket_table(shards.buckets), file=sys.stderr)


def check_tokenizer(shards: TokenShards, tokenizer: ImageTokenizer, name: str) -> None:
    """Raise SmaltiError unless token shards were made by an image tokenizer; `name` is its folder."""
    found, wanted = shards.metadata.get("tokenizer"), fingerprint(tokenizer)
    if found != wanted or shards.codes != tokenizer.config.codebook_size:
        raise SmaltiError(
            f"{shards.folder} holds tokens of another image tokenizer ({found}) than {name} ({wanted}): "
            "encode the images again"
        )


def fingerprint(tokenizer: ImageTokenizer) -> str:
    """Return a short hash of the weights that encode images: all except the decoder's.

    Tokens have a meaning for one codebook only. A new decoder leaves them as they are.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tokenizer.state_dict().items()):
        if name.startswith(("decoder.", "post_quant_conv.")):
            continue
        digest.update(name.encode() + tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def short_hash(value: Any) -> str:
    """Return a short hash of a value as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
