"""The result of an explanation: maps and peaks in the pixels of the image as it was given, a figure, and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from smalti.components import Components
from smalti.editing.explained_figure import draw_figure
from smalti.editing.explained_parts import ExplainedPair, ExplainedWord
from smalti.editing.grounded import lifted
from smalti.editing.source import WorkingImage, open_source, prepare
from smalti.reading.candidates import Report
from smalti.reading.grounding import PASSES
from smalti.reading.information import Information, PairInformation, check_pairs, check_words, explain
from smalti.reading.regions import scaled, sharpened


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
        """Return the prompt with its words marked, the image tinted for each word, and four parts of each pair."""
        return draw_figure(self.picture, self.prompt, self.words, self.pairs)


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
        words.append(ExplainedWord(one.word, one.place, one.total, (x, y), one.values.numpy(), heat))
    pairs = []
    for pair in found.pairs:
        parts = _parts(pair)
        most = max(1e-9, *(float(part.abs().max()) for part in parts.values()))
        maps = {
            name: over_pixels((part / most).clamp_min(0)) - over_pixels((-part / most).clamp_min(0))
            for name, part in parts.items()
        }
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
