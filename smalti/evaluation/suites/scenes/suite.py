"""The suite `scenes`: GenEval's protocol over scenes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from smalti.evaluation.geneval import Prompt, Row, spread, summarize, survived
from smalti.evaluation.lattice import lattice_places
from smalti.evaluation.request import Request
from smalti.evaluation.suite import Suite
from smalti.evaluation.suites.scenes.prompts import check_prompt, ground_truth, scene_prompts
from smalti.evaluation.suites.scenes.score import score_scene
from smalti.worlds.tasks import TAGS


@dataclass(frozen=True)
class Scenes(Suite):
    """Score images by GenEval's protocol: six tasks, their mean, and the held-out pairs of shape and colour.

    Attributes:
        lattice: number of positions a side at which ground-truth renderings place boxes; 0 means any position.
    """

    lattice: int = 0
    model: ClassVar[str | None] = "scenes"
    controls: ClassVar[frozenset[str]] = Suite.controls | {"ground_truth", "tokenized", "prompts"}
    count: ClassVar[int] = 300
    least: ClassVar[int] = len(TAGS)

    def __post_init__(self) -> None:
        lattice_places(self.lattice)

    def prompts(self, count: int, seed: int) -> list[Prompt]:
        """Return prompts spread evenly over the tasks, one task after the other."""
        every = scene_prompts(-(-count // len(TAGS)), seed)
        per_tag = len(every) // len(TAGS)
        return [prompt for tag, size in enumerate(spread(count)) for prompt in every[tag * per_tag :][:size]]

    def check_prompt(self, prompt: Any) -> None:
        """Raise SmaltiError unless metadata is a prompt over scenes."""
        check_prompt(prompt)

    def ground_truth(
        self, prompts: Sequence[Prompt], request: Request, size: tuple[int, int]
    ) -> Iterator[list[Any]]:
        """Yield renderings that satisfy each prompt."""
        number = request.images_per_prompt
        repeated = [prompt for prompt in prompts for _ in range(number)]
        images = ground_truth(repeated, size=size, seed=request.seed, lattice=lattice_places(self.lattice))
        for _ in prompts:
            yield [next(images) for _ in range(number)]

    def score(self, prompt: Prompt, sample: Any) -> Row:
        """Return which images of a prompt are correct."""
        return score_scene(prompt, sample)

    def survived(self, before: Row, after: Row) -> list[bool]:
        """Return, for each image that was correct before a round trip, whether it still is."""
        return survived(before, after)

    def summarize(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return the fraction of correct images of each task, their mean, and the fraction for held-out pairs."""
        return summarize(rows)
