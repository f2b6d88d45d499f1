"""From an HTTP request to an accepted job, and the wait for its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import anyio
from starlette.requests import Request

from smalti.serving import submission
from smalti.serving.bodies import Body, read_body
from smalti.serving.jobs import Job
from smalti.serving.service import Service

# Bodies with images that are read at a time, and of these the images that are decoded at a time: they take memory.
_UPLOADS, _DECODERS = 16, 4


class Acceptor:
    """Reads requests and hands them to the service, so many at a time."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._uploads = asyncio.Semaphore(_UPLOADS)
        self._decoders = anyio.CapacityLimiter(_DECODERS)

    async def accept(
        self,
        request: Request,
        choose: Callable[[Body], str],
        *,
        files: bool = True,
        listed: bool = False,
    ) -> Job:
        """Return the job of a request.

        Args:
            choose: returns the operation of a body, after checks of the endpoint's own.
            files: whether images may come along.
            listed: whether it is a job of the jobs API.

        Raises:
            ApiError: the request is wrong, or the queue is full.
        """
        self._service.engine.check_room()
        async with self._uploads if files else contextlib.nullcontext():
            body = await read_body(request, self._service.limits, files=files)
            state = request.state
            asked = submission.Request(
                choose(body), body.fields, body.image, body.mask, client=state.client, owner=state.owner
            )
            urls = body.fields.get("response_format") == "url"
            return await anyio.to_thread.run_sync(
                lambda: self._service.submit(asked, listed=listed, urls=urls), limiter=self._decoders
            )


async def finished(job: Job, request: Request) -> bool:
    """Wait until a job has ended; return False if the client goes away before."""
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        with job.follow() as follower:
            while not job.finished:
                waiting = asyncio.ensure_future(follower.wait(3600))
                await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                if gone.done():
                    return job.finished
        return True
    finally:
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
