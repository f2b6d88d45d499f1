"""Which visible tokens a step takes back and sets anew (token editing, docs/format.md, section 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from smalti.checks import check_real
from smalti.sampling.view import StepView


class Editing(Protocol):
    """A rule for which visible tokens change."""

    enabled: ClassVar[bool]
    """Whether visible positions are worth evaluating at all."""

    def changes(self, view: StepView) -> torch.Tensor:
        """(B, n) bool; those of `view.visible` that are True take the candidate."""


@dataclass(frozen=True)
class NoEditing:
    """A token that is set stays."""

    enabled: ClassVar[bool] = False

    def changes(self, view: StepView) -> torch.Tensor:
        """(B, n) bool, all False."""
        return torch.zeros_like(view.visible)


@dataclass(frozen=True)
class ThresholdEditing:
    """A visible token gives way to another candidate whose probability exceeds the threshold."""

    threshold: float = 0.6
    enabled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_real("edit threshold", self.threshold, 0, 1, above=True)

    def changes(self, view: StepView) -> torch.Tensor:
        """(B, n) bool: x₀ differs and p(x₀) > threshold."""
        return (view.candidate != view.tokens) & (view.probability > self.threshold)
