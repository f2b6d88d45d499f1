"""What the scorer of objects is trained on: the sprites of an archive in parts, and draws from them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scorer.batches import Sprites

from smalti.evaluation.suites.objects.scorer import Knowledge
from smalti.worlds.objects.archive import SpriteArchive
from smalti.worlds.objects.collection import Collection
from smalti.worlds.objects.splits import held_out_rank
from smalti.worlds.objects.vocabulary import Vocabulary

LEAST_DRAWINGS = 2
"""Number of training drawings from which on a scored noun may be claimed; with fewer it is unknown."""

FOLDS = 3
"""Number of classifiers. Each is trained without another third of the drawings, on which it validates the claims."""

Drawings = list[list[tuple[int, ...]]]


@dataclass(frozen=True)
class Material:
    """Sprites by part.

    A noun that scores do not know teaches the classifiers too, or validates what is unknown, by turns.

    Attributes:
        collection: the archive's sprites.
        sprites: all sprites in memory, in the archive's order.
        nouns: nouns of the classifiers, sorted.
        scored: how many of them may be claimed.
        parts: drawings of each noun of the classifiers, each a tuple of sprites: "all" has those of training, "train 0"
            to "train 2" those of a classifier, "aside 0" to "aside 2" the others, "test" the held-out ones.
        aside: (n,) int64, which classifier must not see a sprite; −1 for none.
        strangers: sprites of nouns that the classifiers do not have.
    """

    collection: Collection
    sprites: Sprites
    nouns: tuple[str, ...]
    scored: frozenset[str]
    parts: dict[str, Drawings]
    aside: np.ndarray
    strangers: list[int]

    @classmethod
    def read(cls, path: Path, kept: Path | None = None) -> Material:
        """Return the material of an archive; a file may keep what was read of it."""
        archive = SpriteArchive(path)
        collection = Collection(archive)
        splits = collection.splits
        sprites = Sprites(archive, kept)
        drawings: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        tested: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for number, sprite in enumerate(archive.sprites):
            if sprite.noun and sprites.usable[number]:
                part = tested if splits.test[number] else drawings
                part[sprite.noun][splits.drawings[number]].append(number)
        scored = {noun for noun in collection.scored if len(drawings[noun]) >= LEAST_DRAWINGS}
        others = sorted(noun for noun in drawings if drawings[noun] and noun not in scored)
        nouns = tuple(sorted(scored | set(others[::2])))
        parts: dict[str, Drawings] = defaultdict(list)
        for label, noun in enumerate(nouns):
            # Ranks are those by which a larger archive would hold out drawings.
            known = [tuple(drawings[noun][name]) for name in sorted(drawings[noun], key=held_out_rank)]
            parts["all"].append(known)
            parts["test"].append([tuple(numbers) for numbers in tested[noun].values()])
            for fold in range(FOLDS):
                aside = [
                    own for rank, own in enumerate(known) if noun in scored and (rank + label) % FOLDS == fold
                ]
                parts[f"aside {fold}"].append(aside)
                parts[f"train {fold}"].append([own for own in known if own not in aside])
        strangers = [number for noun in others[1::2] for own in drawings[noun].values() for number in own]
        aside = np.full(len(archive), -1)
        for fold in range(FOLDS):
            aside[flat(parts[f"aside {fold}"])[0]] = fold
        return cls(collection, sprites, nouns, frozenset(scored), dict(parts), aside, strangers)

    def crops(self, count: int, part: str, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return the sprites and the nouns (by number) of a batch; each noun has about the same share."""
        weights = torch.tensor([len(drawings) for drawings in self.parts[part]]).float().sqrt()
        labels = torch.multinomial(weights, count, replacement=True, generator=generator).numpy()
        chance = torch.rand(count, 2, generator=generator).numpy()
        places = []
        for label, (first, second) in zip(labels, chance, strict=True):
            drawings = self.parts[part][label]
            numbers = drawings[int(first * len(drawings))]
            places.append(numbers[int(second * len(numbers))])
        return np.array(places), labels.astype(np.int64)

    def scene(self, count: int, generator: torch.Generator) -> np.ndarray:
        """Return the sprites of scenes, (count, 5); negative where a scene has fewer things.

        Two in five scenes have several things of one sprite.
        """
        places, _ = self.crops(count * 5, "all", generator)
        places = places.reshape(count, 5)
        sizes = torch.multinomial(
            torch.tensor([0.06, 0.26, 0.26, 0.2, 0.18, 0.04]), count, True, generator=generator
        )
        for row, size in zip(places, sizes.tolist(), strict=True):
            if float(torch.rand((), generator=generator)) < 0.4:
                row[:] = row[0]
            row[size:] = -1
        return places

    def knowledge(self, classes: Mapping[str, Sequence[str]], threshold: float) -> Knowledge:
        """Return what the scorer is to know apart from its weights.

        Its colours are those in which both training sprites and held-out ones show a noun, so that ground-truth
        renderings show held-out sprites alone.

        Args:
            classes: nouns of the classes that it claims.
            threshold: smallest probability of a class that counts.
        """
        archive = self.collection.archive
        whole, tested = Vocabulary.of(archive), Collection(archive, "test")
        nouns = {}
        for noun in sorted(self.scored & classes.keys()):
            found = whole.nouns[noun]
            shown = set(tested.colors(noun))
            nouns[noun] = replace(found, colors=tuple(color for color in found.colors if color in shown))
        held_out = frozenset(pair for pair in whole.held_out if pair[0] in nouns)
        drawn = sorted({sprite.noun for sprite in archive.sprites if sprite.noun})
        return Knowledge(self.nouns, round(threshold, 3), classes, Vocabulary(nouns, held_out), drawn)


def flat(drawings: Sequence[Sequence[Sequence[int]]]) -> tuple[np.ndarray, np.ndarray]:
    """Return all sprites of a part and their nouns, by number."""
    pairs = [(number, label) for label, own in enumerate(drawings) for numbers in own for number in numbers]
    return np.array([number for number, _ in pairs], int), np.array([label for _, label in pairs], int)
