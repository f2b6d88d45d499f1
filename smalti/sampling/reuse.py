"""Reuse rules: what a pass computes, and what it takes from an earlier pass (docs/format.md, section 5)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch.nn import functional as F

from smalti.common.checks import check_real, check_whole
from smalti.errors import SmaltiError
from smalti.model.cells import CellMemory
from smalti.model.denoiser import Denoiser
from smalti.model.light import LightMemory
from smalti.model.reuse import PromptMemory
from smalti.sampling.ranking import first_among

Memory = type[PromptMemory] | type[CellMemory] | type[LightMemory]


@dataclass(frozen=True)
class CellView:
    """What a rule sees before a pass that may compute some cells alone. A cell is a position of the backbone.

    Tensors are (B, S), S the number of cells in raster order.

    Attributes:
        grid: (rows, columns) in cells.
        changed: bool, cells whose tokens are not those that their last computation read.
        expected: bool, cells with tokens that this step reveals; where only the pass decides, those that it would
            reveal by the predictions of the last step.
        doubt: float32 in [0, 1], the largest 1 − p(current) of a cell's visible tokens when last asked; 0 without.
        age: int64, steps since the cell was computed.
    """

    grid: tuple[int, int]
    changed: torch.Tensor
    expected: torch.Tensor
    doubt: torch.Tensor
    age: torch.Tensor


class Reuse(Protocol):
    """A rule for what passes take from earlier ones. A class that inherits from it and keeps nothing needs no method.

    Example:
        >>> CellReuse(every=8, warmup=0.1).refreshes(3, 32)
        True
    """

    memory: ClassVar[Memory | None] = None
    """What is kept between passes: the prompt's part, all cells, or the backbone's output; None is nothing."""

    def check(self, denoiser: Denoiser) -> None:
        """Raise SmaltiError unless the rule can be used with a denoiser."""
        return None

    def passes(self, index: int, steps: int) -> bool:
        """Return whether step `index` counts as a pass of the denoiser."""
        return True

    def refreshes(self, index: int, steps: int) -> bool:
        """Return whether step `index`, counted from 0, computes everything."""
        return True

    def computed(self, view: CellView) -> torch.Tensor:
        """Return the cells that a pass computes, (B, S) bool. Asked between refreshes, if cells are kept."""
        return torch.ones_like(view.changed)


@dataclass(frozen=True)
class NoReuse(Reuse):
    """Compute everything at every step, which is exact."""


@dataclass(frozen=True)
class _PeriodicReuse(Reuse):
    """Compute everything at each k-th step."""

    every: int = 4

    def __post_init__(self) -> None:
        check_whole("every", self.every)

    def refreshes(self, index: int, steps: int) -> bool:
        """Return whether `index` is a multiple of k."""
        return index % self.every == 0


@dataclass(frozen=True)
class PromptReuse(_PeriodicReuse):
    """Compute the prompt's part of every layer only at each k-th step, an approximation for prompts in the sequence.

    Attributes:
        every: k, steps from one computation of the prompt's part to the next; 1 is exact.
    """

    memory: ClassVar[Memory | None] = PromptMemory


@dataclass(frozen=True)
class CellReuse(Reuse):
    """Compute only cells that changed, that the step reveals, or that are in doubt; all of them at each k-th step.

    The others keep their keys, values and predictions, and the prompt its keys and values. Recomputing what changed
    follows dKV-Cache (arXiv 2505.15781), recomputing what is uncertain the cache of Lumina-DiMOO (arXiv 2510.06308).
    Computing what is about to be revealed is a Smalti extension: a revealed token is never drawn from an old prediction
    where the order is fixed.

    Attributes:
        every: k, steps from one computation of everything to the next; 1 is exact.
        warmup: share of the steps, at the start, that compute everything.
        near: distance in cells within which a change makes others be computed; 0 is the changed cells alone.
        share: share of the cells that is computed beside these, the most doubtful first, then the oldest.
    """

    every: int = 16
    warmup: float = 0.1
    near: int = 0
    share: float = 0.2
    memory: ClassVar[Memory | None] = CellMemory

    def __post_init__(self) -> None:
        check_whole("every", self.every)
        check_real("warmup", self.warmup, 0, 1)
        check_whole("near", self.near, 0)
        check_real("share", self.share, 0, 1)

    def refreshes(self, index: int, steps: int) -> bool:
        """Return whether the step belongs to the warm-up, or is a multiple of k after it."""
        warm = math.ceil(self.warmup * steps)
        return index < warm or (index - warm) % self.every == 0

    def computed(self, view: CellView) -> torch.Tensor:
        """Return the cells to compute, (B, S) bool."""
        needed = _spread(view.changed, view.grid, self.near) | view.expected
        cells = needed.shape[1]
        # In sixteenths of the grid, so that few shapes occur and images of a batch mostly share a pass.
        unit = max(1, cells // 16)
        counts = needed.sum(dim=1) + math.ceil(self.share * cells)
        counts = (counts + unit - 1) // unit * unit
        return first_among(torch.ones_like(needed), counts, needed, view.doubt, view.age)


@dataclass(frozen=True)
class LightReuse(_PeriodicReuse):
    """Run the denoiser at each k-th step, and between them a light layer on its last output (--light FILE).

    With k times as many steps as passes, each step reveals fewer tokens at once, and tokens see those of the steps
    before. This is ADJUST (arXiv 2509.22738), whose light passes reveal one token each. Here they follow the budget.

    Attributes:
        every: k, steps from one pass of the denoiser to the next; 1 is exact.
    """

    memory: ClassVar[Memory | None] = LightMemory

    def check(self, denoiser: Denoiser) -> None:
        """Raise SmaltiError unless the denoiser has a light layer."""
        if denoiser.light is None:
            raise SmaltiError(
                "reuse 'light' needs a light layer: load one with light=FILE (--light FILE)", argument="reuse"
            )

    def passes(self, index: int, steps: int) -> bool:
        """Return whether the denoiser runs; a light layer is no pass."""
        return self.refreshes(index, steps)


REUSES: dict[str, type[Reuse]] = {
    "none": NoReuse,
    "prompt": PromptReuse,
    "cells": CellReuse,
    "light": LightReuse,
}
"""Every reuse rule by the name that settings use."""


def _spread(cells: torch.Tensor, grid: tuple[int, int], distance: int) -> torch.Tensor:
    """Return the cells within a distance of some cells in both directions, (B, S) bool."""
    if distance == 0:
        return cells
    maps = cells.float().unflatten(1, grid)[:, None]
    return F.max_pool2d(maps, 2 * distance + 1, stride=1, padding=distance).flatten(1) > 0
