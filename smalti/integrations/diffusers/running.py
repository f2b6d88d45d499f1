"""The loop of the pipelines: a progress bar, a callback that may replace tensors, an interrupt between steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from smalti.common.checks import quoted
from smalti.errors import SmaltiError, renamed
from smalti.generation.drawing import Generation
from smalti.generation.result import PipelineOutput
from smalti.sampling.view import Step

TENSORS = ("latents", "candidates", "revealed")
"""Tensors that a callback may ask for; returned latents replace the loop's."""

Callback = Callable[[Any, int, float, dict[str, torch.Tensor]], Any]


class Host(Protocol):
    """What the loop needs of a pipeline."""

    _interrupt: bool

    def progress_bar(self, iterable: Any = None, total: int | None = None) -> Any:
        """Return a bar, as a diffusers pipeline does."""
        ...


def check_callback(callback: Any, inputs: Any) -> tuple[str, ...]:
    """Return the names of the tensors that a callback asks for.

    Raises:
        SmaltiError: the callback cannot be called, or asks for something else.
    """
    if callback is not None and not callable(callback):
        raise SmaltiError(
            f"callback_on_step_end must be a function, not {quoted(callback)}",
            argument="callback_on_step_end",
        )
    names = inputs if isinstance(inputs, list | tuple) else None
    if names is None or not all(name in TENSORS for name in names):
        raise SmaltiError(
            f"callback_on_step_end_tensor_inputs must be a list of {', '.join(TENSORS)}, not {quoted(inputs)}",
            argument="callback_on_step_end_tensor_inputs",
        )
    return tuple(names)


def run(
    host: Host,
    generation: Generation,
    *,
    mask_code: int,
    callback: Callback | None,
    inputs: Sequence[str],
    pictures: bool,
) -> PipelineOutput:
    """Take the steps of a generation, and return what was drawn, as tokens.

    Args:
        host: the pipeline. Where its `_interrupt` is set, the rest of the steps is skipped.
        generation: the generation, before its first step.
        mask_code: id of unknown tokens.
        callback: function that is called after every step with the pipeline, the step's index, the share of tokens
            that are still unknown, and the tensors of `inputs`. The latents in the dictionary that it returns replace
            the loop's.
        inputs: names of `TENSORS`.
        pictures: whether the tokens are decoded, so that none may stay unknown: after an interrupt one more pass fills
            them all.

    Raises:
        SmaltiError: the callback returns something else than tokens, or masks after the last step.
    """
    host._interrupt = False
    latest = None
    with host.progress_bar(total=generation.settings.num_inference_steps) as bar:
        for step in generation:
            bar.update()
            latest = step.tokens.clone()
            if callback is not None:
                unknown = float((latest == mask_code).float().mean())
                given = callback(host, step.index, unknown, _tensors(step, latest, inputs))
                latest = _replaced(generation, given, latest)
            if host._interrupt:
                if pictures and bool((latest == mask_code).any()):
                    latest = _filled(generation, latest, mask_code)
                for image in range(len(latest)):
                    generation.drop(image)
                break
    if pictures and latest is not None and bool((latest == mask_code).any()):
        raise SmaltiError(
            f"latents must have no mask ({mask_code}) after the last step", argument="callback_on_step_end"
        )
    return generation.output("tokens")


def _tensors(step: Step, tokens: torch.Tensor, inputs: Sequence[str]) -> dict[str, torch.Tensor]:
    """Return the tensors that a callback asks for, which it may change."""
    values = {"latents": tokens.clone(), "candidates": step.candidate, "revealed": step.revealed}
    return {name: values[name].clone() for name in inputs}


def _replaced(generation: Generation, given: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Return the tokens after a callback, and tell the generation of changes."""
    if given is None:
        return tokens
    if not isinstance(given, dict):
        raise SmaltiError(
            f"callback_on_step_end must return a dictionary of tensors, not {quoted(given)}",
            argument="callback_on_step_end",
        )
    latents = given.get("latents", tokens)
    if latents is tokens or (isinstance(latents, torch.Tensor) and torch.equal(latents, tokens)):
        return tokens
    with renamed(tokens="latents"):
        return generation.replace(latents)


def _filled(generation: Generation, tokens: torch.Tensor, mask_code: int) -> torch.Tensor:
    """Return tokens with the candidates of one more pass wherever they are unknown."""
    generation.preview = True
    step = next(generation, None)
    if step is None:  # every image was full
        return tokens
    filled = torch.where(tokens == mask_code, step.candidate.clone(), tokens)
    return generation.replace(filled)
