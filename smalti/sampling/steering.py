"""Rules that tilt the model's distributions from outside: classifier guidance (docs/format.md, section 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from smalti.common.checks import check_real
from smalti.errors import SmaltiError
from smalti.model.classifier import TokenClassifier
from smalti.ops.tilt import Tilt
from smalti.sampling.view import StepView

LARGEST_SCALE = 1e6
"""Largest scale of a classifier's steering. Far beyond it products overflow."""


class Steering(Protocol):
    """A rule that adds something to every logit, in the product form of `Tilt`."""

    classifies: ClassVar[bool] = False
    """Whether the rule asks a classifier."""

    def check(self, classifier: TokenClassifier | None, codes: int) -> None:
        """Raise SmaltiError unless the rule can ask what is loaded about images of so many codes."""
        return None

    def tilt(self, view: StepView, asked: torch.Tensor, classifier: TokenClassifier | None) -> Tilt | None:
        """Return what is added to the logits, vectors (B · n, d), or None for nothing.

        Args:
            view: the step before the pass.
            asked: (B, n) bool, the positions that matter.
        """
        return None


@dataclass(frozen=True)
class NoSteering(Steering):
    """Leave the model's distributions as they are."""


@dataclass(frozen=True)
class ClassifierSteering(Steering):
    """Tilt the candidates' probabilities towards a label of a classifier over tokens (--classifier).

    Candidates are the codes whose probability is at least the share `least` of the largest one. At position j, the
    probability of code v is multiplied by exp(scale · g · (e − e')). Here e is the vector of v, and e' that of the
    present token. The slope of log p(label | grid) by the vector of position j is g. This is the first-order form of
    p(v) · p(label | grid with v)^scale. One backward pass a step serves every position and code.

    The target distribution is that of CtrlDiff (arXiv 2505.14455); its approximation is unknown here. The first order
    is that of discrete guidance (arXiv 2406.01572). Vectors in place of one-hot codes and the choice of candidates are
    Smalti extensions. Far from the present grid the first order is wrong, and improbable codes would win.

    Attributes:
        label: label of the classifier; "first" also means its first one.
        scale: power of the classifier's probability, at most 1,000,000.
        least: share of the largest probability from which a code is a candidate; 0 for all codes.
    """

    label: str = "first"
    scale: float = 50.0
    least: float = 0.01
    classifies: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_real("scale", self.scale, 0, LARGEST_SCALE)
        check_real("least", self.least, 0, 1)

    def check(self, classifier: TokenClassifier | None, codes: int) -> None:
        """Raise SmaltiError unless there is a classifier that has the label and the model's codes."""
        if classifier is None:
            raise SmaltiError(
                "steering needs a classifier: load one with classifier=FILE (--classifier FILE)",
                argument="steering",
            )
        classifier.index(self.label)
        if len(classifier.codes) != codes + 1:
            raise SmaltiError(
                f"classifier must know the model's {codes} codes, not {len(classifier.codes) - 1}",
                argument="classifier",
            )

    def tilt(self, view: StepView, asked: torch.Tensor, classifier: TokenClassifier | None) -> Tilt | None:
        """Return scale · slope as vectors; images are classified one by one, so that none depends on the others."""
        assert classifier is not None  # it was checked
        label, codes = classifier.index(self.label), classifier.codes
        slopes = codes.new_zeros(*view.tokens.shape, codes.shape[1])
        for image in asked.any(dim=1).nonzero()[:, 0].tolist():
            slopes[image] = classifier.slope(view.tokens[image].unflatten(0, view.grid), label).flatten(0, 1)
        return Tilt(self.scale * slopes.flatten(0, 1), codes[:-1], self.least)


STEERINGS: dict[str, type[Steering]] = {"none": NoSteering, "classifier": ClassifierSteering}
"""Every steering rule by the name that settings use."""
