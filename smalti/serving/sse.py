"""Server-sent events: texts, heartbeats, and headers that keep proxies from holding them back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import StreamingResponse

HEARTBEAT_SECONDS = 15
"""Seconds of silence after which a comment is sent, so that proxies keep the connection."""

HEARTBEAT = ": still here\n\n"
"""A comment, which clients skip."""


def event(data: dict[str, Any] | str, name: str | None = None, number: int | None = None) -> str:
    r"""Return an event as text.

    Example:
        >>> event({"step": 1}, "step", 7)
        'id: 7\nevent: step\ndata: {"step": 1}\n\n'
    """
    head = ("" if number is None else f"id: {number}\n") + ("" if name is None else f"event: {name}\n")
    return f"{head}data: {data if isinstance(data, str) else json.dumps(data)}\n\n"


def event_stream(events: AsyncIterator[str]) -> StreamingResponse:
    """Return the answer that sends events; it is cancelled when the client goes away."""
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)
