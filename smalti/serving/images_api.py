"""OpenAI's Images API: generations, edits and variations, at once or as a stream of events."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from smalti.common.images import encode_image, to_rgb
from smalti.serving.accepting import Acceptor, finished
from smalti.serving.bodies import Body
from smalti.serving.encoding import FORMATS
from smalti.serving.errors import internal, invalid
from smalti.serving.jobs import CANCELLED, COMPLETED, Event, Job
from smalti.serving.records import size_text
from smalti.serving.service import Service
from smalti.serving.sse import HEARTBEAT, HEARTBEAT_SECONDS, event, event_stream

_QUALITIES = ("low", "medium", "high", "xhigh", "max")


class ImagesApi:
    """The endpoints below /v1/images."""

    def __init__(self, service: Service, acceptor: Acceptor) -> None:
        self._service, self._acceptor = service, acceptor

    async def generations(self, request: Request) -> Response:
        """Answer POST /v1/images/generations."""
        return await self._answer(request, "generation")

    async def edits(self, request: Request) -> Response:
        """Answer POST /v1/images/edits."""
        return await self._answer(request, "edit")

    async def variations(self, request: Request) -> Response:
        """Answer POST /v1/images/variations."""
        return await self._answer(request, "variation")

    async def _answer(self, request: Request, operation: str) -> Response:
        def choose(body: Body) -> str:
            if body.fields.get("stream") and body.fields.get("response_format") == "url":
                raise invalid("response_format must be b64_json in a stream", "response_format")
            return operation

        job = await self._acceptor.accept(request, choose, files=operation != "generation")
        if job.request.get("stream"):
            return event_stream(self._stream(job))
        if not await finished(job, request):
            self._service.engine.cancel(job)  # the client went away, and nobody reads the answer
            return Response(status_code=499)
        if job.state == CANCELLED:
            raise internal()
        if job.error is not None:
            raise job.error
        address = _address(request) if job.keeps_results else None
        return JSONResponse(await run_in_threadpool(self._body, job, address))

    def _body(self, job: Job, address: str | None) -> dict[str, Any]:
        data = []
        for record, content in zip(job.results, job.contents, strict=True):
            assert record is not None and content is not None  # the job is complete
            if address is None:
                shown = {"b64_json": base64.b64encode(content).decode()}
            else:
                shown = {"url": address + record["url"]}
            data.append({**shown, "seed": record["seed"], **_sizes(record)})
        return {"created": int(job.created), "data": data, **_common(job), "usage": _usage(job)}

    async def _stream(self, job: Job) -> AsyncIterator[str]:
        """Yield the events of a job; a client that goes away cancels it."""
        kind = "image_generation" if job.operation == "generation" else "image_edit"
        number, partials = 0, 0
        try:
            with job.follow(steps=bool(job.partials)) as follower:
                while True:
                    for one in job.events_after(number):
                        number = one.number
                        if one.name == "partial":
                            for index, text in await run_in_threadpool(_encoded, one, job):
                                data = {"partial_image_index": partials, "index": index, "b64_json": text}
                                partials += 1
                                yield _stream_event(f"{kind}.partial_image", job, data)
                        elif one.name == "image":
                            yield _stream_event(f"{kind}.completed", job, _completed(one, job))
                    if job.finished and not job.events_after(number):
                        break
                    if not await follower.wait(HEARTBEAT_SECONDS):
                        yield HEARTBEAT
            if job.state != COMPLETED:
                yield event((job.error or internal()).body(), "error")
            yield event("[DONE]")
        finally:
            self._service.engine.cancel(job)


def _encoded(one: Event, job: Job) -> list[tuple[int, str]]:
    """Return the images on the way of an event, as base64."""
    found = []
    for index, picture in one.heavy.get("pictures", []):
        image: Image.Image = to_rgb(picture)
        if job.output.size is not None:
            image = image.resize(job.output.size[::-1], Image.Resampling.BILINEAR)
        content = encode_image(image, FORMATS[job.output.form], quality=job.output.quality)
        found.append((index, base64.b64encode(content).decode()))
    return found


def _completed(one: Event, job: Job) -> dict[str, Any]:
    index, record = one.data["image"], one.data["result"]
    content = job.contents[index] or b""
    return {
        "b64_json": base64.b64encode(content).decode(),
        "index": index,
        "seed": record["seed"],
        **_sizes(record),
        "usage": _usage(job),
    }


def _stream_event(name: str, job: Job, data: dict[str, Any]) -> str:
    return event({"type": name, "created_at": int(job.created), **_common(job), **data}, name)


def _common(job: Job) -> dict[str, Any]:
    """Return what OpenAI's objects say of an image, and which fields had no effect."""
    quality = job.request.get("quality")
    first = next((record for record in job.results if record is not None), None)
    size = size_text(job.output.size or job.task.settings.size) if first is None else first["size"]
    return {
        "background": "opaque",
        "output_format": job.output.form,
        "quality": quality if quality in _QUALITIES else "auto",
        "size": size,
        "ignored": job.ignored,
        "warnings": job.warnings,
    }


def _sizes(record: dict[str, Any]) -> dict[str, Any]:
    return {"size": record["size"], "drawn_size": record["drawn_size"]}


def _usage(job: Job) -> dict[str, Any]:
    """Return the numbers of tokens: those of the prompt and the source image, and those that were drawn."""
    text, grid = sum(job.task.lengths), job.work // job.task.settings.num_inference_steps
    source, drawn = grid if job.task.edit is not None else 0, grid * len(job.task.seeds)
    return {
        "input_tokens": text + source,
        "input_tokens_details": {"text_tokens": text, "image_tokens": source},
        "output_tokens": drawn,
        "total_tokens": text + source + drawn,
    }


def _address(request: Request) -> str:
    """Return the server's address as the client wrote it; the host has been checked."""
    return f"{request.url.scheme}://{request.headers['host']}"
