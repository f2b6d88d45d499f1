"""Bad requests to the server, in process: the application gets them without a socket."""

from __future__ import annotations

import functools
import logging
import sys
from pathlib import Path
from random import Random
from typing import Any

from bad_requests import bad_request, fault
from starlette.testclient import TestClient

import smalti
from smalti.serving.app import make_app
from smalti.serving.limits import Limits
from smalti.serving.run import Options, make_service, open_store

_SHOWN = 280  # letters of a message, so that the line stays below 300


def requests(random: Random, base: Path) -> list[str]:
    """Fields, forms, headers, images, identifiers or addresses of a request that are wrong."""
    return ["http", str(base), str(random.getrandbits(62))]


@functools.cache
def _client(base: Path) -> Any:
    """Return a client of a server of the base's model; it serves until the process ends."""
    # As in the command, the sender of a damaged form is told, and the log is not.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    limits = Limits(body_bytes=200_000, waiting=500, waiting_per_client=500)
    options = Options(limits=limits)
    service = make_service([{"model": smalti.load(base / "model")}], options, "0.0.0", open_store(options))
    client = TestClient(make_app(service, options.access), base_url="http://127.0.0.1:8000")
    client.__enter__()
    return client


def request(base: str, seed: str) -> int:
    """Send a request; return 0 if it succeeds, or 2 after one line on stderr with what the server says.

    Raises:
        AssertionError: the answer is neither success nor an error object of the client's fault, or it says too much.
    """
    description, send = bad_request(int(seed), 0)
    answer = send(_client(Path(base)))
    wrong = fault(answer)
    assert wrong is None, f"{description}: {wrong}"
    if answer.status_code < 300:
        return 0
    print(f"smalti: {answer.json()['error']['message'][:_SHOWN]}", file=sys.stderr)
    return 2
