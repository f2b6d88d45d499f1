"""The result of an explanation: maps and peaks in the pixels of the image as it was given, a figure, and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from smalti.components import Components
from smalti.editing.grounded import lifted
from smalti.editing.source import WorkingImage, open_source, prepare
from smalti.reading.candidates import Report
from smalti.reading.grounding import PASSES
from smalti.reading.information import Information, PairInformation, check_pairs, check_words, explain
from smalti.reading.regions import scaled, sharpened

_HEAT = np.array((230, 0, 150), dtype=np.float32)
_COLUMNS, _PANEL, _GAP, _LINE = 4, 224, 8, 16


@dataclass(frozen=True, eq=False)
class ExplainedWord:
    """A word and what it says about an image.

    Attributes:
        word: the word or the phrase.
        nats: information about the whole image.
        peak: (x, y), pixel of the image that the word says most about.
        values: information about each token, (h, w) float32, in nats.
        map: map over the image's pixels, (H, W) float32 from 0 to 1, sharpened along its edges.
    """

    word: str
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
        maps: maps of these parts over the image's pixels, (H, W) float32 from 0 to 1, of one scale.
    """

    words: tuple[str, str]
    overlap: float
    parts: dict[str, np.ndarray]
    maps: dict[str, np.ndarray]

    @property
    def nats(self) -> dict[str, float]:
        """The parts of the information about the whole image."""
        return {name: float(part.sum()) for name, part in self.parts.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold: words, overlap, and nats and map of each part."""
        return {
            "words": list(self.words),
            "overlap": round(self.overlap, 4),
            "nats": {name: round(value, 4) for name, value in self.nats.items()},
            "maps": {name: _rounded(part) for name, part in self.parts.items()},
        }


@dataclass(frozen=True, eq=False)
class ExplainResult:
    """What the words of a prompt say about an image.

    Attributes:
        picture: pixels of the image, (H, W, 3) uint8.
        prompt: prompt of the image.
        words: what each word says.
        pairs: what each pair says.
        passes: number of grids that the denoiser has read.
    """

    picture: np.ndarray
    prompt: str
    words: list[ExplainedWord]
    pairs: list[ExplainedPair]
    passes: int

    def figure(self) -> Image.Image:
        """Return the image with a tinted copy for each word, and four for each pair, under their names and nats.

        The strongest word has the full tint. Words that say less are paler.
        """
        most = max((float(one.values.max()) for one in self.words), default=0.0)
        panels: list[tuple[str, np.ndarray | None]] = [
            ("", np.zeros(self.picture.shape[:2], dtype=np.float32))
        ]
        for one in self.words:
            strength = max(0.0, float(one.values.max()) / most) if most > 0 else 0.0
            panels.append((f"{one.word}: {one.nats:.1f} nats", strength * one.map))
        panels += [("", None)] * (-len(panels) % _COLUMNS)
        for pair in self.pairs:
            names = {"unique first": f"{pair.words[0]} alone", "unique second": f"{pair.words[1]} alone"}
            both = f"{pair.words[0]}, {pair.words[1]}: "
            for name, nats in pair.nats.items():
                panels.append((f"{names.get(name, both + name)} {nats:.1f}", pair.maps[name]))
        return self._sheet(panels)

    def _sheet(self, panels: Sequence[tuple[str, np.ndarray | None]]) -> Image.Image:
        """Return tinted copies of the image in rows of four, each under its title; None leaves a place empty."""
        H, W = self.picture.shape[:2]
        width, height = (max(1, round(side * _PANEL / max(H, W))) for side in (W, H))
        rows = -(-len(panels) // _COLUMNS)
        across, down = _PANEL + _GAP, height + _LINE + _GAP
        sheet = Image.new("RGB", (_COLUMNS * across - _GAP, rows * down - _GAP), "white")
        draw = ImageDraw.Draw(sheet)
        for number, (title, heat) in enumerate(panels):
            row, column = divmod(number, _COLUMNS)
            left, top = column * across, row * down
            if heat is not None:
                tinted = Image.fromarray(self._tinted(heat, pale=number > 0))
                sheet.paste(tinted.resize((width, height)), (left, top + _LINE))
            draw.text((left, top), _fitting(draw, title), fill="black")
        return sheet

    def _tinted(self, heat: np.ndarray, *, pale: bool) -> np.ndarray:
        """Return the image, grey and pale, with a colour where a map is high: (H, W, 3) uint8."""
        pixels = self.picture.astype(np.float32)
        if pale:
            grey = pixels.mean(axis=2, keepdims=True).repeat(3, axis=2)
            pixels = 0.5 * grey + 0.5 * 255
        return (pixels + 0.85 * heat[..., None] * (_HEAT - pixels)).round().clip(0, 255).astype(np.uint8)


def explain_image(
    components: Components,
    image: Any,
    size: tuple[int, int],
    *,
    prompt: str | None = None,
    words: Sequence[str] | None = None,
    pairs: Sequence[tuple[str, str]] = (),
    masks: int = PASSES,
    seed: int = 0,
    report: Report | None = None,
) -> ExplainResult:
    """Tell what the words of a prompt say about an image.

    Args:
        components: the model.
        image: image as for `smalti.editing.source.open_source`.
        size: (height, width) in pixels of the canvas of an image that has none.
        prompt: what the image shows; None is the prompt that it was made with.
        words, pairs, masks, seed, report: as for `smalti.reading.information.explain`.

    Raises:
        SmaltiError: an argument that is wrong, by name.
    """
    source = open_source(components, image, size, reuse=True)
    text = source.described(prompt)
    check_words(text, words)
    check_pairs(text, pairs)
    work = prepare(components, source, None)
    found = explain(
        components, work.tokens, text, words=words, pairs=pairs, masks=masks, seed=seed, report=report
    )
    return _shown(work, found)


def _shown(work: WorkingImage, found: Information) -> ExplainResult:
    """Return what was found over tokens as it is in the image's pixels."""
    picture = work.picture.shown
    pixels = torch.from_numpy(work.canvas.put(picture)).permute(2, 0, 1)

    def over_pixels(values: torch.Tensor) -> np.ndarray:
        return lifted(work.canvas, sharpened(values, pixels))

    words = []
    for one in found.words:
        heat = over_pixels(scaled(one.values))
        y, x = divmod(int(heat.argmax()), heat.shape[1])
        words.append(ExplainedWord(one.word, one.total, (x, y), one.values.numpy(), heat))
    pairs = []
    for pair in found.pairs:
        parts = _parts(pair)
        most = max(float(part.max()) for part in parts.values())
        maps = {name: over_pixels((part / max(most, 1e-9)).clamp(0, 1)) for name, part in parts.items()}
        values = {name: part.numpy() for name, part in parts.items()}
        pairs.append(ExplainedPair(pair.words, pair.overlap, values, maps))
    return ExplainResult(picture, found.prompt, words, pairs, found.passes)


def _parts(pair: PairInformation) -> dict[str, torch.Tensor]:
    """Return the parts of a pair's information by name."""
    return {
        "redundant": pair.redundant,
        "unique first": pair.unique[0],
        "unique second": pair.unique[1],
        "synergistic": pair.synergistic,
    }


def _rounded(values: np.ndarray) -> list[list[float]]:
    return [[round(float(value), 4) for value in row] for row in values]


def _fitting(draw: ImageDraw.ImageDraw, title: str) -> str:
    """Return a title that is cut to a panel's width."""
    if draw.textlength(title) <= _PANEL:
        return title
    while title and draw.textlength(title + "…") > _PANEL:
        title = title[:-1]
    return title + "…"
