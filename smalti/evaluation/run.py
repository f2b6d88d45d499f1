"""Runs of suites: samples from a model, a folder or ground-truth renderings; controls; scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from smalti.errors import SmaltiError
from smalti.evaluation.controls import check_request, source_of
from smalti.evaluation.folder import read_prompts, read_samples
from smalti.evaluation.request import Request
from smalti.evaluation.subject import Subject
from smalti.evaluation.suite import Suite, suite_name

T = TypeVar("T")

RENDERED_SIZE = (256, 256)
"""(height, width) in pixels of ground-truth renderings that make no round trip through an image tokenizer."""


@dataclass(frozen=True)
class Evaluation:
    """The scores of a run, and what was measured.

    Attributes:
        scores: scores by name, ready for JSON; "images" is the number of samples.
        metadata: name and options of the suite, seed or folder, controls; name, loading mode, settings and mean number
            of passes of the model.
    """

    scores: dict[str, Any]
    metadata: dict[str, Any]


def evaluate(
    suite: Suite,
    request: Request,
    subject: Subject | None = None,
    *,
    progress: Callable[[int, int], Any] | None = None,
) -> Evaluation:
    """Score a model, a folder or ground-truth renderings.

    Args:
        suite: measurement to run.
        request: number and source of the samples, and controls.
        subject: model to measure; None if `needs_of(suite, request)` is "nothing".
        progress: function that is called after each sample, with the number of scored samples and that of all.

    Raises:
        SmaltiError: the suite does not support the request; a folder is wrong; a sample cannot be scored.

    Example:
        >>> from smalti.evaluation.suite import find_suite
        >>> evaluate(find_suite("scenes"), Request(images=12, ground_truth=True)).scores["mean"]
        1.0
    """
    check_request(suite, request)
    before: list[Any] = []
    source = source_of(suite, request)
    if source == "folder":
        assert request.folder is not None
        prompts, samples = read_samples(request.folder, suite.check_prompt)
    else:
        prompts = _prompts(suite, request)
        samples = _make(suite, request, subject, prompts, before)
    if request.save is not None:
        samples = _saved(suite, request.save, prompts, samples)
    asked = shuffle(prompts, request.seed) if request.shuffled else prompts
    rows = _rows(suite, asked, samples, progress)
    scores = _summary(suite, rows)
    if before and not request.shuffled:
        scores |= _survival(suite, before, [row for row, _ in rows])
    if source == "model":
        scores = {**scores, **suite.model_scores(_required(subject), prompts)}
    metadata = {"suite": suite_name(suite), **_options(suite)}
    metadata |= {"folder": str(request.folder)} if source == "folder" else {"seed": request.seed}
    metadata |= {"prompts": str(request.prompts)} if request.prompts is not None else {}
    controls = [name for name in ("ground_truth", "tokenized", "shuffled") if getattr(request, name)]
    metadata |= {"controls": controls} if controls else {}
    if subject is not None:
        metadata |= subject.describe(suite.needs if source == "model" else "image_tokenizer")
    return Evaluation(scores, metadata)


def score_samples(
    suite: Suite,
    prompts: Sequence[Any],
    samples: Iterable[Any],
    *,
    progress: Callable[[int, int], Any] | None = None,
) -> dict[str, Any]:
    """Return a suite's scores of samples.

    Args:
        suite: measurement.
        prompts: prompts of the suite.
        samples: one sample for each prompt; a generator keeps few in memory.
        progress: function that is called after each sample, with the number of scored samples and that of all.

    Raises:
        SmaltiError: there are more or fewer samples than prompts, or none; a sample cannot be scored.
    """
    return _summary(suite, _rows(suite, prompts, samples, progress))


def shuffle(prompts: Sequence[T], seed: int = 0) -> list[T]:
    """Return the prompts in another order, none in its old place, so that each has a wrong sample.

    Raises:
        SmaltiError: there are fewer than two prompts.
    """
    if len(prompts) < 2:
        raise SmaltiError(
            f"prompts must be at least 2 to be shuffled, not {len(prompts)}", argument="prompts"
        )
    random, order = Random(f"smalti shuffle {seed}"), list(range(len(prompts)))
    # Sattolo's algorithm: a random permutation that is one cycle, so every prompt moves.
    for last in range(len(order) - 1, 0, -1):
        other = random.randrange(last)
        order[last], order[other] = order[other], order[last]
    return [prompts[index] for index in order]


def _rows(
    suite: Suite,
    prompts: Sequence[Any],
    samples: Iterable[Any],
    progress: Callable[[int, int], Any] | None = None,
) -> list[tuple[Any, int]]:
    """Return the row and the number of images of each prompt, as `score_samples` needs them."""
    rows: list[tuple[Any, int]] = []
    # zip(strict=True) would raise an error other than SmaltiError, and hide one of the generator.
    rest = iter(samples)
    for prompt in prompts:
        sample = next(rest, None)
        if sample is None:
            raise SmaltiError(
                f"samples must be as many as the {len(prompts)} prompts, not {len(rows)}", argument="samples"
            )
        rows.append((suite.score(prompt, sample), len(sample) if isinstance(sample, list) else 1))
        if progress is not None:
            progress(len(rows), len(prompts))
    if next(rest, None) is not None:
        raise SmaltiError(
            f"samples must be as many as the {len(prompts)} prompts, not more", argument="samples"
        )
    if not rows:
        raise SmaltiError("prompts must not be empty: there is nothing to score", argument="prompts")
    return rows


def _summary(suite: Suite, rows: list[tuple[Any, int]]) -> dict[str, Any]:
    """Return a suite's scores of rows, and the number of images."""
    scores = suite.summarize([row for row, _ in rows])
    return {**scores, "images": scores.get("images", sum(images for _, images in rows))}


