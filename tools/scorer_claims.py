"""The choice of the classes that the scorer claims to know, on drawings that classifiers have not seen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scorer_looks import look
from scorer_material import FOLDS, Material
from torch import nn

from smalti.evaluation.suites.objects.networks import Segmenter
from smalti.worlds.objects.nouns import GENEVAL_NOUNS

THRESHOLD = 0.1
_LEAST_CERTAINTY, _MOST_CONFUSED = 0.3, 0.5
_FLOOR = 0.003  # added to probabilities, so that one miss does not decide
_FEW = (
    0.7  # how much less certain, in nats, a class is with one unseen drawing; with more, by the square root
)
_STRANGERS = 400  # sprites without a noun of the classifiers


class Looks(NamedTuple):
    """What the classifiers say of sprites in scenes that they have not seen.

    Attributes:
        shares: (n, nouns + 1) probabilities.
        labels: (n,) the noun that it is, by number.
        drawings: (n,) the drawing, by number.
        weights: (n,) float64; drawings of one noun have equal weights, whose sum is 1.
    """

    shares: np.ndarray
    labels: np.ndarray
    drawings: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Claims:
    """Classes that the scorer claims, with the shares that led to them.

    Attributes:
        classes: nouns of each class.
        report: shares on drawings that the classifiers have not seen, by name.
    """

    classes: Mapping[str, Sequence[str]]
    report: dict[str, float]


def choose_claims(juries: Sequence[nn.Module], segmenter: Segmenter, material: Material, seed: int) -> Claims:
    """Return the claims that the drawings aside allow.

    Args:
        juries: the classifiers that have not seen each third of the drawings.
        segmenter: trained segmenter.
        material: sprites by part.
        seed: seed of the scenes.
    """
    known = look_aside(juries, segmenter, material, seed)
    chosen = np.random.default_rng(seed).permutation(material.strangers)[:_STRANGERS]
    strange = look(material, chosen.astype(np.int64), segmenter, juries[0], seed).numpy()
    return claims_at(THRESHOLD, possible_classes(material), material.nouns, known, strange)


def look_aside(juries: Sequence[nn.Module], segmenter: Segmenter, material: Material, seed: int) -> Looks:
    """Return what each jury says of the drawings that it has not seen."""
    shares, rows = [], []
    for fold in range(FOLDS):
        first = len(rows)
        for label, drawings in enumerate(material.parts[f"aside {fold}"]):
            for drawing in drawings:
                some = sorted({drawing[len(drawing) // 3], drawing[-1]})
                rows += [(number, label, drawing[0], 1 / len(some)) for number in some]
        numbers = np.array([row[0] for row in rows[first:]])
        shares.append(look(material, numbers, segmenter, juries[fold], seed + fold).numpy())
    _, labels, first_sprites, weights = (np.array(column) for column in zip(*rows, strict=True))
    total = np.bincount(labels, weights, len(material.nouns))
    return Looks(np.concatenate(shares), labels, first_sprites, weights / total[labels])


def possible_classes(material: Material) -> dict[str, tuple[str, ...]]:
    """Return the nouns of each class that may be claimed: scored nouns, GenEval's classes, and kinds of things."""
    classes: dict[str, tuple[str, ...]] = {
        noun: (noun,) for noun in material.nouns if noun in material.scored
    }
    kinds: dict[str, set[str]] = defaultdict(set)
    for sprite in material.collection.archive.sprites:
        if sprite.noun in material.nouns:
            for kind in sprite.hypernyms:
                kinds[kind].add(sprite.noun)
    known = set(material.nouns)
    classes |= {kind: tuple(sorted(nouns)) for kind, nouns in kinds.items() if kind not in known}
    for name, nouns in GENEVAL_NOUNS.items():
        if own := tuple(noun for noun in nouns if noun in known):
            classes[name] = own
    return classes


def claims_at(
    threshold: float,
    classes: Mapping[str, Sequence[str]],
    nouns: Sequence[str],
    known: Looks,
    strange: np.ndarray,
) -> Claims:
    """Return the classes that a threshold allows to claim.

    A class is claimed if its unseen drawings are certain, and if few things of other nouns are taken for it. Few
    drawings tell less than many.

    Args:
        threshold: smallest probability of a class that counts.
        classes: nouns of each class.
        nouns: nouns of the classifiers.
        known: looks at drawings of these nouns.
        strange: (m, nouns + 1) probabilities of sprites of other nouns.
    """
    place = {noun: number for number, noun in enumerate(nouns)}
    claimed: dict[str, Sequence[str]] = {}
    hits, misses = [], []
    for name, own in classes.items():
        numbers = [place[noun] for noun in own]
        probability = known.shares[:, numbers].sum(axis=1)
        inside, accepted = np.isin(known.labels, numbers), probability >= threshold
        total = known.weights[inside].sum()
        if not total:
            continue
        certainty = np.average(np.log(probability[inside] + _FLOOR), weights=known.weights[inside])
        certainty -= _FEW / len(np.unique(known.drawings[inside])) ** 0.5
        hit = known.weights[inside & accepted].sum()
        wrong = known.weights[~inside & accepted].sum()
        if certainty >= np.log(_LEAST_CERTAINTY) and wrong <= _MOST_CONFUSED * (hit + wrong):
            claimed[name] = own
            hits.append(hit / total)
            misses.append(wrong / (hit + wrong))
    said = known.shares.argmax(axis=1)
    single = [place[noun] for noun in claimed if noun in place]
    named = (strange[:, single] >= threshold).any(axis=1)
    report = {
        "right": round(float(np.average(said == known.labels, weights=known.weights)), 4),
        "classes": len(claimed),
        "claimed": sum(noun in claimed for noun in nouns),
        "found": round(float(np.mean(hits)), 4) if hits else 0.0,
        "confused": round(float(np.mean(misses)), 4) if misses else 0.0,
        "strangers": round(float(named.sum() / max(len(named), 1)), 4),
    }
    return Claims(claimed, report)
