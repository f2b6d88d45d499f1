"""HTTP/1.1 with bounds that uvicorn lacks: on the time of headers and on connections; faults are error objects."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from smalti.serving.errors import ApiError
from smalti.serving.limits import Limits

_REASONS = {400: "Bad Request", 503: "Service Unavailable"}


class BoundedProtocol(H11Protocol):
    """A connection that ends if it sends nothing, or a byte now and then."""

    limits = Limits()
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the clock of the first request's headers, unless there are too many connections."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._refuse(ApiError(503, "too many connections", "too_many_connections"))
            return
        self._await_headers()

    def data_received(self, data: bytes) -> None:
        """Take data; headers that are complete stop the clock."""
        if self._is_idle() and self._deadline is None:
            self._await_headers()
        super().data_received(data)
        if not self._is_idle():
            self._stop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP."""
        self._refuse(ApiError(400, "the request is not HTTP, or its headers are too large", "bad_request"))

    def _refuse(self, error: ApiError) -> None:
        if self.transport.is_closing():
            return
        body = json.dumps(error.body()).encode()
        head = (
            f"HTTP/1.1 {error.status} {_REASONS[error.status]}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nretry-after: 1\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _is_idle(self) -> bool:
        """Return whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _await_headers(self) -> None:
        self._deadline = self.loop.call_later(self.limits.body_seconds, self._give_up)

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if self._is_idle():
            self.transport.close()


def bounded_protocol(limits: Limits) -> type[BoundedProtocol]:
    """Return the protocol with these limits."""
    return type("BoundedProtocol", (BoundedProtocol,), {"limits": limits})
