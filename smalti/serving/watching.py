"""What happens after each step of a batch: cancelled images leave it, followers hear of it, previews are made."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from smalti.serving.errors import ApiError
from smalti.serving.jobs import FAILED, Job
from smalti.serving.limits import Limits
from smalti.serving.steps import Orders, Seen
from smalti.serving.tasks import Drawn


class BatchWatch:
    """Follows the images of one batch for their jobs.

    Args:
        places: job and number of each image of the batch.
        finish: takes the images that are drawn.
    """

    def __init__(
        self,
        places: Sequence[tuple[Job, int]],
        limits: Limits,
        finish: Callable[[Job, int, Drawn], None],
    ) -> None:
        self._places, self._limits, self._finish = places, limits, finish
        self._jobs = list({id(job): job for job, _ in places}.values())
        self.previews = 0

    def orders(self) -> Orders:
        """Return what the jobs and their followers want from the next step on."""
        now = time.monotonic()
        for job in self._jobs:
            self._end_late(job)
        dropped, previews = set(), set()
        pictures: dict[int, tuple[int, ...]] = {}
        for image, (job, _) in enumerate(self._places):
            if job.stopped:
                dropped.add(image)
                continue
            if job.watched and now >= job.preview_at:
                previews.add(image)
            if job.partials:  # the client that wants them may not listen yet
                pictures[image] = tuple(partial_steps(job))
        return Orders(frozenset(dropped), frozenset(previews), pictures)

    def after(self, seen: Seen) -> None:
        """Tell the followers of a step."""
        for job in self._jobs:
            job.steps_done = seen.step + 1
            if not job.stopped and (job.followed or job.partials):
                self._tell(job, seen)

    def finished(self, image: int, drawn: Drawn) -> None:
        """Hand an image on to be encoded."""
        job, index = self._places[image]
        self._finish(job, index, drawn)

    def _end_late(self, job: Job) -> None:
        """Let a job fail that has been drawn for too long."""
        if job.finished or job.started is None:
            return
        if time.time() - job.started > self._limits.draw_seconds:
            message = f"drawing took more than {self._limits.draw_seconds:g} s: ask for less at a time"
            job.end(FAILED, ApiError(504, message, "too_slow", headers={"x-should-retry": "false"}))

    def _tell(self, job: Job, seen: Seen) -> None:
        """Add the events of a step to a job that someone follows."""
        mine = [(image, index) for image, (other, index) in enumerate(self._places) if other is job]
        counted = [{"image": index, **seen.counts[image]} for image, index in mine]
        heavy: dict[str, Any] = {}
        previews = [
            {"image": index, **seen.previews[image].to_json()}
            for image, index in mine
            if image in seen.previews
        ]
        if previews:
            job.preview_at = time.monotonic() + self._limits.preview_seconds
            heavy["previews"] = previews
            self.previews += len(previews)
        job.add_event("step", {"step": seen.step + 1, "steps": seen.steps, "images": counted}, heavy)
        pictures = [(index, seen.pictures[image]) for image, index in mine if image in seen.pictures]
        if pictures:
            number = partial_steps(job).index(seen.step)
            job.add_event("partial", {"number": number}, {"pictures": pictures})


def partial_steps(job: Job) -> list[int]:
    """Return the steps, from 0, after which a job wants a decoded image.

    Example:
        >>> from types import SimpleNamespace as Of
        >>> partial_steps(Of(partials=3, task=Of(settings=Of(num_inference_steps=16))))
        [3, 7, 11]
    """
    steps, count = job.task.settings.num_inference_steps, job.partials
    return sorted({max(steps * number // (count + 1) - 1, 0) for number in range(1, count + 1)})
