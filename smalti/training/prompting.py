"""The captions of a training as prompts: one of several is drawn each time, and few are encoded ahead of time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from smalti.common.randomness import Draws
from smalti.data.order import Place
from smalti.data.tokens import TokenShards
from smalti.errors import SmaltiError
from smalti.model.prompt import PromptBatch
from smalti.model.text import TextTokenizer
from smalti.training.captions import check_token_captions, cut_caption
from smalti.training.distribution import rank

# Prompt ids that are encoded once at the start, half a GB; more are encoded batch by batch.
_IDS_AHEAD = 2**26

Build = Callable[[list[str], tuple[int, int]], PromptBatch]
"""Function of captions and a grid, in tokens, that returns prompts in the model's template."""


class Captions:
    """The captions of a training's images.

    Args:
        parts: the sets of images.
        text: the text tokenizer.
        most: most text tokens of a caption.
        cut: whether longer ones lose their last words; otherwise they are an error.
        build: makes prompts.
        length: ids of a whole prompt, at most.

    Raises:
        SmaltiError: a caption is too long; the message names its image.
    """

    def __init__(
        self,
        parts: Sequence[TokenShards],
        text: TextTokenizer,
        most: int,
        cut: bool,
        build: Build,
        length: int,
    ) -> None:
        self._parts, self._text, self._most, self._cut, self._build = parts, text, most, cut, build
        grids = {grid for shards in parts for grid in shards.grids}
        few = len(grids) == 1 and sum(shards.captions for shards in parts) * length <= _IDS_AHEAD
        self._firsts: list[np.ndarray] = []
        self.encoded: PromptBatch | None = None
        if few:
            self._encode(grids.pop())
        elif not cut:
            self._check()

    def prompts(
        self, places: Sequence[Place], grid: tuple[int, int], draws: Callable[[], Draws]
    ) -> PromptBatch:
        """Return the prompts of some images: a caption of each, drawn if it has several.

        Args:
            places: where the images are.
            grid: their height and width in tokens.
            draws: function that returns as many draws, which is called if an image has several captions.
        """
        if self.encoded is not None:
            firsts = [self._firsts[part][row : row + 2].tolist() for part, row in places]
            drawn = _draw([last - first for first, last in firsts], draws)
            return self.encoded.select(
                [first + number for (first, _), number in zip(firsts, drawn, strict=True)]
            )
        texts = [self._parts[part].captions_of(row) for part, row in places]
        chosen = [own[number] for own, number in zip(texts, _draw(list(map(len, texts)), draws), strict=True)]
        return self._build([self._fitted(caption) for caption in chosen], grid)

    def _encode(self, grid: tuple[int, int]) -> None:
        """Encode all captions."""
        captions: list[str] = []
        for shards in self._parts:
            own = [shards.captions_of(row) for row in range(len(shards))]
            self._firsts.append(len(captions) + np.cumsum([0, *map(len, own)]))
            captions += [self._fitted(caption) for one in own for caption in one]
        try:
            self.encoded = self._build(captions, grid)
        except SmaltiError:
            self._check()  # which names the image
            raise

    def _check(self) -> None:
        if rank() == 0:
            for shards in self._parts:
                check_token_captions(shards, self._text, self._most)

    def _fitted(self, caption: str) -> str:
        return cut_caption(caption, self._text, self._most) if self._cut else caption


def _draw(counts: list[int], draws: Callable[[], Draws]) -> list[int]:
    """Return a number below each count."""
    if max(counts, default=1) == 1:
        return [0] * len(counts)
    return [min(int(value * n), n - 1) for value, n in zip(draws().uniform().tolist(), counts, strict=True)]
