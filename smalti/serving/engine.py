"""The engine: a queue, one thread a worker, and threads that encode. HTTP sees only `submit`, `cancel` and the jobs."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from smalti.errors import SmaltiError
from smalti.serving.errors import ApiError, from_smalti, internal
from smalti.serving.jobs import CANCELLED, COMPLETED, FAILED, Job
from smalti.serving.limits import Limits
from smalti.serving.metrics import Metrics
from smalti.serving.queueing import Queue
from smalti.serving.records import describe_region
from smalti.serving.tasks import Drawn, Piece
from smalti.serving.watching import BatchWatch
from smalti.serving.worker import Drawing, WorkerLost

log = logging.getLogger("smalti.serving")

# Share of the newest batch in the average pace.
_NEWEST = 0.2
# Seconds between looks at a thread that is to end.
_SOON = 0.05

Finish = Callable[[Job, int, Drawn], None]


class Engine:
    """Draws the jobs that are submitted, on one or more workers.

    Args:
        workers: one a device.
        limits: bounds of the queue and of the work.
        finish: encodes an image and adds the result to its job; called in threads of its own.
        metrics: counts what happens.

    Attributes:
        queue: the jobs that wait.
        ready: whether every worker has warmed up.
    """

    def __init__(self, workers: Sequence[Drawing], limits: Limits, finish: Finish, metrics: Metrics) -> None:
        self.workers, self.limits, self.metrics = list(workers), limits, metrics
        self.queue = Queue(limits.waiting, limits.waiting_per_client)
        self._finish = finish
        self._encoders = ThreadPoolExecutor(len(self.workers), thread_name_prefix="smalti-encode")
        # Seconds by token and step: a moving average, and the least so far.
        self._paces: dict[str, float] = {}
        self._best: dict[str, float] = {}
        self._warm = 0
        self._running: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._end: threading.Timer | None = None
        self._failed_all = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(worker,), name=f"smalti-worker-{index}", daemon=True)
            for index, worker in enumerate(self.workers)
        ]
        metrics.follow_queue(lambda: len(self.queue), lambda: len(self._running))

    @property
    def ready(self) -> bool:
        """Whether every worker has warmed up."""
        return self._warm == len(self.workers)

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def check_room(self) -> None:
        """Raise ApiError if the queue takes no more, before a body is read in vain."""
        self.queue.check(self.retry_after())

    def submit(self, job: Job) -> None:
        """Accept a job.

        Raises:
            ApiError: the queue is full, the job is too much work, or the server is shutting down.
        """
        self._check_work(job)
        self.queue.put(job, self.retry_after())
        job.when_ended(lambda ended: self.metrics.ended.labels(ended.state).inc())
        self.metrics.accepted.labels(job.operation).inc()
        position = self.queue.position(job) or 0
        job.add_event("queued", {"position": position})
        if position + 1 < len(self.queue):
            self._tell_positions()

    def cancel(self, job: Job) -> None:
        """Stop a job, whether it waits or is drawn; one that has ended stays as it is."""
        if job.end(CANCELLED):
            self.queue.remove(job)
            self._tell_positions()

    def retry_after(self) -> int:
        """Return the seconds, from 1 to 120, after which the work that is accepted now may be done."""
        with self._lock:
            running = list(self._running.values())
        waiting = [(job, job.waiting) for job in self.queue.jobs()]
        waiting += [(job, len(job.task.seeds)) for job in running]
        seconds = sum(self._paces.get(job.task.model, 0) * job.work * count for job, count in waiting)
        return min(max(math.ceil(seconds / len(self.workers) / 2), 1), 120)

    def begin_drain(self, seconds: float) -> None:
        """Take no more jobs from now on, and let those fail that are not done after so many seconds."""
        self.queue.closed = True
        if self._end is None:
            self._end = threading.Timer(seconds, self._fail_all)
            self._end.daemon = True
            self._end.start()

    def drain(self, seconds: float) -> None:
        """Take no more jobs, finish those that were accepted, and end; `seconds` are those of `begin_drain`."""
        self.begin_drain(seconds)
        self.queue.end()
        for thread in self._threads:
            while thread.is_alive() and not self._failed_all.is_set():
                thread.join(_SOON)
        self._fail_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(5)
        self._encoders.shutdown()

    def _fail_all(self) -> None:
        """Let every job fail that is not done."""
        if self._end is not None:
            self._end.cancel()
        with self._lock:
            left = list(self._running.values())
        for job in [*self.queue.jobs(), *left]:
            self._fail(job, ApiError(503, "the server was stopped before it was done", "shutting_down"))
        self._failed_all.set()

    def _check_work(self, job: Job) -> None:
        """Raise ApiError if a job would occupy a device for too long."""
        count, steps = len(job.task.seeds), job.task.settings.num_inference_steps
        # By the best pace, because that of a busy moment would refuse what is usually fine.
        seconds = self._best.get(job.task.model, 0) * job.work * count
        if seconds > self.limits.work_seconds:
            name = "n" if count > 1 else "num_inference_steps"
            raise ApiError(
                400,
                f"{name} must be less: {count} images of {steps} steps would take about {seconds:.0f} s, and one "
                f"request may take {self.limits.work_seconds:g} s",
                "too_much_work",
                name,
            )

    def _work(self, worker: Drawing) -> None:
        """Draw batches until the queue ends: the thread of a worker."""
        try:
            for name, pace in worker.warm_up().items():
                self._note_pace(name, pace)
        except Exception:
            log.exception("a worker failed to warm up")
        with self._lock:
            self._warm += 1
        while (batch := self.queue.take(self.limits.batch)) is not None:
            self._tell_positions()
            wanted = [(job, index) for job, index in batch if not self._late(job)]
            jobs = {job.id: job for job, _ in wanted}
            with self._lock:
                self._running |= jobs
            try:
                self._run(worker, wanted)
            finally:
                with self._lock:
                    for name in jobs:
                        self._running.pop(name, None)

    def _late(self, job: Job) -> bool:
        """Return whether a job is not to be drawn, because it ended or has waited for too long."""
        if not job.finished and job.started is None and time.time() - job.created > self.limits.wait_seconds:
            wait = {"retry-after": str(self.retry_after())}
            message = f"the request waited for more than {self.limits.wait_seconds:g} s"
            self._fail(job, ApiError(503, message, "waited_too_long", headers=wait))
        return job.finished

    def _run(self, worker: Drawing, batch: list[tuple[Job, int]], *, again: bool = False) -> None:
        """Draw a batch. If it fails, draw each job alone, so that a job fails for its own faults only."""
        jobs = list({job.id: job for job, _ in batch}.values())
        try:
            places, pieces = self._prepared(worker, batch)
            if pieces:
                self._draw(worker, places, pieces)
        except Exception as error:
            if isinstance(error, WorkerLost) and not again:
                log.warning("%s; what it drew is drawn again", error)
                self._run(worker, batch, again=True)
            elif len(jobs) > 1:
                log.warning("a batch of %d jobs failed; each is drawn alone", len(jobs))
                for job in jobs:
                    self._run(worker, [(other, index) for other, index in batch if other is job])
            else:
                self._fail(jobs[0], self._named(error, jobs[0]))

    def _prepared(
        self, worker: Drawing, batch: list[tuple[Job, int]]
    ) -> tuple[list[tuple[Job, int]], list[Piece]]:
        """Return the images that are to be drawn; edits get their tokens selected, and those that cannot be fail."""
        places, pieces = [], []
        for job, index in batch:
            job.begin()
            try:
                with job.preparing:
                    if job.task.edit is not None and job.prepared is None and not job.stopped:
                        job.prepared = worker.prepare(job.task)
                        job.region = describe_region(job.prepared)
                        job.add_event("selected", {"region": job.region})
            except WorkerLost:
                raise
            except Exception as error:
                self._fail(job, self._named(error, job))
            if job.stopped or index in job.handed_on:
                continue
            if job.operation == "selection":
                job.end(COMPLETED)
                continue
            places.append((job, index))
            pieces.append(Piece(job.task, index, job.prepared))
        return places, pieces

    def _draw(self, worker: Drawing, places: list[tuple[Job, int]], pieces: list[Piece]) -> None:
        started = time.perf_counter()
        watch = BatchWatch(places, self.limits, self._hand_on)
        worker.draw(pieces, watch)
        seconds = time.perf_counter() - started
        job = places[0][0]
        if not any(other.stopped for other, _ in places):
            self._note_pace(job.task.model, seconds / (job.work * len(places)))
        self.metrics.drew(job.task.model, len(places), seconds, watch.previews)

    def _note_pace(self, model: str, pace: float) -> None:
        """Learn from a batch how fast a model draws."""
        old = self._paces.get(model, pace)
        self._paces[model] = old + _NEWEST * (pace - old)
        self._best[model] = min(pace, self._best.get(model, pace))

    def _hand_on(self, job: Job, index: int, drawn: Drawn) -> None:
        job.handed_on.add(index)
        self._encoders.submit(self._encode, job, index, drawn)

    def _encode(self, job: Job, index: int, drawn: Drawn) -> None:
        """Encode an image: in a thread of its own, while the worker draws on."""
        try:
            self._finish(job, index, drawn)
            if all(entry is not None for entry in job.results):
                job.end(COMPLETED)
        except Exception as error:
            self._fail(job, self._named(error, job))

    def _fail(self, job: Job, error: ApiError) -> None:
        if job.end(FAILED, error):
            self.queue.remove(job)

    def _named(self, error: Exception, job: Job) -> ApiError:
        """Return what a client is told of an error; what is not the client's fault goes to the log."""
        if isinstance(error, ApiError):
            return error
        if isinstance(error, SmaltiError):
            return from_smalti(error)
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            message = "the device has too little memory for this request: ask for fewer or smaller images"
            return ApiError(400, message, "out_of_memory")
        log.error("job %s failed", job.id, exc_info=error)
        return internal()

    def _tell_positions(self) -> None:
        """Tell everyone who follows a waiting job where it stands."""
        for position, job in enumerate(self.queue.jobs()):
            if job.followed and not job.finished:
                job.add_event("queued", {"position": position})
