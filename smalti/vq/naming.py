"""Names of codebooks, by which tokens and classifiers know the image tokenizer that they belong to."""

from __future__ import annotations

import hashlib

import torch

from smalti.vq.tokenizer import ImageTokenizer

# Largest number of codes that are hashed into a codebook's name.
_NAMED_CODES = 4096


def codebook_name(tokenizer: ImageTokenizer) -> str:
    """Return a short name that no other codebook has; rounding to fewer bits does not change it."""
    codes = tokenizer.quantize.embedding.weight.detach()
    rows = codes[:: -(-len(codes) // _NAMED_CODES)].to("cpu", torch.bfloat16)
    content = f"{tuple(codes.shape)}".encode() + rows.view(torch.int16).numpy().tobytes()
    return hashlib.sha256(content).hexdigest()[:16]
