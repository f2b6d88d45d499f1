"""The server without HTTP: it takes requests, draws them, and keeps what is to be kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from smalti.serving.encoding import MEDIA_TYPES, Encoder, encode_mask
from smalti.serving.engine import Engine
from smalti.serving.errors import ApiError
from smalti.serving.ids import new_id
from smalti.serving.jobs import Job
from smalti.serving.limits import Limits
from smalti.serving.metrics import Metrics
from smalti.serving.models import Models
from smalti.serving.records import describe_job, size_text
from smalti.serving.selections import Selections
from smalti.serving.store import File, Store
from smalti.serving.submission import Request, Submission
from smalti.serving.tasks import Drawn
from smalti.serving.worker import Drawing

_MEDIA = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}


class Service:
    """Everything that endpoints ask for.

    Args:
        models: the models.
        workers: one a device, each with all models.
        submission: makes jobs of requests.
        store: keeps jobs and results.
        limits: bounds.
        version: Smalti's.
    """

    def __init__(
        self,
        models: Models,
        workers: Sequence[Drawing],
        submission: Submission,
        store: Store,
        limits: Limits,
        version: str,
    ) -> None:
        self.models, self.store, self.limits, self.version = models, store, limits, version
        self.metrics = Metrics()
        self.selections = Selections()
        self.engine = Engine(workers, limits, self._finish, self.metrics)
        self._submission = submission
        self._encoders = {
            name: Encoder(models.find(name)[1].components, version) for name in self.models.names
        }
        self._live: dict[str, Job] = {}
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start to draw."""
        self.engine.start()

    def stop(self) -> None:
        """Finish what was accepted, as far as the limit of time allows, and close the store."""
        self.engine.drain(self.limits.drain_seconds)
        self.store.close()

    def submit(self, request: Request, *, listed: bool = False, urls: bool = False) -> Job:
        """Accept a request; call it in a thread.

        Args:
            listed: whether it is a job of the jobs API.
            urls: whether results are kept to be fetched by their address.

        Raises:
            ApiError: it is wrong, the queue is full, or the store cannot be written.
        """
        job = self._submission.job(request)
        job.listed, job.keeps_results = listed, listed or urls
        try:
            if listed:
                self._list(job, request)
            self.engine.submit(job)
        except ApiError:
            with self._lock:
                self._live.pop(job.id, None)
            if listed:
                with suppress(ApiError):  # of a full disk; the client is told the first reason
                    self.store.discard_job(job.id)
            raise
        return job

    def _list(self, job: Job, request: Request) -> None:
        """Keep a job of the jobs API, with the image and the mask that came with it."""
        if request.image is not None:
            job.source = self._keep(job, "source", request.image)
        if job.task.edit is not None and job.task.edit.selection.mask is not None:
            job.mask = self._keep(job, "mask", encode_mask(job.task.edit.selection.mask))
        self.store.save_job(job.owner, describe_job(job, None))
        with self._lock:
            self._live[job.id] = job
        job.when_ended(self._ended)

    def delete(self, name: str, owner: str) -> None:
        """Cancel a job, and delete it with its results.

        Raises:
            ApiError: 404, 410, or 507 if the store cannot be written.
        """
        job = self.live(name, owner)
        if job is not None:
            self.engine.cancel(job)
        self.store.delete_job(name, owner)
        with self._lock:
            self._live.pop(name, None)

    def live(self, name: str, owner: str) -> Job | None:
        """Return a job that has not ended, or whose end is not written yet, or None."""
        with self._lock:
            job = self._live.get(name)
        return job if job is not None and job.owner == owner else None

    def describe(self, name: str, owner: str) -> dict[str, Any]:
        """Return a job as clients read it.

        Raises:
            ApiError: 404 or 410.
        """
        job = self.live(name, owner)
        if job is not None:
            return self.describe_live(job)
        return self.store.job(name, owner)

    def describe_live(self, job: Job) -> dict[str, Any]:
        """Return a job that is at hand as clients read it."""
        return describe_job(job, self.engine.queue.position(job))

    def describe_all(self, owner: str, limit: int, before: float | None) -> list[dict[str, Any]]:
        """Return the newest jobs."""
        found = self.store.jobs(owner, limit, before)
        return [
            self.describe_live(job) if (job := self.live(record["id"], owner)) is not None else record
            for record in found
        ]

    def _finish(self, job: Job, index: int, drawn: Drawn) -> None:
        """Encode an image and add it to its job; keep it if it is to be fetched later."""
        if job.stopped:
            return
        task, output = job.task, job.output
        content, image = self._encoders[task.model].encode(drawn, task, index, output)
        record: dict[str, Any] = {
            "image": index,
            "seed": task.seeds[index],
            "prompt": task.prompt,
            "size": size_text((image.height, image.width)),
            "drawn_size": size_text(task.settings.size),
            "format": output.form,
            "bytes": len(content),
            "model": task.model,
            "operation": job.operation,
            "passes": drawn.passes,
            "tokens_edited": drawn.edited,
            "tokens_remasked": drawn.remasked,
        }
        if job.keeps_results:
            media_type = MEDIA_TYPES[output.form]
            file = File(new_id(), job.id, job.owner, "image", media_type, record, time.time())
            self.store.add(file, content)
            record = file.describe()
        taken = job.add_result(index, record, None if job.listed else content)
        if not taken and job.keeps_results:
            self.store.delete(record["id"], job.owner)  # it was cancelled in the meantime

    def _keep(self, job: Job, kind: str, content: bytes) -> str:
        """Keep an image that came with a job, and return its identifier."""
        media_type = next(name for start, name in _MEDIA.items() if content.startswith(start))
        file = File(new_id(), job.id, job.owner, kind, media_type, {}, time.time())
        self.store.add(file, content)
        return file.id

    def _ended(self, job: Job) -> None:
        """Write the last record of a job, before anyone hears that it has ended."""
        with self._lock:
            # Earlier ones are those that a full disk did not take; until it does, they stay at hand.
            ended = [other for other in self._live.values() if other.finished]
        for other in ended:
            try:
                self.store.update_job(describe_job(other, None))
            except ApiError:
                return
            with self._lock:
                self._live.pop(other.id, None)
