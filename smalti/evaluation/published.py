"""Runs of published benchmarks: images from a model, a folder or a record; rows of all processes; one report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from smalti.errors import SmaltiError
from smalti.evaluation.benchmark import Benchmark, describe_run, draw_missing, open_run
from smalti.evaluation.bootstrap import DESCRIPTION
from smalti.evaluation.controls import source_of
from smalti.evaluation.outcome import Evaluation, options_of, prompts_of, required, shuffle
from smalti.evaluation.ranks import gather, share
from smalti.evaluation.request import Request
from smalti.evaluation.subject import Subject
from smalti.evaluation.suite import suite_name
from smalti.evaluation.weights import package_versions
from smalti.training.distribution import first_alone


def evaluate_benchmark(
    suite: Benchmark,
    request: Request,
    subject: Subject | None,
    progress: Callable[[int, int], Any] | None,
) -> Evaluation:
    """Score a model, a folder or a record by a published benchmark; `smalti.evaluation.run.evaluate` calls it.

    The report does not depend on the number of processes, nor on whether the run was killed and went on.

    Args:
        suite: benchmark, whose options name the scorer.
        request: checked request.
        subject: model that draws; None for a folder or a record.
        progress: function that is called after each prompt, with the number of scored ones and that of all.
    """
    prompts, samples, metadata = _source(suite, request, subject)
    if not prompts:
        raise SmaltiError("prompts must not be empty: there is nothing to score", argument="prompts")
    # Before anything is drawn: a scorer that is missing is an error, and one that must be fetched is announced.
    with first_alone():
        scorer = suite.describe()
    asked = shuffle(prompts, request.seed) if request.shuffled else prompts
    part, rows = share(len(prompts)), []
    for index, sample in zip(part, samples, strict=True):
        rows.append((index, suite.score(asked[index], sample)))
        if progress is not None:
            progress(len(rows), len(part))
    scores = suite.summarize(gather(rows))
    metadata |= {"controls": ["shuffled"]} if request.shuffled else {}
    metadata |= {"bootstrap": DESCRIPTION, "scorer": scorer, "packages": package_versions()}
    return Evaluation(scores, metadata)


def _source(
    suite: Benchmark, request: Request, subject: Subject | None
) -> tuple[Sequence[Any], Iterator[Any], dict[str, Any]]:
    """Return all prompts, the samples of this process's prompts, and what a report says about them."""
    metadata = {"suite": suite_name(suite), **options_of(suite)}
    source = source_of(suite, request)
    if source == "record":
        prompts, record = suite.record()
        return prompts, (record[index] for index in share(len(prompts))), metadata
    if source == "folder":
        assert request.folder is not None
        prompts, read = suite.read_folder(request.folder, request)
        metadata |= {"folder": str(request.folder)}
        return prompts, (read(index) for index in share(len(prompts))), metadata
    prompts, model = prompts_of(suite, request), required(subject)
    run = describe_run(metadata["suite"], model, prompts, request)
    if request.save is not None:
        with first_alone():
            open_run(request.save, run)
    file = None if request.prompts is None else str(request.prompts)
    metadata |= {**run, "prompts": file, "subset": request.images is not None}
    return prompts, draw_missing(suite, model, prompts, share(len(prompts)), request), metadata