def _survival(suite: Suite, before: list[Any], after: list[Any]) -> dict[str, float]:
    """Return the share of the correct images that are still correct after a round trip; empty without any."""
    kept = [still for one, other in zip(before, after, strict=True) for still in suite.survived(one, other)]
    return {"survived": round(sum(kept) / len(kept), 4)} if kept else {}


def _prompts(suite: Suite, request: Request) -> list[Any]:
    """Return the prompts of a request: the suite's own, or those of a file, evenly chosen if fewer are wanted."""
    if request.prompts is None:
        count = suite.count if request.images is None else request.images // request.images_per_prompt
        return suite.prompts(count, request.seed)
    every = read_prompts(request.prompts, suite.check_prompt)
    if request.images is None:
        return every
    count = request.images // request.images_per_prompt
    if count > len(every):
        raise SmaltiError(
            f"--images must be at most {len(every) * request.images_per_prompt}, the images of all "
            f"{len(every)} prompts of {request.prompts}, not {request.images}",
            argument="--images",
        )
    return [every[index * len(every) // count] for index in range(count)]


def _make(
    suite: Suite, request: Request, subject: Subject | None, prompts: Sequence[Any], before: list[Any]
) -> Iterator[Any]:
    """Return samples of a model, or ground-truth renderings, after a round trip if the request says so.

    The rows of renderings before their round trip are appended to `before`.
    """
    if source_of(suite, request) == "model":
        return suite.make(_required(subject), prompts, request)
    if not request.tokenized:
        return suite.ground_truth(prompts, request, RENDERED_SIZE)
    return _tokenized(suite, request, _required(subject), prompts, before)


def _tokenized(
    suite: Suite, request: Request, model: Subject, prompts: Sequence[Any], before: list[Any]
) -> Iterator[Any]:
    """Yield ground-truth renderings after a round trip."""
    rendered = suite.ground_truth(prompts, request, model.size)
    for prompt, images in zip(prompts, rendered, strict=True):
        before.append(suite.score(prompt, images))
        yield [model.round_trip(image) for image in images]


def _saved(suite: Suite, folder: Path, prompts: Sequence[Any], samples: Iterator[Any]) -> Iterator[Any]:
    """Yield the samples, and write each into a folder first."""
    for index, (prompt, sample) in enumerate(zip(prompts, samples, strict=True)):
        suite.save(folder, index, prompt, sample)
        yield sample


def _required(subject: Subject | None) -> Subject:
    """Return the subject, or raise SmaltiError if there is none."""
    if subject is None:
        raise SmaltiError("subject must not be None: the suite needs a model", argument="subject")
    return subject


def _options(suite: Suite) -> dict[str, Any]:
    """Return the options of a suite by name."""
    assert dataclasses.is_dataclass(suite) and not isinstance(suite, type)
    return dataclasses.asdict(suite)
