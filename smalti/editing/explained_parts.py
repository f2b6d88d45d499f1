"""What single words and pairs of words say about an image, as maps over its tokens and its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class ExplainedWord:
    """A word and what it says about an image.

    Attributes:
        word: the word or the phrase.
        place: its characters in the prompt, (start, end).
        nats: information about the whole image.
        peak: (x, y), pixel of the image that the word says most about.
        values: information about each token, (h, w) float32, in nats.
        map: map over the image's pixels, (H, W) float32 from 0 to 1, sharpened along its edges.
    """

    word: str
    place: tuple[int, int]
    nats: float
    peak: tuple[int, int]
    values: np.ndarray
    map: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold: word, nats, peak, and the information about each token."""
        return {
            "word": self.word,
            "nats": round(self.nats, 4),
            "peak": list(self.peak),
            "map": _rounded(self.values),
        }


@dataclass(frozen=True, eq=False)
class ExplainedPair:
    """Two words and the parts of what they say about an image.

    Attributes:
        words: both words.
        overlap: redundant part of the information of the less informative word, from 0 to 1.
        parts: information about each token, (h, w) float32, in nats: "redundant", "unique first", "unique second" and
            "synergistic".
        maps: maps of these parts over the image's pixels, (H, W) float32 from -1 to 1, of one scale.
    """

    words: tuple[str, str]
    overlap: float
    parts: dict[str, np.ndarray]
    maps: dict[str, np.ndarray]

    @property
    def nats(self) -> dict[str, float]:
        """The parts of the information about the whole image."""
        return {name: float(part.sum()) for name, part in self.parts.items()}

    @property
    def titles(self) -> dict[str, str]:
        """The parts' names for readers, such as "unique to red"."""
        unique = {"unique first": self.words[0], "unique second": self.words[1]}
        return {name: f"unique to {unique[name]}" if name in unique else name for name in self.parts}

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold: words, overlap, and nats and map of each part."""
        return {
            "words": list(self.words),
            "overlap": round(self.overlap, 4),
            "nats": {name: round(value, 4) for name, value in self.nats.items()},
            "maps": {name: _rounded(part) for name, part in self.parts.items()},
        }


def _rounded(values: np.ndarray) -> list[list[float]]:
    return [[round(float(value), 4) for value in row] for row in values]
