"""The choice of the nouns that the scorer claims to know, and of its threshold, on drawings for validation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scorer_batches as batches
import torch
from scorer_material import Material, flat
from torch import nn

from smalti.common.randomness import stream

_LOOKS = 5  # crops of each sprite
_LEAST_RECALL, _LEAST_PRECISION = 0.95, 0.95
_MOST_STRANGERS = 0.05  # share of crops without a known noun that get one that is claimed


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
    """Return the claims that the validation allows."""
    numbers, labels = flat(material.parts["validation"])
    said, sure = look(classifier, material, numbers, seed)
    labels = np.tile(labels, _LOOKS)
    strange = np.array(material.strangers[1], dtype=np.int64)
    other, other_sure = strange_looks(classifier, material, strange, seed)
    best: Claims | None = None
    for threshold in np.arange(0.3, 0.9, 0.05):
        claims = _claims_at(float(threshold), material, (said, sure, labels), (other, other_sure))
        if best is None or claims.report["strangers"] > _MOST_STRANGERS:
            best = claims
        elif len(claims.nouns) > len(best.nouns) or best.report["strangers"] > _MOST_STRANGERS:
            best = claims
    assert best is not None
    return best


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


def _claims_at(
    threshold: float,
    material: Material,
    known: tuple[np.ndarray, np.ndarray, np.ndarray],
    strange: tuple[np.ndarray, np.ndarray],
) -> Claims:
    said, sure, labels = known
    nothing = len(material.nouns)
    said = np.where(sure >= threshold, said, nothing)
    other = np.where(strange[1] >= threshold, strange[0], nothing)
    right = said == labels
    total = np.bincount(labels, minlength=nothing)
    recall = np.bincount(labels[right], minlength=nothing) / np.maximum(total, 1)
    named = (
        np.bincount(said, minlength=nothing + 1)[:nothing]
        + np.bincount(other, minlength=nothing + 1)[:nothing]
    )
    precision = np.bincount(labels[right], minlength=nothing) / np.maximum(named, 1)
    claimed = (total > 0) & (recall >= _LEAST_RECALL) & (precision >= _LEAST_PRECISION)
    mine = claimed[labels]
    report = {
        "validation": round(float((known[0] == labels).mean()), 4),
        "claimed": int(claimed.sum()),
        "recall": round(float(right[mine].mean()) if mine.any() else 0.0, 4),
        "strangers": round(float(np.append(claimed, False)[other].mean()), 4),
        "threshold": round(threshold, 3),
    }
    return Claims(
        tuple(noun for noun, own in zip(material.nouns, claimed, strict=True) if own), threshold, report
    )
