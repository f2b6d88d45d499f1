"""Checks of a request: whether a suite supports it, where the samples come from, and what of a model it needs."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from smalti.common.checks import check_seed, check_whole, quoted
from smalti.common.files import is_temporary
from smalti.errors import SmaltiError
from smalti.evaluation.benchmark import Benchmark, is_started
from smalti.evaluation.request import Request
from smalti.evaluation.suite import Suite, suite_name
from smalti.generation.settings import MOST_IMAGES

# Fields of a request that every suite supports.
_GENERAL = {"images", "seed", "batch_size"}


def check_request(suite: Suite, request: Request) -> None:
    """Raise SmaltiError unless the suite supports the request.

    Errors name the options of `smalti evaluate`: "--ground-truth" for `ground_truth`.
    """
    check_whole("--images-per-prompt", request.images_per_prompt, 1, MOST_IMAGES)
    check_whole("--batch-size", request.batch_size)
    check_seed(request.seed, "--seed")
    if request.images is not None:
        least = suite.least if request.prompts is None else 1
        check_whole("--images", request.images, least * request.images_per_prompt, MOST_IMAGES)
    for field in dataclasses.fields(request):
        given = getattr(request, field.name) != field.default
        if given and field.name not in _GENERAL | suite.controls:
            option = "--" + field.name.replace("_", "-")
            raise SmaltiError(
                f"{option} cannot be used with the suite {suite_name(suite)!r}: leave it out", argument=option
            )
    if request.folder is not None and request.prompts is not None and not suite.folder_takes_prompts:
        raise SmaltiError("--folder has prompts of its own: leave out --prompts", argument="--prompts")
    if request.folder is not None and (request.ground_truth or request.save is not None):
        raise SmaltiError(
            "--folder scores images that exist: leave out --ground-truth and --save", argument="--folder"
        )
    if request.tokenized and not request.ground_truth:
        raise SmaltiError("--tokenized needs --ground-truth", argument="--tokenized")
    if request.shuffled and request.save is not None:
        raise SmaltiError(
            "--save would write images with wrong prompts: leave out --shuffled", argument="--save"
        )
    if request.folder is not None and request.rewrite is not None:
        raise SmaltiError("--folder scores images that exist: leave out --rewrite", argument="--rewrite")
    if suite.recorded() and any(
        (request.folder, request.save, request.prompts, request.shuffled, request.rewrite)
    ):
        raise SmaltiError(
            "--set names a record, which needs no images: leave out --folder, --save, --prompts, --rewrite and "
            "--shuffled",
            argument="--set",
        )
    if request.save is not None:
        _check_new(request.save, goes_on=isinstance(suite, Benchmark))


def _check_new(folder: Path, goes_on: bool) -> None:
    """Raise SmaltiError unless a folder is empty or can be made: images of two runs would be scored together.

    Args:
        folder: folder of the images.
        goes_on: whether a folder that holds a run already is taken.
    """
    try:
        # Another process may start the run meanwhile: its first file is the one that `is_started` looks for.
        if all(is_temporary(name) for name in os.listdir(folder)) or (goes_on and is_started(folder)):
            return
        reason = "it holds files already"
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    raise SmaltiError(
        f"--save must name a new or an empty folder, not {quoted(str(folder))}: {reason}", argument="--save"
    )


def source_of(suite: Suite, request: Request) -> str:
    """Return where the samples come from: "record", "folder", "ground_truth" or "model".

    Example:
        >>> from smalti.evaluation.suite import find_suite
        >>> source_of(find_suite("scenes"), Request(shuffled=True))
        'ground_truth'
    """
    if suite.recorded():
        return "record"
    if request.folder is not None:
        return "folder"
    if request.ground_truth or (request.shuffled and "ground_truth" in suite.controls):
        return "ground_truth"
    return "model"


def needs_of(suite: Suite, request: Request) -> str:
    """Return what a run needs of a model: one of the values of `Suite.needs`, or "nothing"."""
    if request.tokenized:
        return "sampling"
    return suite.needs if source_of(suite, request) == "model" else "nothing"
