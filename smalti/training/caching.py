"""The images of a denoiser's training as a token cache."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from itertools import count
from typing import Any

import torch

from smalti.common.devices import find_device
from smalti.data.cache import TokenCache, build_cache
from smalti.data.sources import FileSource, Source
from smalti.training.config import DenoiserRunConfig
from smalti.training.reading import name_key
from smalti.vq.autoencoder import Encoder
from smalti.vq.patches import PatchMemory
from smalti.vq.tokenizer import ImageTokenizer

logger = logging.getLogger(__name__)


def make_cache(config: DenoiserRunConfig, source: Source, tokenizer: ImageTokenizer) -> TokenCache:
    """Open the configuration's token cache, after encoding the images that it lacks.

    The cache is keyed by the tokenizer's encoder, the section `data` and the number of images. Sources of files are
    also keyed by their fingerprint, such as names, sizes, times and captions of a folder.

    Args:
        config: configuration of the training.
        source: its images.
        tokenizer: the image tokenizer that encodes them.

    Raises:
        SmaltiError: the data have no usable images, or the folder holds a cache of other images.
    """
    device = find_device(config.loop.device)
    tokenizer = tokenizer.eval().to(device)
    tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in PyTorch's types
    # Settings at their defaults are left out, so that a new setting leaves the caches of old configurations valid.
    plain = {"kind": config.data.kind, "size": config.data.size}
    data = {**plain, **config.data.model_dump(exclude_defaults=True)}
    metadata = {"tokenizer": fingerprint(tokenizer), "data": data}
    if isinstance(source, FileSource):
        metadata["files"] = source.fingerprint()
    count = config.cache.samples
    if source.length is not None and source.length > count:
        logger.warning(
            "cache.samples is %d: the other %d of the %d images are not trained on",
            count, source.length - count, source.length,
        )  # fmt: skip

    by_square = PatchMemory(tokenizer) if not isinstance(tokenizer.encoder, Encoder) else None

    # Images are encoded in float32 everywhere: bf16 changes about one token in four.
    @torch.inference_mode()
    def encode(pixels: torch.Tensor) -> torch.Tensor:
        if by_square:
            return by_square(pixels)
        return tokenizer.from_pixels(pixels.to(device).contiguous(memory_format=torch.channels_last))

    with name_key("cache.path"):
        cache = build_cache(config.cache.path, _in_order(source), count, encode, metadata)
    tokenizer.cpu()
    return cache


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


def _in_order(source: Source) -> Iterator[dict[str, Any]]:
    """Yield the samples of a source by number without end."""
    return (source[index] for index in count())
