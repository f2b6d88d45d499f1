"""Running a suite: samples from a model, a folder or renderings; controls; scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from smalti.errors import SmaltiError
from smalti.evaluation.controls import check_request, source_of
from smalti.evaluation.folder import read_samples
from smalti.evaluation.request import Request
from smalti.evaluation.subject import Subject
from smalti.evaluation.suite import Suite, suite_name

T = TypeVar("T")

RENDERED_SIZE = (256, 256)
"""(height, width) in pixels of ground-truth renderings that no model's image tokenizer sees."""


@dataclass(frozen=True)
class Evaluation:
    """What a run found, and what it found it for.

    Attributes:
        scores: scores by name, ready for JSON; "images" is how many samples were scored.
        metadata: suite, its options, seed or folder, controls; the model's name, loading mode, settings and mean number
            of passes.
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
        suite: how samples are made and scored.
        request: how many samples, from where, which control.
        subject: the model; None where `needs_of(suite, request)` is "nothing".
        progress: called after each sample with the number of those that are scored and that of all.

    Raises:
        SmaltiError: the suite cannot do what is asked for; a folder that is wrong; a sample that cannot be scored.

    Example:
        >>> from smalti.evaluation.suite import find_suite
        >>> evaluate(find_suite("scenes"), Request(images=12, ground_truth=True)).scores["mean"]
        1.0
    """
    check_request(suite, request)
    source = source_of(suite, request)
    if source == "folder":
        assert request.folder is not None
        prompts, samples = read_samples(request.folder, suite.check_prompt)
    else:
        prompts = suite.prompts(_count(suite, request), request.seed)
        samples = _make(suite, request, subject, prompts)
    if request.save is not None:
        samples = _saved(suite, request.save, prompts, samples)
    asked = shuffle(prompts, request.seed) if request.shuffled else prompts
    scores = score_samples(suite, asked, samples, progress=progress)
    if source == "model":
        scores = {**scores, **suite.model_scores(_required(subject), prompts)}
    metadata = {"suite": suite_name(suite), **_options(suite)}
    metadata |= {"folder": str(request.folder)} if source == "folder" else {"seed": request.seed}
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
    """Return a suite's scores of samples, one a prompt; they may come from a generator.

    Raises:
        SmaltiError: there are more or fewer samples than prompts, or none; a sample that cannot be scored.
    """
    rows: list[Any] = []
    images = 0
    # zip(strict=True) would raise an error of its own, and swallow one of the generator's.
    rest = iter(samples)
    for prompt in prompts:
        sample = next(rest, None)
        if sample is None:
            raise SmaltiError(f"samples must be as many as the {len(prompts)} prompts, not {len(rows)}")
        rows.append(suite.score(prompt, sample))
        images += len(sample) if isinstance(sample, list) else 1
        if progress is not None:
            progress(len(rows), len(prompts))
    if next(rest, None) is not None:
        raise SmaltiError(f"samples must be as many as the {len(prompts)} prompts, not more")
    if not rows:
        raise SmaltiError("there is nothing to score")
    scores = suite.summarize(rows)
    return {**scores, "images": scores.get("images", images)}


def shuffle(prompts: Sequence[T], seed: int = 0) -> list[T]:
    """Return the same prompts in another order, none in its old place: each then has a wrong sample.

    Raises:
        SmaltiError: there are fewer than two.
    """
    if len(prompts) < 2:
        raise SmaltiError(f"shuffling needs at least 2 prompts, not {len(prompts)}")
    random, order = Random(f"smalti shuffle {seed}"), list(range(len(prompts)))
    # Sattolo's algorithm: a random permutation that is one cycle, so nothing stays where it was.
    for last in range(len(order) - 1, 0, -1):
        other = random.randrange(last)
        order[last], order[other] = order[other], order[last]
    return [prompts[index] for index in order]


def _count(suite: Suite, request: Request) -> int:
    """Return the number of prompts."""
    return suite.count if request.images is None else request.images // request.images_per_prompt


def _make(suite: Suite, request: Request, subject: Subject | None, prompts: Sequence[Any]) -> Iterator[Any]:
    """Return the samples of a model, or ground-truth renderings, perhaps after the model's image tokenizer."""
    if source_of(suite, request) == "model":
        return suite.make(_required(subject), prompts, request)
    if not request.tokenized:
        return suite.ground_truth(prompts, request, RENDERED_SIZE)
    model = _required(subject)
    rendered = suite.ground_truth(prompts, request, model.size)
    return ([model.round_trip(image) for image in images] for images in rendered)


def _saved(suite: Suite, folder: Path, prompts: Sequence[Any], samples: Iterator[Any]) -> Iterator[Any]:
    """Yield the same samples, written into a folder on their way."""
    for index, (prompt, sample) in enumerate(zip(prompts, samples, strict=True)):
        suite.save(folder, index, prompt, sample)
        yield sample


def _required(subject: Subject | None) -> Subject:
    if subject is None:
        raise SmaltiError("the suite needs a model", argument="subject")
    return subject


def _options(suite: Suite) -> dict[str, Any]:
    assert dataclasses.is_dataclass(suite) and not isinstance(suite, type)
    return dataclasses.asdict(suite)
