"""Edits of a model with several selections of tokens, and the true edit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from smalti.common.randomness import generator
from smalti.components import Components
from smalti.editing.edit import start_edit
from smalti.editing.regions import NothingChosen, random_share
from smalti.editing.selection import Selection
from smalti.evaluation.suites.scenes.edit_pairs import EditPair, changed_tokens
from smalti.generation.settings import GenerationSettings

SELECTIONS = ("automatic", "true_mask", "redraw_all", "random_share")
"""Selections of tokens: by likelihood drop; those that truly change; all; as many as by likelihood drop, at random."""

_TRUE_TOKEN = 16  # side in pixels of the tokens of a true edit, which no model makes


class Edited(NamedTuple):
    """An edited image.

    Attributes:
        pixels: pixels of the image, (H, W, 3) uint8.
        region: tokens that were filled again, (h, w) bool.
        tokens_kept: whether all other tokens have the same ids as before.
    """

    pixels: np.ndarray
    region: np.ndarray
    tokens_kept: bool


def edit_by(
    components: Components,
    pair: EditPair,
    settings: GenerationSettings,
    *,
    seed: int,
    size: int = 256,
    selections: Sequence[str] = SELECTIONS,
) -> Iterator[tuple[str, Edited]]:
    """Make one edit with several selections, and yield the name of each and its result.

    Args:
        components: the model.
        pair: edit with its known result.
        settings: settings of the sampling.
        seed: seed of the filling and of the random share.
        size: side of the images in pixels.
        selections: names from `SELECTIONS`; "random_share" needs "automatic" before it.
    """
    before, after = pair.images(size)
    side = components.image_tokenizer.config.downscale
    share = 1.0
    for name in selections:
        selection: Selection | None
        if name == "automatic":
            selection = Selection(source_prompt=pair.source_prompt)
        elif name == "true_mask":
            selection = _within(changed_tokens(before, after, side))
        elif name == "redraw_all":
            selection = Selection(strength=1.0)
        else:
            draw = generator(seed)
            grid = torch.zeros(size // side, size // side)
            selection = _within(random_share(grid, share, draw).numpy()) if share else None
        edited = _edit(components, before, pair.prompt, selection, settings, seed)
        if name == "automatic":
            share = float(edited.region.mean())
        yield name, edited


def true_edit(pair: EditPair, size: int = 256) -> Edited:
    """Return the result of a perfect edit."""
    before, after = pair.images(size)
    return Edited(after, changed_tokens(before, after, _TRUE_TOKEN), True)


def _edit(
    components: Components,
    before: np.ndarray,
    prompt: str,
    selection: Selection | None,
    settings: GenerationSettings,
    seed: int,
) -> Edited:
    """Return the result of an edit, or the image itself if no token is selected."""
    side = components.image_tokenizer.config.downscale
    nothing = Edited(before, np.zeros((len(before) // side, len(before) // side), dtype=bool), True)
    if selection is None:
        return nothing
    try:
        result = start_edit(components, before, prompt, selection, settings, seed=seed).output()
    except NothingChosen:
        return nothing
    same = (result.tokens[0] == result.tokens_before) | result.region
    return Edited(np.array(result.image), result.region.numpy(), bool(same.all()))


def _within(region: np.ndarray) -> Selection:
    """Return a selection of these tokens, (h, w) bool."""
    return Selection(strength=1.0) if region.all() else Selection(mask=region)
