"""Published benchmarks: suites with prompts from a file, images one a file, and rows that are ready for JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from smalti.common.checks import quoted
from smalti.common.files import make_folder, read_json, write_json_atomic, write_text_atomic
from smalti.common.images import save_image
from smalti.errors import SmaltiError
from smalti.evaluation.bootstrap import DESCRIPTION
from smalti.evaluation.folder import find_samples, open_images
from smalti.evaluation.request import Request
from smalti.evaluation.subject import Subject
from smalti.evaluation.suite import Suite

RUN_FILE = "smalti.json"
"""File in a folder of images that says what was drawn there, so that a killed run can go on."""

PROMPTS_FILE = "prompts.jsonl"
"""File in the same folder with all prompts of the run, and with their rewritten texts."""


class Benchmark(Suite):
    """A suite of a published benchmark.

    It draws into a folder that a killed run fills up later, and several processes of torchrun share its prompts. A
    subclass needs `score`, whose rows are ready for JSON, `summarize` and `describe`.
    """

    controls: ClassVar[frozenset[str]] = Suite.controls | {"prompts", "rewrite"}
    images_per_prompt: ClassVar[int] = 4
    scoring_seconds: ClassVar[float | None] = None
    """Estimate of the seconds in which one GPU scores an image; None says nothing before a run."""

    def prompts(self, count: int, seed: int) -> list[Any]:
        """Raise SmaltiError: the prompts are a file's."""
        raise SmaltiError(
            "--prompts must name the benchmark's file of prompts, such as evaluation_metadata.jsonl",
            argument="--prompts",
        )

    def describe(self) -> dict[str, Any]:
        """Return what decides about the scores beside the images: the scorer, its constants and its weights."""
        return {}

    def interval_settings(self) -> dict[str, Any]:
        """Return how the intervals of the scores come about, for reports."""
        return DESCRIPTION

    def record(self) -> tuple[list[Any], list[Any]]:
        """Return the prompts and the samples of the record that the options name."""
        raise SmaltiError(f"{type(self).__name__} has no record")

    def read_folder(self, folder: Path, request: Request) -> tuple[list[Any], Callable[[int], Any]]:
        """Return the prompts of a folder, and a function from a prompt's number to its sample."""
        prompts, files = find_samples(folder, self.check_prompt)
        return prompts, lambda index: open_images(files[index])

    def image_path(self, folder: Path, index: int, prompt: Any, number: int) -> Path:
        """Return the path of image `number` of prompt number `index`; by default in GenEval's layout."""
        return folder / f"{index:05d}" / "samples" / f"{number:04d}.png"

    def finish(self, folder: Path, index: int, prompt: Any, images: Sequence[Image.Image]) -> None:
        """Write what the layout has beside the images of a prompt; by default GenEval's metadata."""
        write_text_atomic(folder / f"{index:05d}" / "metadata.jsonl", json.dumps(prompt) + "\n")


def is_started(folder: Path) -> bool:
    """Return whether a folder holds images of a benchmark's run."""
    return (folder / RUN_FILE).is_file()


def describe_run(suite: str, subject: Subject, prompts: Sequence[Any], request: Request) -> dict[str, Any]:
    """Return what decides about the images of a run, ready for JSON."""
    told = subject.describe("sampling")
    told.pop("passes", None)  # a resumed run knows only its own
    return {
        "suite": suite,
        **told,
        "weights": fingerprint(subject),
        "seed": request.seed,
        "images_per_prompt": request.images_per_prompt,
        "number_of_prompts": len(prompts),
        "prompts_sha256": hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest(),
    }


def fingerprint(subject: Subject) -> str:
    """Return a hash of a model's weights: of the shapes and first values of all tensors that are in memory.

    Example:
        >>> import smalti
        >>> len(fingerprint(Subject.of(smalti.load("scenes"))))
        16
    """
    digest = hashlib.sha256()
    for part in (subject.components.denoiser, subject.components.image_tokenizer):
        for name, tensor in sorted(part.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            if (
                not tensor.is_meta
                and tensor.is_floating_point()
                and type(tensor).__module__.startswith("torch.")
            ):
                digest.update(repr(tensor.detach().flatten()[:16].tolist()).encode())
    return digest.hexdigest()[:16]


def open_run(folder: Path, run: dict[str, Any]) -> None:
    """Start a run in a folder, or check that the folder's run is the same.

    Raises:
        SmaltiError: the folder holds images of another run, or cannot be written.
    """
    if not is_started(folder):
        make_folder(folder)
        write_json_atomic(folder / RUN_FILE, run)
        return
    earlier = read_json(folder / RUN_FILE)
    run = json.loads(json.dumps(run))
    for name in run:
        if earlier.get(name) != run[name]:
            raise SmaltiError(
                f"--save {quoted(str(folder))} holds images of another run: its {name} is "
                f"{quoted(earlier.get(name), 60)}, not {quoted(run[name], 60)}",
                argument="--save",
            )


def draw_missing(
    suite: Benchmark, subject: Subject, prompts: Sequence[Any], part: Sequence[int], request: Request
) -> Iterator[list[Image.Image]]:
    """Yield the images of some prompts; with `request.save`, images that are there are read, others are written.

    Image k of every prompt has the seed `request.seed` + k, so it depends on no other image.

    Args:
        suite: benchmark with the layout of the files.
        subject: model that draws.
        prompts: all prompts.
        part: numbers of the prompts.
        request: number of images of each prompt, their seed, and the folder.
    """
    folder, numbers = request.save, range(request.images_per_prompt)
    paths: dict[tuple[int, int], Path] = {}
    if folder is not None:
        paths = {
            (index, number): suite.image_path(folder, index, prompts[index], number)
            for index in part
            for number in numbers
        }
    there = {place for place, path in paths.items() if path.is_file()}
    wanted = [(index, number) for index in part for number in numbers if (index, number) not in there]
    drawn = subject.draw_seeds(
        [prompts[index].get("rewritten", prompts[index]["prompt"]) for index, _ in wanted],
        [request.seed + number for _, number in wanted],
        batch_size=request.batch_size,
    )
    for index in part:
        images = []
        for number in numbers:
            place = (index, number)
            image = open_images([paths[place]])[0] if place in there else next(drawn)
            if folder is not None and place not in there:
                make_folder(paths[place].parent)
                save_image(image, paths[place])
            images.append(image)
        if folder is not None:
            suite.finish(folder, index, prompts[index], images)
        yield images
