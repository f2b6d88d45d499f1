"""What the tests of the server share: a tiny model, jobs without HTTP, and a real server on loopback."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from smalti.pipeline import Pipeline
from smalti.serving.encoding import Output
from smalti.serving.engine import Engine
from smalti.serving.jobs import Job
from smalti.serving.limits import Limits
from smalti.serving.metrics import Metrics
from smalti.serving.tasks import Drawn, EditTask, Task
from smalti.serving.worker import Worker

MODEL = "tiny"


def make_task(
    pipe: Pipeline, prompt: str = "a red circle", seeds=(0,), edit: EditTask | None = None, **changes
):
    settings = pipe.settings.replaced(num_inference_steps=4).replaced(**changes)
    length = int(pipe.components.prompts([prompt], *settings.size).lengths[0])
    return Task(MODEL, prompt, None, settings, tuple(seeds), (length, 0), edit)


def make_job(
    pipe: Pipeline, *args: Any, operation: str = "generation", client: str = "", **changes: Any
) -> Job:
    task = make_task(pipe, *args, **changes)
    tokens = 1
    for side in pipe.components.grid(*task.settings.size):
        tokens *= side
    return Job(operation, task, Output(), client=client, work=tokens * task.settings.num_inference_steps)


class Collected:
    """A `finish` that keeps what it was given."""

    def __init__(self) -> None:
        self.tokens: dict[tuple[str, int], torch.Tensor] = {}

    def __call__(self, job: Job, index: int, drawn: Drawn) -> None:
        self.tokens[job.id, index] = drawn.tokens
        job.add_result(index, {"index": index}, b"")


@contextmanager
def running_engine(worker: Worker, **limits: Any) -> Iterator[tuple[Engine, Collected]]:
    collected = Collected()
    engine = Engine([worker], Limits(**limits), collected, Metrics())
    try:
        yield engine, collected
    finally:
        engine.drain(10)


def until(condition: Callable[[], Any], seconds: float = 20) -> Any:
    """Wait until a condition holds, and return its value."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.005)
    raise AssertionError("it did not happen in time")


class Gate:
    """A worker's brake: steps wait at it until it is opened."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.reached = threading.Event()

    def pass_through(self) -> None:
        self.reached.set()
        assert self.open.wait(20)
