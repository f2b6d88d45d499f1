"""The suite `dpg`: DPG-Bench, with answers of a named model or of a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from smalti.common.files import make_folder
from smalti.common.images import save_image
from smalti.errors import SmaltiError
from smalti.evaluation.benchmark import Benchmark
from smalti.evaluation.bootstrap import intervals
from smalti.evaluation.markdown import score_table
from smalti.evaluation.prompts import evenly
from smalti.evaluation.ranks import own_device
from smalti.evaluation.request import Request
from smalti.evaluation.suites.dpg import layout, vqa
from smalti.evaluation.suites.dpg.answers import read_answers
from smalti.evaluation.suites.dpg.questions import read_questions
from smalti.evaluation.suites.dpg.rules import ItemScore, item_score, summarize
from smalti.evaluation.weights import find_weights, revision_of


@dataclass(frozen=True)
class Dpg(Benchmark):
    """Score images of dense prompts by DPG-Bench: the share of questions with the answer "yes".

    A model of transformers answers; it needs the extra `benchmarks`. The benchmark's own model is mPLUG, whose answers
    can be read from a file. Scores are in percent.

    Attributes:
        questions: DPG-Bench's file of questions, dpg_bench.csv.
        vqa: folder or hub id of a model that answers, such as Salesforce/blip2-flan-t5-xl; @REVISION may follow.
        device: device of that model; with torchrun "cuda" is each process's own GPU.
        answers: file of recorded answers, which takes the place of images and of the model.
        as_published: whether to repeat the faults of the published script. It loses the file's first question. Its
            categories count the last image alone, before dependencies. It leaves out prompts without a result.
        partial: whether to score fewer prompts than the file has.
    """

    questions: str = ""
    vqa: str = ""
    device: str = "cpu"
    answers: str = ""
    as_published: bool = False
    partial: bool = False
    controls: ClassVar[frozenset[str]] = Benchmark.controls - {"prompts"}
    count: ClassVar[int] = 1065
    scoring_seconds: ClassVar[float | None] = 1.0

    def recorded(self) -> bool:
        """Return whether recorded answers are named."""
        return bool(self.answers)

    def prompts(self, count: int, seed: int) -> list[Any]:
        """Return `count` prompts, evenly chosen from the file; all of them if it has no more than `Dpg.count`."""
        every = self._every()
        if count == self.count and len(every) <= count:
            return every
        if count > len(every):
            raise SmaltiError(
                f"--images must be those of at most {len(every)} prompts, not {count}", argument="--images"
            )
        return evenly(every, count)

    def record(self) -> tuple[list[Any], list[Any]]:
        """Return the prompts that have recorded answers, and the answers."""
        found = read_answers(self.answers)
        prompts = self._present(found.keys(), self.answers)
        return prompts, [found[prompt["item_id"]] for prompt in prompts]

    def read_folder(self, folder: Path, request: Request) -> tuple[list[Any], Callable[[int], Any]]:
        """Return the prompts that have a file in a folder, and a function that reads a prompt's images."""
        if request.images_per_prompt > layout.MOST_IMAGES:
            raise SmaltiError(
                f"--images-per-prompt must be at most {layout.MOST_IMAGES}", argument="--images-per-prompt"
            )
        names = {path.stem for path in layout.grid_folder(folder).glob("*.png")}
        prompts = self._present(names, folder)
        return prompts, lambda index: layout.read_grid(
            folder, prompts[index]["item_id"], request.images_per_prompt
        )

    def image_path(self, folder: Path, index: int, prompt: Any, number: int) -> Path:
        """Return the path of a single image."""
        return folder / layout.SINGLES / f"{prompt['item_id']}-{number}.png"

    def finish(self, folder: Path, index: int, prompt: Any, images: Sequence[Image.Image]) -> None:
        """Write the benchmark's file of a prompt: its images in a square."""
        make_folder(folder / layout.GRIDS)
        save_image(layout.make_grid(images), folder / layout.GRIDS / f"{prompt['item_id']}.png")

    def score(self, prompt: Any, sample: Any) -> dict[str, Any]:
        """Return the answers for the images of a prompt, and the scores that follow."""
        asked = {number: one["question"] for number, one in prompt["questions"].items()}
        if self.recorded():
            answers = [{number: _answer(prompt, one, number) for number in asked} for one in sample]
        else:
            model = vqa.load_answerer(self.vqa, own_device(self.device))
            answers = [model.answer(image, asked) for image in sample]
        found = item_score(prompt["questions"], answers, as_published=self.as_published)
        row = {"item_id": prompt["item_id"], "answers": answers}
        return row if found is None else {**row, "images": found.images, "categories": found.categories}

    def summarize(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the score and that of each category in percent, an interval of the score, and the number of prompts.

        "skipped" is the number of prompts without a result, which the published script leaves out.
        """
        items = [ItemScore(row["images"], row["categories"]) for row in rows if "images" in row]
        if not items:
            raise SmaltiError("questions must leave at least one prompt with a score", argument="questions")
        bounds = intervals({"dpg": [item.images for item in items]})["dpg"]
        return {
            **summarize(items),
            "images": sum(len(item.images) for item in items),
            "prompts": len(items),
            "skipped": len(rows) - len(items),
            "intervals": {"dpg": [round(100 * bound, 2) for bound in bounds]},
        }

    def describe(self) -> dict[str, Any]:
        """Return the name and the weights of the model that answers, and how it is asked."""
        if self.recorded():
            return {"name": "recorded answers"}
        found = find_weights("vqa", self.vqa, vqa.EXAMPLE)
        return {
            "name": self.vqa,
            "vqa_revision": revision_of(self.vqa, found),
            "prompt": vqa.PROMPT,
            "chat_prompt": vqa.CHAT_PROMPT,
            "most_tokens": vqa.MOST_TOKENS,
        }

    def table(self, scores: dict[str, Any]) -> str:
        """Return a Markdown table of the scores with their intervals."""
        return score_table(
            {**scores, **{f"{name} (detail)": value for name, value in scores["details"].items()}}
        )

    def _every(self) -> list[Any]:
        """Return all prompts of the file."""
        if not self.questions:
            raise SmaltiError(
                "questions must be DPG-Bench's file of questions: --set questions=dpg_bench.csv",
                argument="questions",
            )
        items = read_questions(self.questions, as_published=self.as_published)
        return [item.as_prompt() for item in items]

    def _present(self, names: Any, where: str | Path) -> list[Any]:
        """Return the prompts of the file that are among some names.

        Raises:
            SmaltiError: some are not, and neither `partial` nor `as_published` says that this is meant.
        """
        every = self._every()
        found = [prompt for prompt in every if prompt["item_id"] in names]
        if len(found) < len(every) and not (self.partial or self.as_published):
            raise SmaltiError(
                f"{where} has {len(found)} of the {len(every)} prompts of {self.questions}: "
                "--set partial=true scores these alone"
            )
        if not found:
            raise SmaltiError(f"{where} has no prompt of {self.questions}")
        return found


def _answer(prompt: Any, answers: dict[str, str], number: str) -> str:
    """Return a recorded answer."""
    if number not in answers:
        raise SmaltiError(
            f"answers of {prompt['item_id']} must have one to question {number}", argument="answers"
        )
    return answers[number]
