"""Callbacks of a pipeline: what may be given, and what it is called with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from smalti.common.checks import quoted
from smalti.errors import SmaltiError
from smalti.sampling.view import Step

Callback = Callable[[Any, int, float, dict[str, Any]], Any]
"""A function of the pipeline, the step's index, the share of unknown tokens, and {"step": the `Step`}."""


def check_callback(callback: Any) -> None:
    """Raise SmaltiError unless a callback can be called, before anything is drawn."""
    if callback is not None and not callable(callback):
        raise SmaltiError(
            f"callback_on_step_end must be a function, not {quoted(callback)}",
            argument="callback_on_step_end",
        )


def report_step(pipeline: Any, callback: Callback | None, step: Step) -> None:
    """Call a callback, if there is one, after a step of a pipeline."""
    if callback is not None:
        unknown = step.tokens == pipeline.components.mask_code
        callback(pipeline, step.index, float(unknown.float().mean()), {"step": step})
