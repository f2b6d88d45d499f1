"""The choice of the classes that the scorer claims to know.

A model draws what it was shown, so a class is claimed if the drawings of training are found in new scenes. What others
are taken for it is measured on drawings that the classifiers have not seen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scorer.looks import look
from scorer.material import Material
from torch import nn

from smalti.evaluation.suites.objects.networks import Segmenter
from smalti.worlds.objects.nouns import GENEVAL_NOUNS

THRESHOLD = 0.2
_LEAST_FOUND = 0.8  # share of a class's training drawings
_MOST_CONFUSED, _MOST_CONFUSED_UNSEEN = 0.15, 0.7  # share of other nouns in what is taken for a class
_STRANGERS = 400  # sprites without a noun of the classifiers


class Looks(NamedTuple):
    """What classifiers say of sprites in new scenes.

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
        report: shares on training drawings and on drawings that the classifiers have not seen, by name.
    """

    classes: Mapping[str, Sequence[str]]
    report: dict[str, float]


def choose_claims(
    classifier: nn.Module, juries: Sequence[nn.Module], segmenter: Segmenter, material: Material, seed: int
) -> Claims:
    """Return the claims that looks at training drawings and at unseen ones allow.

    Args:
        classifier: the scorer's classifiers.
        juries: the classifiers that have not seen each third of the drawings.
        segmenter: trained segmenter.
        material: sprites by part.
        seed: seed of the scenes.
    """
    known = look_at(classifier, segmenter, material, "all", seed)
    asides = [
        look_at(jury, segmenter, material, f"aside {fold}", seed + fold) for fold, jury in enumerate(juries)
    ]
    unseen = Looks(*(np.concatenate(columns) for columns in zip(*asides, strict=True)))
    chosen = np.random.default_rng(seed).permutation(material.strangers)[:_STRANGERS]
    strange = look(material, chosen.astype(np.int64), segmenter, classifier, seed).numpy()
    return claims_at(THRESHOLD, possible_classes(material), material.nouns, known, unseen, strange)


def look_at(classifier: nn.Module, segmenter: Segmenter, material: Material, part: str, seed: int) -> Looks:
    """Return what a classifier says of the drawings of a part, two sprites of each at most."""
    rows = []
    for label, drawings in enumerate(material.parts[part]):
        for drawing in drawings:
            some = sorted({drawing[len(drawing) // 3], drawing[-1]})
            rows += [(number, label, drawing[0], 1 / len(some)) for number in some]
    numbers, labels, first_sprites, weights = (np.array(column) for column in zip(*rows, strict=True))
    shares = look(material, numbers, segmenter, classifier, seed).numpy()
    total = np.bincount(labels, weights, len(material.nouns))
    return Looks(shares, labels, first_sprites, weights / total[labels])


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
    unseen: Looks,
    strange: np.ndarray,
) -> Claims:
    """Return the classes that a threshold allows to claim.

    A class is claimed if its training drawings are found, and if few things of other nouns are taken for it.

    Args:
        threshold: smallest probability of a class that counts.
        classes: nouns of each class.
        nouns: nouns of the classifiers.
        known: looks at training drawings of these nouns.
        unseen: looks of classifiers at drawings that they have not seen.
        strange: (m, nouns + 1) probabilities of sprites of other nouns.
    """
    place = {noun: number for number, noun in enumerate(nouns)}
    claimed: dict[str, Sequence[str]] = {}
    verdicts = []
    for name, own in classes.items():
        numbers = [place[noun] for noun in own]
        found, confused = _verdicts(known, numbers, threshold)
        found_unseen, confused_unseen = _verdicts(unseen, numbers, threshold)
        if found >= _LEAST_FOUND and confused <= _MOST_CONFUSED and confused_unseen <= _MOST_CONFUSED_UNSEEN:
            claimed[name] = own
            verdicts.append((found, confused, found_unseen, confused_unseen))
    single = [place[noun] for noun in claimed if noun in place]
    named = (strange[:, single] >= threshold).any(axis=1)
    means = np.mean(verdicts, axis=0) if verdicts else np.zeros(4)
    shares = dict(zip(("found", "confused", "found_unseen", "confused_unseen"), means, strict=True))
    shares["strangers"] = named.sum() / max(len(named), 1)
    return Claims(
        claimed,
        {
            "classes": len(claimed),
            "claimed": sum(noun in claimed for noun in nouns),
            **{name: round(float(share), 4) for name, share in shares.items()},
        },
    )


def _verdicts(looks: Looks, numbers: Sequence[int], threshold: float) -> tuple[float, float]:
    """Return the share of a class's looks that are accepted, and the share of others in what is accepted."""
    inside = np.isin(looks.labels, numbers)
    accepted = looks.shares[:, numbers].sum(axis=1) >= threshold
    total, hit = looks.weights[inside].sum(), looks.weights[inside & accepted].sum()
    wrong = looks.weights[~inside & accepted].sum()
    return hit / max(total, 1e-9), wrong / max(hit + wrong, 1e-9)
