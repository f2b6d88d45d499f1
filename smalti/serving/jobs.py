"""A job: what a client asked for, how far it is, and who follows it. Threads share it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from smalti.editing.edit import PreparedEdit
from smalti.serving.encoding import Output
from smalti.serving.errors import ApiError
from smalti.serving.ids import new_id
from smalti.serving.tasks import Task

log = logging.getLogger("smalti.serving")

QUEUED, RUNNING, COMPLETED, FAILED, CANCELLED = "queued", "running", "completed", "failed", "cancelled"
FINISHED = (COMPLETED, FAILED, CANCELLED)
"""States that a job does not leave."""

# Events that are kept for a client that comes back; it misses no state, at most some steps.
_MOST_EVENTS = 512


@dataclass(frozen=True)
class Event:
    """Something that happened to a job.

    Attributes:
        number: number of the event in its job, from 1.
        name: "queued", "running", "step", "partial", "image", "completed", "failed" or "cancelled".
        data: what is sent, ready for JSON.
        heavy: more of it, such as a preview; only the newest event with its name keeps it.
    """

    number: int
    name: str
    data: dict[str, Any]
    heavy: dict[str, Any] = field(default_factory=dict)


class Follower:
    """One listener of a job in an event loop: it waits for events without a thread.

    Attributes:
        steps: whether it wants to hear of steps, or of results and the end only.
        watching: whether it wants previews.
    """

    def __init__(self, steps: bool, watching: bool) -> None:
        self.steps, self.watching = steps, watching
        self._loop, self._signal = asyncio.get_running_loop(), asyncio.Event()

    def wake(self) -> None:
        """Say from any thread that something happened."""
        try:
            self._loop.call_soon_threadsafe(self._signal.set)
        except RuntimeError:
            pass  # the loop has ended, and nobody listens any more

    async def wait(self, seconds: float) -> bool:
        """Wait until something happens; return False if nothing did in this time."""
        try:
            await asyncio.wait_for(self._signal.wait(), seconds)
        except asyncio.TimeoutError:
            return False
        self._signal.clear()
        return True


@dataclass(eq=False)
class Job:
    """A request for images from its acceptance to its end.

    Attributes:
        operation: "generation", "edit", "variation" or "selection".
        task: what is drawn.
        output: how the images are encoded.
        client: whose share of the queue it takes: a key or an address.
        owner: who may see it: a key, or "" without keys.
        request: the fields that the client gave, ready for JSON.
        ignored: fields that were accepted and have no effect.
        warnings: settings without effect and unknown words, in words.
        listed: whether it is a job of the jobs API, which is listed and kept.
        keeps_results: whether its images are kept to be fetched by their address.
        partials: number of decoded images on the way that the client wants.
        work: tokens × steps of one image.
        id, created: its identifier, and seconds since 1970.
        state: one of the five states.
        results: records of its images in their order, None where one is missing.
        error: why it failed.
        region: what an edit selected, ready for JSON.
        source: identifier of the image that is edited, as the client sent it.
        mask: identifier of the mask as the server read it.
        steps_done: number of steps that its latest batch has taken.
        prepared: the edit with its tokens selected, once a worker has done so.
    """

    operation: str
    task: Task
    output: Output
    client: str = ""
    owner: str = ""
    request: dict[str, Any] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    listed: bool = False
    keeps_results: bool = False
    partials: int = 0
    work: int = 0
    id: str = field(default_factory=new_id)
    created: float = field(default_factory=time.time)
    state: str = QUEUED
    started: float | None = None
    ended: float | None = None
    results: list[dict[str, Any] | None] = field(default_factory=list)
    contents: list[bytes | None] = field(default_factory=list)
    error: ApiError | None = None
    region: dict[str, Any] | None = None
    source: str | None = None
    mask: str | None = None
    steps_done: int = 0
    prepared: PreparedEdit | None = None

    def __post_init__(self) -> None:
        count = len(self.task.seeds)
        self.results, self.contents = [None] * count, [None] * count
        self.taken = 0
        self.handed_on: set[int] = set()
        self.lock = threading.RLock()
        self.preparing = threading.Lock()  # apart, so that a cancel need not wait for a selection
        self.preview_at = 0.0
        self._events: deque[Event] = deque(maxlen=_MOST_EVENTS)
        self._number = 0
        self._followers: set[Follower] = set()
        self._ends: list[Callable[[Job], None]] = []

    @property
    def group(self) -> Hashable:
        """What jobs share whose images may be drawn in one batch."""
        return self.id if self.operation == "selection" else self.task.group

    @property
    def waiting(self) -> int:
        """Number of images that no batch has taken yet."""
        return len(self.task.seeds) - self.taken

    @property
    def stopped(self) -> bool:
        """Whether its images are not wanted any more."""
        return self.state in (FAILED, CANCELLED)

    @property
    def finished(self) -> bool:
        """Whether it has come to its end."""
        return self.state in FINISHED

    @property
    def watched(self) -> bool:
        """Whether a follower wants previews."""
        return any(follower.watching for follower in tuple(self._followers))

    @property
    def followed(self) -> bool:
        """Whether anyone wants to hear of its steps."""
        return any(follower.steps for follower in tuple(self._followers))

    @contextmanager
    def follow(self, *, steps: bool = False, watching: bool = False) -> Iterator[Follower]:
        """Listen to the job in the running event loop while the block lasts; the arguments are as in `Follower`."""
        follower = Follower(steps, watching)
        self._followers.add(follower)
        try:
            yield follower
        finally:
            self._followers.discard(follower)

    def when_ended(self, call: Callable[[Job], None]) -> None:
        """Call a function in some thread once the job has come to its end."""
        with self.lock:
            if not self.finished:
                self._ends.append(call)
                return
        call(self)

    def add_event(self, name: str, data: dict[str, Any], heavy: dict[str, Any] | None = None) -> None:
        """Record an event and wake the followers."""
        with self.lock:
            self._number += 1
            if heavy:
                for place, old in enumerate(self._events):
                    if old.heavy and old.name == name:
                        self._events[place] = replace(old, heavy={})
            self._events.append(Event(self._number, name, data, heavy or {}))
        for follower in tuple(self._followers):
            follower.wake()

    def events_after(self, number: int) -> list[Event]:
        """Return the events that followed the one with this number, as far as they are kept."""
        with self.lock:
            return [event for event in self._events if event.number > number]

    def begin(self) -> None:
        """Note that a worker has taken the first image."""
        with self.lock:
            if self.state != QUEUED:
                return
            self.state, self.started = RUNNING, time.time()
        self.add_event("running", {"started": self.started})

    def add_result(self, index: int, record: dict[str, Any], content: bytes | None) -> bool:
        """Take the record and the file of an image; return False if the job has ended before."""
        with self.lock:
            if self.finished:
                return False
            self.results[index], self.contents[index] = record, content
        self.add_event("image", {"image": index, "result": record})
        return True

    def end(self, state: str, error: ApiError | None = None) -> bool:
        """Come to the end in a state; return False if the job had ended before."""
        with self.lock:
            if self.finished:
                return False
            self.state, self.error, self.ended = state, error, time.time()
            calls, self._ends = self._ends, []
        for call in calls:
            try:
                call(self)
            except Exception:  # neither the followers nor the worker that ended the job are to suffer
                log.exception("what follows the end of job %s failed", self.id)
        self.add_event(state, {} if error is None else error.body())
        return True
