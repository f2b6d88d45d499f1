"""The images of a denoiser's training in the order in which it shows them, as tokens with their loss weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from smalti.common.randomness import Draws
from smalti.data.order import Order, Place, Shuffled
from smalti.training.caching import TrainingTokens
from smalti.training.config import DenoiserRunConfig

_FULL = 255  # a mask's white


class Shown(NamedTuple):
    """Some images of one grid.

    Attributes:
        tokens: (B, h, w) int64.
        weights: (B, h, w) float, factors of the loss, or None for 1.
        places: where the images are.
    """

    tokens: torch.Tensor
    weights: torch.Tensor | None
    places: list[Place]


class Showing:
    """The endless row of a training's images: each position follows from the seed and its number alone.

    Args:
        tokens: the images, and those of the regularization.
        config: configuration of the training.
    """

    def __init__(self, tokens: TrainingTokens, config: DenoiserRunConfig) -> None:
        self._parts, self._seed = tokens.parts, config.seed
        self._kinds = [shards.kinds() for shards in self._parts]
        together = getattr(config.data, "together", 1)
        orders = [
            Shuffled(len(shards), config.seed, purpose, kinds[1] if kinds else None, together)
            for shards, purpose, kinds in zip(
                self._parts, ("shuffle", "shuffle regularization"), self._kinds, strict=False
            )
        ]
        second = config.regularization
        self._order = Order(orders[0], orders[1] if second else None, second.share if second else 0.0)
        self._factors = [1.0, second.weight if second else 1.0]
        self.grids = list(dict.fromkeys(grid for shards in self._parts for grid in shards.grids))

    def grids_of(self, images: Sequence[int]) -> list[tuple[int, int]] | None:
        """Return the grid of each image, or None if all have one."""
        if len(self.grids) == 1:
            return None
        return [self._grid(place) for place in self._order.places(images)]

    def batch(self, images: Sequence[int]) -> Shown:
        """Return images of one grid by their positions in the row."""
        places = self._order.places(images)
        for part, shards in enumerate(self._parts):
            shards.prefetch([row for own, row in places if own == part])
        flips = [False] * len(places)
        if any(shards.mirrored for shards in self._parts):
            drawn = (Draws.of(self._seed, "flip", images).uniform() < 0.5).tolist()
            flips = [
                self._parts[part].mirrored and flip for (part, _), flip in zip(places, drawn, strict=True)
            ]
        found = [
            self._parts[part].tokens(row, flip=flip) for (part, row), flip in zip(places, flips, strict=True)
        ]
        tokens = torch.from_numpy(np.stack([own for own, _ in found]))
        factors = [self._factors[part] for part, _ in places]
        if set(factors) == {1.0} and all(mask is None for _, mask in found):
            return Shown(tokens, None, places)
        weights = torch.tensor(factors)[:, None, None].repeat(1, *tokens.shape[1:])
        for row, (_, mask) in enumerate(found):
            if mask is not None:
                weights[row] *= torch.from_numpy(mask / np.float32(_FULL))
        return Shown(tokens, weights, places)

    def _grid(self, place: Place) -> tuple[int, int]:
        kinds = self._kinds[place.part]
        if kinds is None:
            return next(iter(self._parts[place.part].grids))
        return kinds[0][int(kinds[1][place.row])]
