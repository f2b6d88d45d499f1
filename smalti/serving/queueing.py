"""The queue: bounded, with turns for each client, and cut into batches of images that belong together."""

from __future__ import annotations

import threading
from collections import Counter

from smalti.serving.errors import ApiError
from smalti.serving.jobs import Job


class Queue:
    """Jobs that wait for a worker.

    Args:
        most: largest number of jobs that wait.
        most_per_client: largest number of them that one client has.

    Attributes:
        closed: whether it takes no more jobs.
    """

    def __init__(self, most: int, most_per_client: int) -> None:
        self._most, self._most_per_client = most, most_per_client
        self._jobs: list[Job] = []
        self._changed = threading.Condition()
        self._ended = False
        self.closed = False

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def full(self) -> bool:
        """Whether the next job would be refused."""
        return len(self._jobs) >= self._most

    def images(self) -> int:
        """Return the number of images that wait."""
        with self._changed:
            return sum(job.waiting for job in self._jobs)

    def jobs(self) -> list[Job]:
        """Return the jobs that wait, the first one first."""
        with self._changed:
            return list(self._jobs)

    def check(self, retry_after: int) -> None:
        """Raise ApiError if the queue is full or closed; the argument is as for `put`."""
        wait = {"retry-after": str(retry_after)}
        if self.closed:
            raise ApiError(503, "the server is shutting down", "shutting_down", headers=wait)
        if self.full:
            message = f"the queue is full, with {self._most} requests; try again in {retry_after} s"
            raise ApiError(429, message, "queue_full", headers=wait)

    def put(self, job: Job, retry_after: int) -> None:
        """Add a job: its client's second one comes after every other client's first one, and so on.

        Args:
            retry_after: seconds after which a refused client may try again.

        Raises:
            ApiError: 429 if the queue, or the client's share of it, is full; 503 if the server is shutting down.
        """
        with self._changed:
            self.check(retry_after)
            if Counter(other.client for other in self._jobs)[job.client] >= self._most_per_client:
                message = (
                    f"{self._most_per_client} of your requests wait already; try again in {retry_after} s"
                )
                wait = {"retry-after": str(retry_after)}
                raise ApiError(429, message, "too_many_requests", headers=wait)
            self._jobs.insert(self._place(job.client), job)
            self._changed.notify()

    def _place(self, client: str) -> int:
        """Return where the next job of a client goes: clients take turns, and each one's jobs stay in order."""
        own = [place for place, other in enumerate(self._jobs) if other.client == client]
        after = own[-1] + 1 if own else 0
        turns = Counter(other.client for other in self._jobs[:after])
        for place in range(after, len(self._jobs)):
            other = self._jobs[place].client
            turns[other] += 1
            if turns[other] > len(own) + 1:
                return place
        return len(self._jobs)

    def take(self, most: int) -> list[tuple[Job, int]] | None:
        """Wait for the next batch: the first job's images, and as many others of its group as there is room for.

        Args:
            most: largest number of images.

        Returns:
            Jobs with the number of the image, or None once the queue has ended.
        """
        with self._changed:
            while not self._jobs:
                if self._ended:
                    return None
                self._changed.wait()
            group = self._jobs[0].group
            batch: list[tuple[Job, int]] = []
            for job in self._jobs:
                if job.group == group:
                    count = min(job.waiting, most - len(batch))
                    batch += [(job, job.taken + number) for number in range(count)]
                    job.taken += count
                if len(batch) == most:
                    break
            self._jobs = [job for job in self._jobs if job.waiting]
            return batch

    def remove(self, job: Job) -> None:
        """Take a job out, if it still waits."""
        with self._changed:
            self._jobs = [other for other in self._jobs if other is not job]

    def position(self, job: Job) -> int | None:
        """Return how many jobs come before a job, or None if it does not wait."""
        with self._changed:
            return next((place for place, other in enumerate(self._jobs) if other is job), None)

    def end(self) -> None:
        """Take no more jobs, and let workers end when none is left."""
        with self._changed:
            self.closed = self._ended = True
            self._changed.notify_all()
