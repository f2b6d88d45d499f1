"""What every answer has: a request's identifier, headers for browsers, an error object for every fault, a log line."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smalti.errors import SmaltiError
from smalti.serving.errors import ApiError, from_smalti, internal
from smalti.serving.ids import new_id
from smalti.serving.metrics import Metrics

log = logging.getLogger("smalti.serving")

_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class Answers:
    """Outermost middleware: nothing leaves the server but through it.

    Args:
        route_of: name of the route of a path, for the log and the metrics, which must not hold what clients write.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, route_of: Callable[[Scope], str]) -> None:
        self._app, self._metrics, self._route_of = app, metrics, route_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, whatever happens."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["app"] = self  # with it the router raises what it would otherwise answer itself
        name, started = new_id(), time.perf_counter()
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = name
                for key, value in _HEADERS.items():
                    headers.setdefault(key, value)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except ClientDisconnect:
            status = status or 499
        except Exception as error:
            answer = error_response(error, name)
            if status:
                raise  # the answer has begun; the connection breaks
            await answer(scope, receive, sending)
        finally:
            self._note(scope, name, status, time.perf_counter() - started)

    def _note(self, scope: Scope, name: str, status: int, seconds: float) -> None:
        route, method = self._route_of(scope), scope["method"]
        known = method if method in ("GET", "HEAD", "POST", "DELETE", "OPTIONS") else "other"
        self._metrics.requests.labels(route, known, str(status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        log.info("%s %s %s %d %.3f s", name, known, route, status, seconds)


def error_response(error: Exception, name: str = "") -> Response:
    """Return the answer to a request that failed; faults of the server go to the log with the request's identifier."""
    found: ApiError
    if isinstance(error, ApiError):
        found = error
    elif isinstance(error, SmaltiError):
        found = from_smalti(error)
    elif isinstance(error, HTTPException):
        words = {404: "not_found", 405: "method_not_allowed"}
        texts = {
            404: "there is nothing here; /openapi.json lists what there is",
            405: "use another method here",
        }
        headers = dict(error.headers or {})
        message = texts.get(error.status_code, str(error.detail))
        found = ApiError(
            error.status_code, message, words.get(error.status_code, "bad_request"), headers=headers
        )
    else:
        log.error("request %s failed", name, exc_info=error)
        found = internal()
    return JSONResponse(found.body(), found.status, found.headers)
