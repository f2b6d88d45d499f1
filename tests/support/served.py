"""What the tests of the server share: a tiny model, jobs without HTTP, and a real server on loopback."""

from __future__ import annotations

import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from smalti.pipeline import Pipeline
from smalti.serving.app import make_app
from smalti.serving.encoding import Output
from smalti.serving.engine import Engine
from smalti.serving.jobs import Job
from smalti.serving.limits import Limits
from smalti.serving.metrics import Metrics
from smalti.serving.run import Options, Server, make_service, open_store
from smalti.serving.tasks import Drawn, EditTask, Task
from smalti.serving.worker import Drawing, Worker

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
def running_engine(worker: Drawing, **limits: Any) -> Iterator[tuple[Engine, Collected]]:
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


class SlowWorker(Worker):
    """A worker whose steps wait at a gate, or last a while.

    Attributes:
        candidates: for each step, whether it had to know its candidates.
    """

    def __init__(self, pipe: Pipeline, gate: Gate | None = None, seconds: float = 0) -> None:
        super().__init__({MODEL: pipe})
        self.gate, self.seconds = gate, seconds
        self.candidates: list[bool] = []

    def draw(self, pieces: Any, watch: Any) -> None:
        inner, orders = watch.after, watch.orders
        steps = itertools.count()

        def after(seen: Any) -> None:
            if self.gate is not None:
                self.gate.pass_through()
            time.sleep(self.seconds)
            inner(seen)

        def noted() -> Any:
            found = orders()
            self.candidates.append(found.need_candidates(next(steps)))
            return found

        watch.after, watch.orders = after, noted
        super().draw(pieces, watch)


class RunningServer:
    """A real server on a free port of loopback, in a thread.

    Attributes:
        url: its address.
        service: what it serves.
    """

    def __init__(
        self,
        devices: list[dict[str, Pipeline]],
        options: Options,
        workers: Sequence[Drawing] | None = None,
    ) -> None:
        self.service = make_service(devices, options, "0.0.0", open_store(options), workers)
        self._port: list[int] = []
        app = make_app(self.service, options.access)
        self.server = Server(app, self.service, options, self._port.append)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=lambda: self.server.run(sockets=[self._listener]))

    def start(self) -> None:
        self._thread.start()
        until(lambda: self._port and self.service.engine.ready)
        self.port = self._port[0]
        self.url = f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self.server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()
        self._listener.close()


@contextmanager
def running_server(
    pipe: Pipeline,
    *,
    worker: Drawing | None = None,
    workers: Sequence[Drawing] | None = None,
    name: str = MODEL,
    limits: dict[str, Any] | None = None,
    **options: Any,
) -> Iterator[RunningServer]:
    """Run a server while the block lasts; `worker` or `workers` take the place of the engine's own."""
    others = [worker] if worker else workers
    server = RunningServer(
        [{name: pipe}], Options(limits=Limits(**(limits or {})), port=0, **options), others
    )
    server.start()
    try:
        yield server
    finally:
        server.stop()


def events_of(response: Any) -> Iterator[tuple[str, Any, int | None]]:
    """Yield the name, the data and the number of each server-sent event."""
    name, data, number = "message", [], None
    for line in response.iter_lines():
        key, _, value = line.partition(": ")
        if key == "event":
            name = value
        elif key == "data":
            data.append(value)
        elif key == "id":
            number = int(value)
        elif not line and data:
            text = "\n".join(data)
            yield name, text if text == "[DONE]" else json.loads(text), number
            name, data, number = "message", [], None
