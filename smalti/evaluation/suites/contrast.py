"""The suite `contrast`: log-likelihoods under similar prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar, NamedTuple

import torch

from smalti.evaluation.lattice import lattice_places
from smalti.evaluation.request import Request
from smalti.evaluation.subject import Subject
from smalti.evaluation.suite import Suite
from smalti.evaluation.suites.scenes.contrast import (
    KINDS,
    MASK_RATIOS,
    ContrastPair,
    contrasts,
    likelihood_drops,
    summarize_contrasts,
)


class KindPair(NamedTuple):
    """A pair of prompts.

    Attributes:
        kind: difference between the prompts, a key of `KINDS`.
        pair: scene with its own prompt and the other one.
    """

    kind: str
    pair: ContrastPair


class ContrastRow(NamedTuple):
    """The log-likelihood drop of one scene.

    Attributes:
        kind: difference between the prompts, a key of `KINDS`.
        drop: drop of the scene's log-likelihood under the other prompt, in nats, (mask ratios,) float.
    """

    kind: str
    drop: torch.Tensor


@dataclass(frozen=True)
class Contrast(Suite):
    """Compare the log-likelihood of scenes under their own prompt and under one with one change.

    The other prompt has another shape, colour or number, the opposite relation, or the colours of two objects swapped.
    Swapped colours are also measured with held-out pairs of shape and colour. All or nearly all tokens are masked.
    "nats" is the drop of the log-likelihood of an image's masked tokens under the other prompt. "right" is the fraction
    of images with a drop, 0.5 by chance. The number of images is that of each kind.

    Attributes:
        lattice: number of positions a side at which boxes are placed; 0 means any position.
    """

    lattice: int = 8
    model: ClassVar[str | None] = "scenes"
    needs: ClassVar[str] = "model"
    controls: ClassVar[frozenset[str]] = frozenset()
    count: ClassVar[int] = 96

    def __post_init__(self) -> None:
        lattice_places(self.lattice)

    def prompts(self, count: int, seed: int) -> list[KindPair]:
        """Return `count` pairs of each kind, one kind after the other."""
        places = lattice_places(self.lattice)
        return [
            KindPair(kind, pair)
            for kind in KINDS
            for pair in contrasts(kind, count, seed=seed, lattice=places)
        ]

    def make(self, subject: Subject, prompts: Sequence[KindPair], request: Request) -> Iterator[torch.Tensor]:
        """Yield the drop of each scene's log-likelihood under its other prompt."""
        for _, group in groupby(prompts, key=lambda prompt: prompt.kind):
            pairs = [prompt.pair for prompt in group]
            yield from likelihood_drops(subject.components, pairs, seed=request.seed)

    def score(self, prompt: KindPair, sample: torch.Tensor) -> ContrastRow:
        """Return the drop with its kind."""
        return ContrastRow(prompt.kind, sample)

    def summarize(self, rows: Sequence[ContrastRow]) -> dict[str, Any]:
        """Return the mean drop, its standard error and the fraction of images with a drop, by kind and mask ratio."""
        drops = {kind: [row.drop for row in rows if row.kind == kind] for kind in KINDS}
        kinds = {kind: summarize_contrasts(found) for kind, found in drops.items() if found}
        return {"kinds": kinds, "images": len(rows) // len(kinds)}

    def table(self, scores: dict[str, Any]) -> str:
        """Return a line for each kind with a column for each mask ratio."""
        kinds = scores["kinds"]
        width = max(map(len, kinds))
        lines = [" " * width + "".join(f"  {f'{ratio:.0%} masked':>16}" for ratio in MASK_RATIOS)]
        for kind, found in kinds.items():
            cells = (f"{found[ratio]['nats']:.2f} nats, {found[ratio]['right']:.2f}" for ratio in MASK_RATIOS)
            lines.append(f"{kind:>{width}}" + "".join(f"  {cell:>16}" for cell in cells))
        return "\n".join(lines)
