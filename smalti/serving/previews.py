"""Looks at an image in progress: a colour for each token, which costs next to nothing, or a decoded image."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from smalti.common.devices import autocast_off
from smalti.common.images import to_pil
from smalti.components import Components
from smalti.sampling.view import Step

# Number of codes that are decoded at a time for their colours.
_AT_ONCE = 64


class CodeColors:
    """The mean colour of each code of a codebook, decoded alone when it is first asked for.

    A decoder mixes a token with its neighbours, so the colour is an approximation. Decoding the codes that are new
    costs no more than decoding the grid, and images of one model share most of their codes.

    Example:
        >>> import smalti
        >>> pipe = smalti.load()
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


class Look:
    """What may be asked about a step of a batch.

    Attributes:
        step: the step.
        complete: whether the candidates are known at every masked position.
    """

    def __init__(self, components: Components, colors: CodeColors, step: Step, complete: bool) -> None:
        self.step, self.complete = step, complete
        self._components, self._colors = components, colors

    def counts(self, image: int) -> dict[str, int]:
        """Return how many tokens the step revealed, edited and remasked, how many are unknown, and of how many."""
        step = self.step
        unknown = step.tokens[image] == self._components.mask_code
        return {
            "revealed": int(step.revealed[image].sum()),
            "edited": int(step.edited[image].sum()),
            "remasked": int(step.remasked[image].sum()),
            "unknown": int(unknown.sum()),
            "tokens": unknown.numel(),
        }

    def preview(self, image: int) -> Preview:
        """Return the colours of an image; the step must be complete."""
        tokens, known = self._filled(image)
        return Preview(self._colors.of(tokens), known, self.step.edited[image].cpu().numpy())

    def picture(self, image: int) -> Image.Image:
        """Return an image decoded with its candidates, at the size of the canvas; the step must be complete."""
        tokens, _ = self._filled(image)
        return to_pil(self._components.decode(tokens[None])[0].permute(1, 2, 0).numpy())

    def _filled(self, image: int) -> tuple[torch.Tensor, np.ndarray]:
        tokens, candidate = self.step.tokens[image], self.step.candidate[image]
        unknown = tokens == self._components.mask_code
        return torch.where(unknown, candidate, tokens), (~unknown).cpu().numpy()


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()
