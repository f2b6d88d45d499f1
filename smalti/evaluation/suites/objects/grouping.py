"""Which pieces that touch are one thing: those that together look more like a noun than apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import torch
from PIL import Image, ImageFilter

Name = Callable[[Sequence[np.ndarray]], torch.Tensor]
"""Returns the probabilities of the nouns, and of anything else, for the cells (h, w) bool of each of some pieces."""

_MOST = 12  # pieces; an image with more shows no things that could be named


def join_pieces(owners: np.ndarray, name: Name) -> tuple[np.ndarray, torch.Tensor]:
    """Return the owners of cells, (h, w) int64, after the union of pieces, and the probabilities for each thing.

    Two pieces that touch become one thing if its likeliest noun is more certain than that of the less certain piece.
    A swan's head and body are a swan together; two cats side by side are cats apart.

    Args:
        owners: (h, w) int64, the number of the piece that covers each cell; −1 for the ground.
        name: names pieces.
    """
    pieces = [owners == number for number in range(int(owners.max()) + 1)]
    shares = list(name(pieces)) if pieces else []
    wide = [_wider(piece) for piece in pieces]
    unions: dict[tuple[int, int], torch.Tensor] = {}
    alive = list(range(len(pieces))) if len(pieces) <= _MOST else []
    while True:
        pairs = [pair for pair in combinations(alive, 2) if (wide[pair[0]] & wide[pair[1]]).any()]
        fresh = [pair for pair in pairs if pair not in unions]
        if fresh:
            found = name([pieces[first] | pieces[second] for first, second in fresh])
            unions.update(zip(fresh, found, strict=True))
        gains = [_sure(unions[pair]) - min(_sure(shares[number]) for number in pair) for pair in pairs]
        if not pairs or max(gains) <= 0:
            break
        first, second = pair = pairs[int(np.argmax(gains))]
        alive = [number for number in alive if number not in pair] + [len(pieces)]
        pieces.append(pieces[first] | pieces[second])
        wide.append(wide[first] | wide[second])
        shares.append(unions[pair])
    kept = alive or range(len(pieces))
    joined = np.full_like(owners, -1)
    for number, place in enumerate(kept):
        joined[pieces[place]] = number
    return joined, torch.stack([shares[place] for place in kept]) if pieces else torch.empty(0, 1)


def _sure(shares: torch.Tensor) -> float:
    """Return the probability of the likeliest noun."""
    return float(shares[:-1].max())


def _wider(piece: np.ndarray) -> np.ndarray:
    """Return the cells of a piece and their neighbours."""
    return np.asarray(Image.fromarray(piece).convert("L").filter(ImageFilter.MaxFilter(3))) > 0
