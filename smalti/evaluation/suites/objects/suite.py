"""The suite `objects`: GenEval's protocol over real named things."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from smalti.common.checks import check_choice
from smalti.errors import SmaltiError
from smalti.evaluation import geneval
from smalti.evaluation.folder import as_rgb
from smalti.evaluation.geneval import Detection, Prompt, Row
from smalti.evaluation.lattice import lattice_places
from smalti.evaluation.request import Request
from smalti.evaluation.suite import Suite
from smalti.evaluation.suites.objects.detector import detect
from smalti.evaluation.suites.objects.scorer import Scorer, shipped_scorer
from smalti.evaluation.suites.objects.truth import renderings, truth_composer
from smalti.worlds.arguments import SPLITS
from smalti.worlds.objects.colors import COLOR_NAMES
from smalti.worlds.objects.prompts import objects_prompts
from smalti.worlds.objects.vocabulary import read_nouns
from smalti.worlds.tasks import TAGS


class ObjectRow(NamedTuple):
    """The verdict on the images of one prompt.

    Attributes:
        row: which images are correct.
        unclaimed: classes of the prompt that have a sprite, but that the scorer does not claim.
        without_sprite: classes of the prompt that no sprite shows.
    """

    row: Row
    unclaimed: tuple[str, ...] = ()
    without_sprite: tuple[str, ...] = ()


@dataclass(frozen=True)
class Objects(Suite):
    """Score images of real named things by GenEval's protocol: six tasks, their mean, and held-out pairs.

    A small network finds things, others name them. Prompts with classes that the scorer does not claim are counted
    apart. Ground-truth renderings need an archive of sprites.

    Attributes:
        archive: archive of sprites, or its folder, for ground-truth renderings.
        lattice: number of positions a side at which ground-truth renderings place boxes; 0 means any position.
        split: sprites of ground-truth renderings: "test" has drawings that the scorer has not seen, "train" the others.
        scorer: file of the trained scorer; by default the one in the package.
        nouns: file of nouns, one a line: prompts ask for those that the scorer claims. By default for all it claims.
    """

    archive: str = "objects"
    lattice: int = 0
    split: str = "test"
    scorer: str = ""
    nouns: str = ""
    model: ClassVar[str | None] = "objects"
    controls: ClassVar[frozenset[str]] = Suite.controls | {"ground_truth", "tokenized", "prompts"}
    count: ClassVar[int] = 402
    least: ClassVar[int] = len(TAGS)

    def __post_init__(self) -> None:
        lattice_places(self.lattice)
        check_choice("split", self.split, SPLITS)

    def prompts(self, count: int, seed: int) -> list[Prompt]:
        """Return prompts over the claimed nouns, one task after the other."""
        vocabulary = self._scorer().knowledge.vocabulary
        return objects_prompts(
            vocabulary.only(read_nouns(self.nouns)) if self.nouns else vocabulary, count, seed
        )

    def check_prompt(self, prompt: Any) -> None:
        """Raise SmaltiError unless metadata has GenEval's format; its classes may be any text."""
        geneval.check_prompt(prompt, None, COLOR_NAMES)

    def ground_truth(
        self, prompts: Sequence[Prompt], request: Request, size: tuple[int, int]
    ) -> Iterator[list[Any]]:
        """Yield renderings of sprites that satisfy each prompt; none where the split has no such sprite.

        Raises:
            SmaltiError: the archive is missing or damaged.
        """
        return renderings(
            truth_composer(self.archive, self.split),
            prompts,
            self._scorer().knowledge.classes,
            number=request.images_per_prompt,
            size=size,
            seed=request.seed,
            lattice=lattice_places(self.lattice),
        )

    def score(self, prompt: Prompt, sample: Any) -> ObjectRow:
        """Return which images of a prompt are correct, or which of its classes cannot be judged."""
        self.check_prompt(prompt)
        scorer = self._scorer()
        knowledge, classes = scorer.knowledge, scorer.knowledge.classes
        asked = dict.fromkeys(entry["class"] for entry in prompt["include"])
        foreign = [name for name in asked if name not in classes]
        unclaimed = tuple(name for name in foreign if knowledge.has_sprite(name))
        without = tuple(name for name in foreign if not knowledge.has_sprite(name))
        correct = [
            not foreign and _is_correct(prompt, detect(np.asarray(as_rgb(image)), scorer)) for image in sample
        ]
        return ObjectRow(Row(prompt["tag"], bool(prompt.get("held_out")), correct), unclaimed, without)

    def survived(self, before: ObjectRow, after: ObjectRow) -> list[bool]:
        """Return, for each image that was correct before a round trip, whether it still is."""
        return geneval.survived(before.row, after.row)

    def summarize(self, rows: Sequence[ObjectRow]) -> dict[str, Any]:
        """Return the scores of the prompts that can be judged, and how many images of which classes cannot.

        "held_out_nouns" is the fraction of correct images of two nouns that training never shows together, and
        "seen_nouns" that of the others. "not_shown" is the number of prompts without images, because no held-out
        sprite shows them.
        """
        own = [row.row for row in rows if not row.unclaimed and not row.without_sprite]
        judged = [row for row in own if row.correct]
        if not judged:
            raise SmaltiError("prompts must ask for a class that the scorer claims", argument="prompts")
        scores = geneval.summarize(judged)
        noun_pairs = {flag: _share(judged, flag) for flag in (True, False)}
        scores |= {"held_out_nouns": noun_pairs[True], "seen_nouns": noun_pairs[False]}
        scores["not_shown"] = len(own) - len(judged)
        for name in ("unclaimed", "without_sprite"):
            classes: Counter[str] = Counter()
            for row in rows:
                classes.update(dict.fromkeys(getattr(row, name), len(row.row.correct)))
            scores[name] = dict(sorted(classes.items()))
        return scores

    def table(self, scores: dict[str, Any]) -> str:
        """Return a line for each score, and the classes that cannot be judged with their numbers of images."""
        words = {"unclaimed": "unclaimed", "without_sprite": "without sprite"}
        plain = {name: value for name, value in scores.items() if name not in words}
        lines = [super().table(plain)]
        for name, word in words.items():
            if scores[name]:
                listed = ", ".join(f"{label} ({count})" for label, count in scores[name].items())
                lines.append(f"{word:>14}  {listed}")
        return "\n".join(lines)

    def _scorer(self) -> Scorer:
        """Return the trained scorer."""
        return shipped_scorer(self.scorer)


def _is_correct(prompt: Prompt, detections: Sequence[Detection]) -> bool:
    """Return whether an image shows a prompt; a thing of several classes counts for one of them only."""
    wanted = {entry["class"] for entry in prompt["include"]}
    boxes = {item.box for item in detections if item.name in wanted}
    enough = len(boxes) >= sum(entry["count"] for entry in prompt["include"])
    return enough and geneval.is_correct(prompt, detections)


def _share(rows: Sequence[Row], held_out: bool) -> float | None:
    """Return the share of correct images of two nouns that training never shows together, or of others."""
    own = [row for row in rows if row.tag in ("two_object", "position") and row.held_out == held_out]
    return geneval.mean([correct for row in own for correct in row.correct])
