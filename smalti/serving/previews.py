"""A look at an image in progress that costs next to nothing: a colour for each token."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from smalti.common.devices import autocast_off
from smalti.components import Components

# Number of codes that are decoded at a time for their colours.
_AT_ONCE = 64


class CodeColors:
    """The mean colour of each code of a codebook, decoded alone when it is first asked for.

    A decoder mixes a token with its neighbours, so the colour is an approximation. Decoding the codes that are new
    costs no more than decoding the grid, and images of one model share most of their codes.

    Example:
        >>> import smalti
        >>> pipe = smalti.load("scenes")
        >>> drawn = pipe("a red circle", seed=0, output_type="tokens")
        >>> CodeColors(pipe.components).of(drawn.tokens[0]).shape
        (16, 16, 3)
    """

    def __init__(self, components: Components) -> None:
        self._components = components
        codes = components.denoiser.config.codebook_size
        self._colors = np.zeros((codes, 3), dtype=np.uint8)
        self._known = np.zeros(codes, dtype=bool)

    def of(self, tokens: torch.Tensor) -> np.ndarray:
        """Return the colours of tokens (h, w) int64 without masks: (h, w, 3) uint8."""
        grid = tokens.cpu().numpy()
        new = np.unique(grid)
        new = new[~self._known[new]]
        for first in range(0, len(new), _AT_ONCE):
            self._decode(new[first : first + _AT_ONCE])
        colors: np.ndarray = self._colors[grid]
        return colors

    def _decode(self, codes: np.ndarray) -> None:
        tokenizer = self._components.image_tokenizer
        with torch.inference_mode(), autocast_off(tokenizer.device):
            grids = torch.from_numpy(codes).view(-1, 1, 1).to(tokenizer.device)
            pixels = tokenizer.to_pixels(grids, dtype=tokenizer.dtype)
            means = pixels.float().mean(dim=(2, 3)).round().to(torch.uint8)
        self._colors[codes] = means.cpu().numpy()
        self._known[codes] = True


@dataclass(frozen=True, eq=False)
class Preview:
    """The colours of an image in progress.

    Attributes:
        colors: (h, w, 3) uint8, of the token that is there, or of the candidate where it is unknown.
        known: (h, w) bool, positions that are filled.
        edited: (h, w) bool, tokens that this step replaced.
    """

    colors: np.ndarray
    known: np.ndarray
    edited: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """Return the grid's size, and RGB bytes and bits in raster order (most significant first) as base64."""
        return {
            "grid": list(self.known.shape),
            "colors": _text(self.colors.tobytes()),
            "known": _text(np.packbits(self.known).tobytes()),
            "edited": _text(np.packbits(self.edited).tobytes()),
        }


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()
