"""Runs of published benchmarks: images from a model, a folder or a record; rows of all processes; one report."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from smalti.errors import SmaltiError
from smalti.evaluation.benchmark import PROMPTS_FILE, Benchmark, describe_run, draw_missing, open_run
from smalti.evaluation.controls import source_of
from smalti.evaluation.folder import read_prompts, write_prompts
from smalti.evaluation.outcome import Evaluation, options_of, prompts_of, required, shuffle
from smalti.evaluation.ranks import gather, share
from smalti.evaluation.request import Request
from smalti.evaluation.rewriting import describe_rewriting, rewrite
from smalti.evaluation.subject import Subject
from smalti.evaluation.suite import suite_name
from smalti.evaluation.weights import package_versions
from smalti.training.distribution import first_alone, rank, size, wait_for_all


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
    _announce(suite, len(prompts), request, source_of(suite, request))
    asked = shuffle(prompts, request.seed) if request.shuffled else prompts
    part, rows = share(len(prompts)), []
    for index, sample in zip(part, samples, strict=True):
        rows.append((index, suite.score(asked[index], sample)))
        if progress is not None:
            progress(len(rows), len(part))
    scores = suite.summarize(gather(rows))
    metadata |= {"controls": ["shuffled"]} if request.shuffled else {}
    metadata |= {"bootstrap": suite.interval_settings(), "scorer": scorer, "packages": package_versions()}
    return Evaluation(scores, metadata)


def _source(
    suite: Benchmark, request: Request, subject: Subject | None
) -> tuple[Sequence[Any], Iterator[Any], dict[str, Any]]:
    """Return all prompts, the samples of this process's prompts, and what a report says about them."""
    prompts: Sequence[Any]
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
    with first_alone():  # a data set on the hub is fetched once
        prompts = prompts_of(suite, request)
    model = required(subject)
    run = describe_run(metadata["suite"], model, prompts, request)
    if request.rewrite is not None:
        run |= {"rewrite": request.rewrite}
    if request.save is not None:
        with first_alone():
            open_run(request.save, run)
    prompts = _texts(prompts, request)
    file = None if request.prompts is None else str(request.prompts)
    metadata |= {**run, "prompts": file, "subset": request.images is not None}
    if request.rewrite is not None:
        metadata["rewrite"] = describe_rewriting(request.rewrite, prompts)
    return prompts, draw_missing(suite, model, prompts, share(len(prompts)), request), metadata


def _texts(prompts: Sequence[Any], request: Request) -> Sequence[Any]:
    """Return the prompts, rewritten if the request says so; a folder that is drawn into keeps them."""
    file = None if request.save is None else request.save / PROMPTS_FILE
    # A killed run goes on with its own texts, which a language model might not write again.
    there = file is not None and file.is_file()
    wait_for_all()  # no process writes the file before all have looked
    if file is not None and there:
        return read_prompts(file)
    if request.rewrite is not None:
        prompts = rewrite(request.rewrite, prompts)
    if file is not None:
        with first_alone():
            if rank() == 0:
                write_prompts(file, prompts)
    return prompts


def _announce(suite: Benchmark, prompts: int, request: Request, source: str) -> None:
    """Say how many images are drawn and scored, and how long scoring takes by estimate."""
    if suite.scoring_seconds is None or source == "record" or rank() > 0:
        return
    images = prompts * (1 if source == "folder" else request.images_per_prompt)
    minutes = images * suite.scoring_seconds / 60 / size()
    verb = "scoring" if source == "folder" else "drawing and then scoring"
    what = f"{prompts} prompts" if source == "folder" else f"{images} images of {prompts} prompts"
    logging.getLogger("smalti").warning(
        f"{verb} {what}; scoring takes about {max(minutes, 0.1):.1f} min on {size()} GPU (an estimate)"
    )
