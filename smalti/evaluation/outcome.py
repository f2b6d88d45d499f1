"""What every run of a suite has: its outcome, its prompts, its options, and the control with shuffled prompts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

from smalti.errors import SmaltiError
from smalti.evaluation.prompts import evenly, find_prompts
from smalti.evaluation.request import Request
from smalti.evaluation.subject import Subject
from smalti.evaluation.suite import Suite

T = TypeVar("T")


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


def prompts_of(suite: Suite, request: Request) -> list[Any]:
    """Return the prompts of a request: the suite's own, or those of a file, evenly chosen if fewer are wanted."""
    if request.prompts is None:
        count = suite.count if request.images is None else request.images // request.images_per_prompt
        return suite.prompts(count, request.seed)
    every = find_prompts(request.prompts, suite.check_prompt)
    if request.images is None:
        return every
    count = request.images // request.images_per_prompt
    if count > len(every):
        raise SmaltiError(
            f"--images must be at most {len(every) * request.images_per_prompt}, the images of all "
            f"{len(every)} prompts of {request.prompts}, not {request.images}",
            argument="--images",
        )
    return evenly(every, count)


def required(subject: Subject | None) -> Subject:
    """Return the subject, or raise SmaltiError if there is none."""
    if subject is None:
        raise SmaltiError("subject must not be None: the suite needs a model", argument="subject")
    return subject


def options_of(suite: Suite) -> dict[str, Any]:
    """Return the options of a suite by name."""
    assert dataclasses.is_dataclass(suite) and not isinstance(suite, type)
    return dataclasses.asdict(suite)
