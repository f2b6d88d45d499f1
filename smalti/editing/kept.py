"""The tokens of a picture that Smalti made, kept with it, so that a later edit need not encode its pixels again."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from smalti.editing.canvas import Canvas
from smalti.editing.picture import Picture
from smalti.vq.tokenizer import ImageTokenizer

TEXT = "smalti-tokens"
"""The key of a PNG's text under which tokens are kept."""

# Codes that the codebook's name is made from, at most.
_NAMED_CODES = 4096


@dataclass(frozen=True, eq=False)
class KeptTokens:
    """The tokens of one picture, and where it lies on their canvas.

    Attributes:
        tokens: (h, w) int64 on the CPU.
        canvas: of height h · side and width w · side.
        codebook: which codebook the tokens are of, from `codebook_name`.
    """

    tokens: torch.Tensor
    canvas: Canvas
    codebook: str

    def to_text(self, picture: Picture) -> str:
        """What is written into the file of a picture; it holds for these pixels only."""
        packed = zlib.compress(self.tokens.numpy().astype("<i4").tobytes(), 9)
        return json.dumps(
            {
                "version": 1,
                "grid": list(self.tokens.shape),
                "tokens": base64.b64encode(packed).decode(),
                "size": self.canvas.size,
                "canvas": self.canvas.canvas,
                "place": self.canvas.place,
                "codebook": self.codebook,
                "pixels": picture.digest,
            }
        )


def keep(tokens: torch.Tensor, tokenizer: ImageTokenizer) -> KeptTokens:
    """The tokens, (h, w) int64, of a picture that fills its canvas, as drawing makes them."""
    height, width = (side * tokenizer.config.downscale for side in tokens.shape)
    canvas = Canvas((height, width), (height, width), (0, 0, height, width))
    return KeptTokens(tokens.cpu(), canvas, codebook_name(tokenizer))


def find_kept(picture: Picture, tokenizer: ImageTokenizer) -> KeptTokens | None:
    """The tokens kept in a picture's text, or None: there are none, the picture was changed since, or they are of
    another image tokenizer."""
    text = picture.text.get(TEXT)
    found = _read(text) if text is not None else None
    if found is None:
        return None
    kept, pixels = found
    side, codes = tokenizer.config.downscale, tokenizer.config.codebook_size
    height, width = kept.tokens.shape
    fits = (
        kept.codebook == codebook_name(tokenizer)
        and kept.canvas.size == picture.pixels.shape[:2]
        and kept.canvas.canvas == (height * side, width * side)
        and 0 <= int(kept.tokens.min())
        and int(kept.tokens.max()) < codes
    )
    # The hash last: it takes longest.
    return kept if fits and pixels == picture.digest else None


def codebook_name(tokenizer: ImageTokenizer) -> str:
    """A short name that another codebook does not have; rounding to fewer bits does not change it."""
    codes = tokenizer.quantize.embedding.weight.detach()
    rows = codes[:: -(-len(codes) // _NAMED_CODES)].to("cpu", torch.bfloat16)
    content = f"{tuple(codes.shape)}".encode() + rows.view(torch.int16).numpy().tobytes()
    return hashlib.sha256(content).hexdigest()[:16]


def _read(text: str) -> tuple[KeptTokens, str] | None:
    """The tokens in a text of `KeptTokens.to_text`, and the hash of their pixels; None if it is anything else."""
    try:
        values = json.loads(text)
        if not isinstance(values, Mapping) or values.get("version") != 1:
            return None
        height, width = (int(side) for side in values["grid"])
        count = height * width
        # A damaged text must not unpack to more than a grid.
        unpacked = zlib.decompressobj().decompress(base64.b64decode(values["tokens"]), 4 * count + 1)
        if min(height, width) < 1 or len(unpacked) != 4 * count:
            return None
        tokens = torch.from_numpy(np.frombuffer(unpacked, dtype="<i4").astype(np.int64)).view(height, width)
        size, canvas, place = (
            tuple(int(number) for number in values[key]) for key in ("size", "canvas", "place")
        )
        if (len(size), len(canvas), len(place)) != (2, 2, 4) or not _inside(place, canvas):
            return None
        return KeptTokens(tokens, Canvas(size, canvas, place), str(values["codebook"])), str(values["pixels"])
    except (ValueError, TypeError, KeyError, zlib.error):
        return None


def _inside(place: tuple[int, ...], canvas: tuple[int, ...]) -> bool:
    top, left, height, width = place
    return (
        min(top, left) >= 0
        and min(height, width) >= 1
        and top + height <= canvas[0]
        and left + width <= canvas[1]
    )
