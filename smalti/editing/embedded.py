"""Tokens embedded in the file of an image, so that a later edit does not encode the pixels again."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from smalti.common.files import parse_json
from smalti.editing.canvas import Canvas
from smalti.editing.picture import Picture
from smalti.vq.naming import codebook_name
from smalti.vq.tokenizer import ImageTokenizer

TEXT = "smalti-tokens"
"""Key of the embedded tokens among a PNG's texts."""

# Largest number of tokens that are read from a text, which anyone can write: an image of 65,536 × 65,536 pixels.
_MOST_TOKENS = 2**24


@dataclass(frozen=True, eq=False)
class EmbeddedTokens:
    """The tokens of one image, and its place on their canvas.

    Attributes:
        tokens: (h, w) int64 on the CPU.
        canvas: place of the image on a canvas of h · side by w · side pixels.
        codebook: name of the tokens' codebook, from `codebook_name`.
    """

    tokens: torch.Tensor
    canvas: Canvas
    codebook: str

    def to_text(self, picture: Picture) -> str:
        """Return the text that embeds the tokens in the file of an image; it is valid for these pixels only."""
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


def embed_tokens(tokens: torch.Tensor, tokenizer: ImageTokenizer) -> EmbeddedTokens:
    """Return the tokens, (h, w) int64, of an image that fills its canvas, such as a generated one."""
    height, width = (side * tokenizer.config.downscale for side in tokens.shape)
    canvas = Canvas((height, width), (height, width), (0, 0, height, width))
    return EmbeddedTokens(tokens.cpu(), canvas, codebook_name(tokenizer))


def find_embedded(picture: Picture, tokenizer: ImageTokenizer) -> EmbeddedTokens | None:
    """Return the tokens that are embedded in an image's texts, or None.

    The result is None if there are none, the image was changed since, or they belong to another codebook.
    """
    text = picture.text.get(TEXT)
    found = _read(text) if text is not None else None
    if found is None:
        return None
    embedded, pixels = found
    side, codes = tokenizer.config.downscale, tokenizer.config.codebook_size
    height, width = embedded.tokens.shape
    fits = (
        embedded.codebook == codebook_name(tokenizer)
        and embedded.canvas.size == picture.pixels.shape[:2]
        and embedded.canvas.canvas == (height * side, width * side)
        and 0 <= int(embedded.tokens.min())
        and int(embedded.tokens.max()) < codes
    )
    # The hash comes last because it takes longest.
    return embedded if fits and pixels == picture.digest else None


def _read(text: str) -> tuple[EmbeddedTokens, str] | None:
    """Return the tokens in a text of `EmbeddedTokens.to_text` and the hash of their pixels; None for other texts."""
    try:
        values = parse_json(text, TEXT)
        if not isinstance(values, Mapping) or values.get("version") != 1:
            return None
        height, width = (int(side) for side in values["grid"])
        count = height * width
        if min(height, width) < 1 or count > _MOST_TOKENS:
            return None
        # A damaged text must not unpack to more than a grid.
        unpacked = zlib.decompressobj().decompress(base64.b64decode(values["tokens"]), 4 * count + 1)
        if len(unpacked) != 4 * count:
            return None
        tokens = torch.from_numpy(np.frombuffer(unpacked, dtype="<i4").astype(np.int64)).view(height, width)
        H, W = (int(number) for number in values["size"])
        rows, columns = (int(number) for number in values["canvas"])
        top, left, below, beside = (int(number) for number in values["place"])
        canvas = Canvas((H, W), (rows, columns), (top, left, below, beside))
        if not _is_inside(canvas):
            return None
        return EmbeddedTokens(tokens, canvas, str(values["codebook"])), str(values["pixels"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError, zlib.error):
        return None


def _is_inside(canvas: Canvas) -> bool:
    """Return whether the image's place is inside of its canvas."""
    top, left, height, width = canvas.place
    return (
        min(top, left) >= 0
        and min(height, width) >= 1
        and top + height <= canvas.canvas[0]
        and left + width <= canvas.canvas[1]
    )
