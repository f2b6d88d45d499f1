"""Jobs: requests that outlive their connection, with live events, and the gallery of their results."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from io import BytesIO

from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from smalti.common.checks import quoted
from smalti.serving.accepting import Acceptor, finished
from smalti.serving.bodies import Body
from smalti.serving.encoding import thumbnail
from smalti.serving.errors import invalid, not_found
from smalti.serving.fields import OPERATIONS
from smalti.serving.ids import is_id
from smalti.serving.jobs import Event, Job
from smalti.serving.service import Service
from smalti.serving.sse import HEARTBEAT, HEARTBEAT_SECONDS, event, event_stream

_MOST_LISTED = 200


class JobsApi:
    """The endpoints below /api/jobs, /api/results and /api/selections."""

    def __init__(self, service: Service, acceptor: Acceptor) -> None:
        self._service, self._acceptor = service, acceptor

    async def create(self, request: Request) -> Response:
        """Answer POST /api/jobs: 202 with the job, whose events tell the rest."""
        job = await self._acceptor.accept(request, _operation, listed=True)
        described = self._service.describe_live(job)
        return JSONResponse(described, 202, {"location": f"/api/jobs/{job.id}"})

    async def index(self, request: Request) -> Response:
        """Answer GET /api/jobs: the newest first."""
        limit, before = _page(request)
        jobs = await run_in_threadpool(self._service.describe_all, request.state.owner, limit, before)
        return JSONResponse({"object": "list", "data": jobs})

    async def show(self, request: Request) -> Response:
        """Answer GET /api/jobs/{id}."""
        name = _id(request, "job")
        return JSONResponse(await run_in_threadpool(self._service.describe, name, request.state.owner))

    async def cancel(self, request: Request) -> Response:
        """Answer POST /api/jobs/{id}/cancel; a job that has ended stays as it is."""
        name, owner = _id(request, "job"), request.state.owner
        job = self._service.live(name, owner)
        if job is not None:
            await run_in_threadpool(self._service.engine.cancel, job)
        return JSONResponse(await run_in_threadpool(self._service.describe, name, owner))

    async def delete(self, request: Request) -> Response:
        """Answer DELETE /api/jobs/{id}: cancel it, and delete it with its results."""
        await run_in_threadpool(self._service.delete, _id(request, "job"), request.state.owner)
        return Response(status_code=204)

    async def events(self, request: Request) -> Response:
        """Answer GET /api/jobs/{id}/events: the job as it is, then what happens to it."""
        name, owner = _id(request, "job"), request.state.owner
        job = self._service.live(name, owner)
        last = request.headers.get("last-event-id", "")
        seen = int(last) if last.isdecimal() and last.isascii() and len(last) < 10 else None
        if job is not None:
            watching = request.query_params.get("previews", "1") not in ("0", "false")
            return event_stream(self._events(job, seen, watching))
        described = await run_in_threadpool(self._service.store.job, name, owner)
        if seen is not None:
            return Response(status_code=204)  # the client has seen the end, and must not ask again
        return event_stream(_one(event(described, "job")))

    async def _events(self, job: Job, seen: int | None, watching: bool) -> AsyncIterator[str]:
        """Yield a job, or what a client that comes back has missed, and then every event to the end."""
        with job.follow(steps=True, watching=watching) as follower:
            kept = job.events_after(seen or 0)
            complete = seen is not None and (not kept or kept[0].number == seen + 1)
            number = seen or 0
            if not complete:
                number = kept[-1].number if kept else 0
                yield event(self._service.describe_live(job), "job", number)
                # The newest preview comes along, so that a page need not wait for the next one.
                for one in kept:
                    if one.heavy.get("previews"):
                        yield _event(one)
            while True:
                for one in job.events_after(number):
                    number = one.number
                    yield _event(one)
                if job.finished and not job.events_after(number):
                    yield event(self._service.describe_live(job), "job", number)
                    return
                if not await follower.wait(HEARTBEAT_SECONDS):
                    yield HEARTBEAT

    async def results(self, request: Request) -> Response:
        """Answer GET /api/results: the gallery, the newest first."""
        limit, before = _page(request)
        files = await run_in_threadpool(self._service.store.images, request.state.owner, limit, before)
        return JSONResponse({"object": "list", "data": [file.describe() for file in files]})

    async def result(self, request: Request) -> Response:
        """Answer GET /api/results/{id}."""
        name = _id(request, "result")
        file = await run_in_threadpool(self._service.store.file, name, request.state.owner)
        return JSONResponse(file.describe())

    async def content(self, request: Request) -> Response:
        """Answer GET /api/results/{id}/content: the file."""
        name = _id(request, "result")
        file, content = await run_in_threadpool(self._service.store.content, name, request.state.owner)
        headers = {"cache-control": "private, max-age=31536000, immutable"}
        return Response(content, media_type=file.media_type, headers=headers)

    async def thumbnail(self, request: Request) -> Response:
        """Answer GET /api/results/{id}/thumbnail: a WebP of at most 256 pixels a side."""
        name, owner = _id(request, "result"), request.state.owner
        content = await run_in_threadpool(self._small, name, owner)
        headers = {"cache-control": "private, max-age=31536000, immutable"}
        return Response(content, media_type="image/webp", headers=headers)

    def _small(self, name: str, owner: str) -> bytes:
        _, content = self._service.store.content(name, owner)
        with Image.open(BytesIO(content)) as image:
            return thumbnail(image)

    async def delete_result(self, request: Request) -> Response:
        """Answer DELETE /api/results/{id}."""
        await run_in_threadpool(self._service.store.delete, _id(request, "result"), request.state.owner)
        return Response(status_code=204)

    async def select(self, request: Request) -> Response:
        """Answer POST /api/selections: which tokens an edit would change, without drawing."""
        job = await self._acceptor.accept(request, _selection)
        if not await finished(job, request):
            self._service.engine.cancel(job)
            return Response(status_code=499)
        if job.error is not None:
            raise job.error
        assert job.prepared is not None
        pipe = self._service.models.find(job.task.model)[1]
        block = pipe.denoiser.config.cell
        return JSONResponse(self._service.selections.add(job.id, job.owner, job.prepared, block))

    async def selection(self, request: Request) -> Response:
        """Answer GET /api/selections/{id}?threshold=…&share=…: the same losses with another threshold or share."""
        found = self._service.selections.again(
            _id(request, "selection"),
            request.state.owner,
            threshold=_number(request, "threshold"),
            share=_number(request, "share"),
        )
        return JSONResponse(found)


def _operation(body: Body) -> str:
    """Return what a job is to do, which its body says in `operation`.

    Raises:
        ApiError: it is none of the operations, or a field that jobs do not have.
    """
    _refuse_streams(body)
    operations = [name for name in OPERATIONS if name != "selection"]
    operation = body.fields.pop("operation", None)
    operation = operations[0] if operation is None else operation
    if operation not in operations:
        allowed = " or ".join(operations)
        raise invalid(f"operation must be {allowed}, not {quoted(operation, 60)}", "operation")
    if operation == "generation" and (body.image is not None or body.mask is not None):
        raise invalid("image is not a field of a generation", "image", "unknown_parameter")
    return str(operation)


def _selection(body: Body) -> str:
    _refuse_streams(body)
    return "selection"


def _refuse_streams(body: Body) -> None:
    """Raise ApiError for fields that say how an answer is sent."""
    for name in ("stream", "partial_images", "response_format"):
        if body.fields.pop(name, None) is not None:
            raise invalid(f"{name} is not a field of this request", name, "unknown_parameter")


def _id(request: Request, what: str) -> str:
    """Return the identifier in a path; what does not look like one exists nowhere."""
    name: str = request.path_params["id"]
    if not is_id(name):
        raise not_found(what, name[:40])
    return name


def _page(request: Request) -> tuple[int, float | None]:
    """Return how many entries are wanted, and the time before which they were made."""
    limit, before = _number(request, "limit"), _number(request, "before")
    if limit is not None and not 1 <= limit <= _MOST_LISTED:
        raise invalid(f"limit must be from 1 to {_MOST_LISTED}, not {limit:g}", "limit")
    return int(limit or 50), before


def _number(request: Request, name: str) -> float | None:
    """Return a number of the address, or None without one."""
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        value = float(text[:40])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise invalid(f"{name} must be a number, not {quoted(text, 40)}", name)
    return value


def _event(one: Event) -> str:
    heavy = {name: value for name, value in one.heavy.items() if name != "pictures"}
    return event({**one.data, **heavy}, one.name, one.number)


async def _one(text: str) -> AsyncIterator[str]:
    yield text
