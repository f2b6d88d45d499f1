"""The suite `geneval`: GenEval on photographs, by a detector from transformers or the official detector's results."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from PIL import Image

from smalti.errors import SmaltiError
from smalti.evaluation import geneval
from smalti.evaluation.benchmark import Benchmark
from smalti.evaluation.bootstrap import intervals
from smalti.evaluation.folder import as_rgb
from smalti.evaluation.geneval import Prompt
from smalti.evaluation.markdown import score_table
from smalti.evaluation.ranks import own_device
from smalti.evaluation.suites.geneval import colors, detector, rules
from smalti.evaluation.suites.geneval.results import read_results, recheck
from smalti.evaluation.weights import find_weights, revision_of


@dataclass(frozen=True)
class GenEval(Benchmark):
    """Score images by GenEval: six tasks and their mean, with the "HF detector" or with the official results.

    The HF detector is transformers' Mask2Former, with colours by CLIP. It needs the extra `benchmarks`. Its scores are
    not those of the official detector, which is mmdet's training of the same network. Prompts are a file's: --prompts
    evaluation_metadata.jsonl.

    Attributes:
        detector: folder or hub id of a Mask2Former for instances, such as
            facebook/mask2former-swin-small-coco-instance; @REVISION may follow.
        clip: folder or hub id of a CLIP for colours, such as openai/clip-vit-large-patch14.
        device: device of both networks; with torchrun "cuda" is each process's own GPU.
        results: file of the official detector's results, which takes the place of images and of both networks.
    """

    detector: str = ""
    clip: str = ""
    device: str = "cpu"
    results: str = ""
    count: ClassVar[int] = 553
    scoring_seconds: ClassVar[float | None] = 0.3
    first_seed: ClassVar[int] = 42

    def recorded(self) -> bool:
        """Return whether the official detector's results are named."""
        return bool(self.results)

    def record(self) -> tuple[list[Prompt], list[Any]]:
        """Return the prompts and the results of the official detector."""
        return read_results(self.results)

    def check_prompt(self, prompt: Any) -> None:
        """Raise SmaltiError unless metadata has GenEval's format; its classes may be any text."""
        geneval.check_prompt(prompt, None, rules.COLORS)

    def score(self, prompt: Prompt, sample: Any) -> dict[str, Any]:
        """Return the verdicts on the images of a prompt, or those of its results."""
        if self.recorded():
            correct = [result["correct"] for result in sample]
            return {**_row(prompt, correct), "recheck": list(recheck(prompt, sample))}
        finder = detector.load_detector(self.detector, own_device(self.device))
        self._check_classes(prompt, finder.names)
        verdicts = []
        for image in map(as_rgb, sample):
            kept = rules.keep(finder.detect(image), prompt["tag"])
            verdicts.append(rules.judge(prompt, kept, self._reader(image)))
        reasons = ["; ".join(verdict.reasons) for verdict in verdicts]
        return {**_row(prompt, [verdict.correct for verdict in verdicts]), "reasons": reasons}

    def summarize(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the official summary, and under "intervals" a bootstrap interval of each task and of the mean.

        Results also have "rechecked", the number of verdicts that follow from boxes alone, and "differing", how many of
        them are others by the rules here.
        """
        scores = rules.summarize((row["tag"], row["metadata"], row["correct"]) for row in rows)
        groups: dict[str, list[list[float]]] = {}
        for row in rows:
            groups.setdefault(row["tag"], []).append(row["correct"])
        scores["intervals"] = intervals(groups)
        if "recheck" in rows[0]:
            agreeing = [same for row in rows for same in row["recheck"]]
            scores |= {"rechecked": len(agreeing), "differing": agreeing.count(False)}
        return scores

    def describe(self) -> dict[str, Any]:
        """Return the name, the constants and the weights of the scorer."""
        if self.recorded():
            return {"name": "official results"}
        found = find_weights("detector", self.detector, detector.EXAMPLE)
        seen = find_weights("clip", self.clip, colors.EXAMPLE)
        return {
            "name": "HF detector",
            "detector_revision": revision_of(self.detector, found),
            "threshold": rules.THRESHOLD,
            "counting_threshold": rules.COUNTING_THRESHOLD,
            "most_objects": rules.MOST_OBJECTS,
            "position_margin": rules.POSITION_MARGIN,
            "sides": [detector.SHORT_SIDE, detector.LONG_SIDE],
            "templates": list(colors.TEMPLATES),
            "background": colors.BACKGROUND,
            "clip_revision": revision_of(self.clip, seen),
        }

    def table(self, scores: dict[str, Any]) -> str:
        """Return a Markdown table of the scores with their intervals."""
        return score_table(scores)

    def _reader(self, image: Image.Image) -> Callable[[Sequence[rules.Found], str], list[str]]:
        """Return a function that names the colours of objects in an image; it loads CLIP when it is called."""
        return lambda objects, name: colors.load_colors(self.clip, own_device(self.device)).name(
            image, objects, name
        )

    def _check_classes(self, prompt: Prompt, names: Sequence[str]) -> None:
        """Raise SmaltiError if a prompt asks for a class that the detector does not know."""
        for entry in [*prompt["include"], *prompt.get("exclude", [])]:
            if entry["class"] not in names:
                raise SmaltiError(
                    f"class must be one that the detector knows, not {entry['class']!r}: {self.detector} has "
                    f"{len(names)} classes",
                    argument="prompts",
                )


def _row(prompt: Prompt, correct: list[bool]) -> dict[str, Any]:
    """Return the row of a prompt."""
    return {"tag": prompt["tag"], "metadata": json.dumps(prompt), "correct": correct}
