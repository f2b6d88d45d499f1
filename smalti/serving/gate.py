"""Who may ask: hosts, origins, keys, rates and bodies are checked before any endpoint sees a request."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import math
import re
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smalti.serving.errors import ApiError
from smalti.serving.limits import Limits

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_MOST_BUCKETS = 10_000
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:@/\[\]]+))(?::[0-9]{0,5})?")

HEADER_BYTES = 16_384
"""Largest size of a request's address and headers."""


@dataclass(frozen=True)
class Access:
    """Who may ask.

    Attributes:
        keys: keys of which one must be given, or none for an open server.
        hosts: names under which the server is reached, beside loopback's.
        any_address: whether every literal address is one of them; a name is what DNS rebinding needs.
        origins: origins of other sites whose pages may ask.
    """

    keys: Sequence[str] = field(default=(), repr=False)
    hosts: frozenset[str] = frozenset()
    any_address: bool = False
    origins: frozenset[str] = frozenset()


def owner_of(key: str) -> str:
    """Return the name under which the server knows a key; the key cannot be found from it."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]


class Gate:
    """Middleware that refuses requests.

    It puts "owner" and "client" into the request's state: who owns what is made, and whose share of the queue it takes.
    """

    def __init__(self, app: ASGIApp, access: Access, limits: Limits) -> None:
        self._app, self._access, self._limits = app, access, limits
        self._keys = [(key.encode(), owner_of(key)) for key in access.keys]
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request, then let it pass."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        _check_head(scope)
        headers = Headers(scope=scope)
        self._check_host(headers)
        allowed = self._check_origin(headers, scope["method"])
        if scope["method"] == "OPTIONS" and allowed and "access-control-request-method" in headers:
            await _preflight(allowed)(scope, receive, send)
            return
        owner = self._owner(headers, scope["path"])
        client = owner or (scope.get("client") or ("unknown",))[0]
        scope.setdefault("state", {})
        scope["state"]["owner"], scope["state"]["client"] = owner, client
        if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            self._check_rate(client)
        bounded = BoundedBody(receive, headers, self._limits)
        await self._app(scope, bounded, _with_origin(send, allowed) if allowed else send)

    def _check_host(self, headers: Headers) -> None:
        """Raise ApiError unless the request names this server, so that no page reaches it under a name of its own."""
        name = _host_name(headers.get("host", ""))
        access = self._access
        if name in _LOOPBACK or name in access.hosts or (access.any_address and _is_address(name)):
            return
        raise ApiError(403, "the Host header does not name this server; see --allow-host", "host_not_allowed")

    def _check_origin(self, headers: Headers, method: str) -> str | None:
        """Return the origin of another site that may ask, or None for the server's own pages and for programs."""
        origin = headers.get("origin")
        if origin is None:
            if method not in ("GET", "HEAD") and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
                raise ApiError(403, "pages of other sites may not send requests", "origin_not_allowed")
            return None
        if origin in self._access.origins:
            return origin
        if origin.partition("://")[2] == headers["host"]:  # without parsing it, which may fail
            return None
        raise ApiError(
            403, "the Origin header is that of another site; see --cors-origin", "origin_not_allowed"
        )

    def _owner(self, headers: Headers, path: str) -> str:
        """Return the owner of the key that is given, or "" on an open server.

        Raises:
            ApiError: 401 without a right key. /health and the files of the studio need none.
        """
        if not self._keys:
            return ""
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = key.strip().encode("utf-8", "surrogatepass") if scheme.lower() == "bearer" else b""
        found = ""
        for known, owner in self._keys:  # each is compared, so that the time tells nothing
            if hmac.compare_digest(known, given):
                found = owner
        if found or path == "/health" or not _needs_key(path):
            return found
        raise ApiError(
            401,
            "a key is needed: Authorization: Bearer KEY" if not given else "this key is not known",
            "invalid_api_key",
            headers={"www-authenticate": "Bearer"},
        )

    def _check_rate(self, client: str) -> None:
        """Raise ApiError if a client sends too many requests: a bucket of a minute's tokens that fills evenly."""
        if not self._limits.rate:
            return
        now, rate = time.monotonic(), self._limits.rate
        tokens, since = self._buckets.pop(client, (rate, now))
        tokens = min(rate, tokens + (now - since) * rate / 60)
        allowed = tokens >= 1
        self._buckets[client] = (tokens - 1 if allowed else tokens, now)
        while len(self._buckets) > _MOST_BUCKETS:
            self._buckets.popitem(last=False)
        if not allowed:
            wait = math.ceil((1 - tokens) * 60 / rate)
            message = f"at most {rate:g} requests a minute; try again in {wait} s"
            raise ApiError(429, message, "rate_limit_exceeded", headers={"retry-after": str(wait)})


