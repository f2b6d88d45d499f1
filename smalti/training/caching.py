"""The pictures of a denoiser's training as a token cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import torch

from smalti.common.devices import find_device
from smalti.data.cache import TokenCache, build_cache
from smalti.data.sources import Source, make_source
from smalti.training.config import DenoiserRunConfig
from smalti.vq.autoencoder import PatchEncoder
from smalti.vq.patches import PatchMemory
from smalti.vq.tokenizer import ImageTokenizer


def make_cache(config: DenoiserRunConfig, tokenizer: ImageTokenizer) -> TokenCache:
    """Open the configuration's token cache, after encoding what is missing of it."""
    source = make_source(config.data)
    device = find_device(config.loop.device)
    tokenizer = tokenizer.eval().to(device).to(memory_format=torch.channels_last)
    # What came later is named only where it says something, so that older caches stay valid.
    later = {
        "mix": None,
        "lattice_share": 1.0,
        "extra_shapes": 0.0,
        "halves": 0.0,
        "blobs": 0.0,
        "named": 0.0,
    }
    data = {
        key: value
        for key, value in config.data.model_dump().items()
        if key not in later or value != later[key]
    }
    facts = {"tokenizer": fingerprint(tokenizer), "data": data}

    by_square = PatchMemory(tokenizer) if isinstance(tokenizer.encoder, PatchEncoder) else None

    # In float32, as pictures are encoded everywhere else: bf16 gave one token in four another id.
    @torch.inference_mode()
    def encode(pixels: torch.Tensor) -> torch.Tensor:
        if by_square:
            return by_square(pixels)
        return tokenizer.from_pixels(pixels.to(device).contiguous(memory_format=torch.channels_last))

    cache = build_cache(config.cache.path, _in_order(source), config.cache.samples, encode, facts)
    tokenizer.cpu()
    return cache


def fingerprint(tokenizer: ImageTokenizer) -> str:
    """A short hash of what turns pictures into tokens, the weights but for the decoder's.

    Tokens mean nothing with another codebook; how they are drawn is another matter.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tokenizer.state_dict().items()):
        if name.startswith(("decoder.", "post_quant_conv.")):
            continue
        digest.update(name.encode() + tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _in_order(source: Source) -> Iterator[dict[str, Any]]:
    """The samples of a source by number, a finite one again and again."""
    at: Callable[[int], int] = (lambda i: i % len(source)) if hasattr(source, "__len__") else (lambda i: i)
    for index in count():
        yield source[at(index)]
