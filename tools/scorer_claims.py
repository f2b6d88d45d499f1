"""The choice of the nouns that the scorer claims to know, and of its threshold, on drawings for validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scorer_batches as batches
import torch
from scorer_material import Material, flat
from torch import nn

from smalti.common.randomness import stream

_LOOKS = 5  # crops of each sprite
_LEAST_RECALL, _LEAST_PRECISION = 0.95, 0.95
_MOST_STRANGERS = 0.05  # share of crops without a known noun that get one that is claimed
_THRESHOLDS = np.arange(0.3, 0.9, 0.05)


class Looks(NamedTuple):
    """What the classifier says of crops.

    Attributes:
        said: (n,) int64, the noun that it finds most likely; the number of nouns for anything else.
        sure: (n,) float32, its probability.
        labels: (n,) int64, the noun that it is.
        weights: (n,) float64.
    """

    said: np.ndarray
    sure: np.ndarray
    labels: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Claims:
    """Nouns that the scorer claims, its threshold, and the numbers that led to them.

    Attributes:
        nouns: claimed nouns, sorted.
        threshold: smallest probability of a noun that counts.
        report: shares on the validation, by name.
    """

    nouns: tuple[str, ...]
    threshold: float
    report: dict[str, float]


def choose_claims(classifier: nn.Module, material: Material, seed: int) -> Claims:
    """Return the claims that the validation allows: of several thresholds, the one with most nouns.

    A threshold that gives too many strangers a claimed noun is left out, unless all do.
    """
    numbers, labels = flat(material.parts["validation"])
    said, sure = look(classifier, material, numbers, seed)
    weights = drawing_weights(material.parts["validation"])
    known = Looks(said, sure, np.tile(labels, _LOOKS), np.tile(weights, _LOOKS) / _LOOKS)
    strange = np.array(material.strangers[1], dtype=np.int64)
    other, other_sure = strange_looks(classifier, material, strange, seed)
    nothing = np.full(len(other), len(material.nouns))
    strangers = Looks(other, other_sure, nothing, np.ones(len(other)))
    found = [claims_at(float(threshold), material.nouns, known, strangers) for threshold in _THRESHOLDS]
    fitting = [claims for claims in found if claims.report["strangers"] <= _MOST_STRANGERS]
    return max(fitting or found[-1:], key=lambda claims: len(claims.nouns))


def drawing_weights(drawings: list[list[tuple[int, ...]]]) -> np.ndarray:
    """Return the weight of each sprite of a part, as `flat` lists them: each noun has 1, its drawings equal shares."""
    return np.array([1 / len(own) / len(numbers) for own in drawings for numbers in own for _ in numbers])


@torch.inference_mode()
def look(
    classifier: nn.Module, material: Material, numbers: np.ndarray, seed: int, looks: int = _LOOKS
) -> tuple[np.ndarray, np.ndarray]:
    """Return what the classifier says of sprites, (looks · n,) by number, and with which probability."""
    made = []
    for turn in range(looks):
        for first in range(0, len(numbers), 64):
            generator = stream(seed, f"looks {turn}", first)
            made.append(
                _say(classifier, batches.crops(material.sprites, numbers[first : first + 64], generator, 0.1))
            )
    return np.concatenate([said for said, _ in made]), np.concatenate([sure for _, sure in made])


@torch.inference_mode()
def strange_looks(
    classifier: nn.Module, material: Material, strange: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return what the classifier says of sprites without a known noun, and of pieces, mixtures and spots."""
    said, sure = (
        look(classifier, material, strange, seed, 2) if len(strange) else (np.empty(0, int), np.empty(0))
    )
    generator = stream(seed, "validation junk", 0)
    places, _ = material.crops(256, "validation", generator)
    junk, junk_sure = _say(classifier, batches.junk(material.sprites, places, generator))
    return np.concatenate([said, junk]), np.concatenate([sure, junk_sure])


def _say(classifier: nn.Module, crops: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    shares = classifier(crops).float().softmax(dim=1) + classifier(crops.flip(3)).float().softmax(dim=1)
    sure, said = (shares / 2).max(dim=1)
    return said.numpy(), sure.numpy()


def claims_at(threshold: float, nouns: Sequence[str], known: Looks, strangers: Looks) -> Claims:
    """Return the nouns that a threshold allows to claim.

    Args:
        threshold: smallest probability of a noun that counts.
        nouns: nouns of the classifier.
        known: crops of these nouns.
        strangers: crops of anything else.
    """
    nothing = len(nouns)
    said = np.where(known.sure >= threshold, known.said, nothing)
    other = np.where(strangers.sure >= threshold, strangers.said, nothing)
    right = said == known.labels
    total = np.bincount(known.labels, known.weights, nothing)
    hits = np.bincount(known.labels[right], known.weights[right], nothing)
    # Strangers are as many as there are nouns: each noun has one that it may be taken for.
    shares = strangers.weights * nothing / max(strangers.weights.sum(), 1)
    named = np.bincount(said, known.weights, nothing + 1) + np.bincount(other, shares, nothing + 1)
    recall, precision = hits / np.maximum(total, 1e-9), hits / np.maximum(named[:nothing], 1e-9)
    claimed = (total > 0) & (recall >= _LEAST_RECALL) & (precision >= _LEAST_PRECISION)
    report = {
        "validation": round(float((known.weights * (known.said == known.labels)).sum() / total.sum()), 4),
        "claimed": int(claimed.sum()),
        "recall": round(float(recall[claimed].mean()) if claimed.any() else 0.0, 4),
        "strangers": round(float(np.append(claimed, False)[other].mean()), 4),
        "threshold": round(threshold, 3),
    }
    return Claims(tuple(noun for noun, own in zip(nouns, claimed, strict=True) if own), threshold, report)