class BoundedBody:
    """A `receive` that counts bytes and seconds of a body.

    Raises:
        ApiError: 413 for a body that is too large, 408 for one that takes too long.
    """

    def __init__(self, receive: Receive, headers: Headers, limits: Limits) -> None:
        self._receive, self._limits = receive, limits
        self._bytes, self._until = 0, 0.0
        self._done = False
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > limits.body_bytes:
            raise self._too_large()

    async def __call__(self) -> Message:
        """Return the next message."""
        if self._done:
            return await self._receive()
        now = asyncio.get_running_loop().time()
        self._until = self._until or now + self._limits.body_seconds
        try:
            message = await asyncio.wait_for(self._receive(), self._until - now)
        except asyncio.TimeoutError as error:
            raise ApiError(
                408,
                f"the body took more than {self._limits.body_seconds:g} s",
                "body_too_slow",
                headers={"connection": "close", "x-should-retry": "false"},
            ) from error
        self._bytes += len(message.get("body", b""))
        if self._bytes > self._limits.body_bytes:
            raise self._too_large()
        self._done = not message.get("more_body", False)
        return message

    def _too_large(self) -> ApiError:
        message = f"a body may have at most {self._limits.body_bytes} bytes"
        # The connection stays: closing it on unread bytes would reset it before the client has read the answer.
        return ApiError(413, message, "body_too_large")


def _check_head(scope: Scope) -> None:
    """Raise ApiError if address and headers are too large; uvicorn bounds only those that arrive in pieces."""
    size = len(scope["raw_path"]) + len(scope["query_string"])
    if size + sum(len(name) + len(value) for name, value in scope["headers"]) > HEADER_BYTES:
        raise ApiError(431, f"address and headers may have at most {HEADER_BYTES} bytes", "headers_too_large")


def _needs_key(path: str) -> bool:
    """Return whether a path belongs to the API; the studio's files do not, and ask for the key themselves."""
    return path.startswith(("/v1/", "/api/")) or path in (
        "/ready",
        "/metrics",
        "/openapi.json",
        "/v1",
        "/api",
    )


def _host_name(host: str) -> str:
    """Return the name or the address in a Host header, without the port, in lower case; "" if it has another form."""
    found = _HOST.fullmatch(host)
    return "" if found is None else (found[1] or found[2]).lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _preflight(origin: str) -> Response:
    """Return the answer to a browser that asks whether a page of another site may ask."""
    headers = {
        "access-control-allow-origin": origin,
        "access-control-allow-methods": "GET, POST, DELETE",
        "access-control-allow-headers": "authorization, content-type, last-event-id",
        "access-control-max-age": "600",
        "vary": "origin",
    }
    return Response(status_code=204, headers=headers)


def _with_origin(send: Send, origin: str) -> Send:
    """Return a `send` whose answers a page of another site may read."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["access-control-allow-origin"] = origin
            headers["access-control-expose-headers"] = "x-request-id, retry-after"
            headers["vary"] = "origin"
        await send(message)

    return sending
