"""What happens after each step of a batch: cancelled images leave it, followers hear of it, previews are made."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from smalti.serving.errors import ApiError
from smalti.serving.jobs import FAILED, Job
from smalti.serving.limits import Limits
from smalti.serving.previews import Look
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
        self._next = 0
        self.previews = 0

    def wants_candidates(self) -> bool:
        """Return whether a preview or an image on the way is due at the next step."""
        now = time.monotonic()
        return any(
            not job.stopped and ((job.watched and now >= job.preview_at) or self._next in partial_steps(job))
            for job in self._jobs
        )

    def after(self, look: Look) -> Iterator[int]:
        """Tell the followers of a step, and yield the images whose jobs have been stopped."""
        index, now = look.step.index, time.monotonic()
        self._next = index + 1
        for job in self._jobs:
            job.steps_done = index + 1
            late = job.started is not None and time.time() - job.started > self._limits.draw_seconds
            if late and not job.finished:
                message = f"drawing took more than {self._limits.draw_seconds:g} s: ask for less at a time"
                job.end(FAILED, ApiError(504, message, "too_slow", headers={"x-should-retry": "false"}))
            if not job.stopped and job.followed:
                self._tell(job, look, now)
        for image, (job, _) in enumerate(self._places):
            if job.stopped:
                yield image

    def finished(self, image: int, drawn: Drawn) -> None:
        """Hand an image on to be encoded."""
        job, index = self._places[image]
        self._finish(job, index, drawn)

    def _tell(self, job: Job, look: Look, now: float) -> None:
        step = look.step
        mine = [(image, index) for image, (other, index) in enumerate(self._places) if other is job]
        data = {
            "step": step.index + 1,
            "steps": step.steps,
            "images": [{"image": index, **look.counts(image)} for image, index in mine],
        }
        heavy: dict[str, Any] = {}
        if look.complete and job.watched and now >= job.preview_at:
            job.preview_at = now + self._limits.preview_seconds
            heavy["previews"] = [{"image": index, **look.preview(image).to_json()} for image, index in mine]
            self.previews += len(mine)
        job.add_event("step", data, heavy)
        if look.complete and step.index in partial_steps(job):
            pictures = [(index, look.picture(image)) for image, index in mine]
            number = partial_steps(job).index(step.index)
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
