"""Runs of suites: samples from a model, a folder or ground-truth renderings; controls; scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from smalti.errors import SmaltiError
from smalti.evaluation.benchmark import Benchmark
from smalti.evaluation.controls import check_request, source_of
from smalti.evaluation.folder import read_samples
from smalti.evaluation.outcome import Evaluation, options_of, prompts_of, required, shuffle
from smalti.evaluation.published import evaluate_benchmark
from smalti.evaluation.request import Request
from smalti.evaluation.subject import Subject
from smalti.evaluation.suite import Suite, suite_name

RENDERED_SIZE = (256, 256)
"""(height, width) in pixels of ground-truth renderings that make no round trip through an image tokenizer."""


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
    if isinstance(suite, Benchmark):
        return evaluate_benchmark(suite, request, subject, progress)
    before: list[Any] = []
    source = source_of(suite, request)
    if source == "folder":
        assert request.folder is not None
        prompts, samples = read_samples(request.folder, suite.check_prompt)
    else:
        prompts = prompts_of(suite, request)
        samples = _make(suite, request, subject, prompts, before)
    if request.save is not None:
        samples = _saved(suite, request.save, prompts, samples)
    asked = shuffle(prompts, request.seed) if request.shuffled else prompts
    rows = _rows(suite, asked, samples, progress)
    scores = _summary(suite, rows)
    if before and not request.shuffled:
        scores |= _survival(suite, before, [row for row, _ in rows])
    if source == "model":
        scores = {**scores, **suite.model_scores(required(subject), prompts)}
    metadata = {"suite": suite_name(suite), **options_of(suite)}
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


def _make(
    suite: Suite, request: Request, subject: Subject | None, prompts: Sequence[Any], before: list[Any]
) -> Iterator[Any]:
    """Return samples of a model, or ground-truth renderings, after a round trip if the request says so.

    The rows of renderings before their round trip are appended to `before`.
    """
    if source_of(suite, request) == "model":
        return suite.make(required(subject), prompts, request)
    if not request.tokenized:
        return suite.ground_truth(prompts, request, RENDERED_SIZE)
    return _tokenized(suite, request, required(subject), prompts, before)


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
