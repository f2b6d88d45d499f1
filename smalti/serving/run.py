"""The process: loading models, the HTTP server, and its end."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TypeVar

import uvicorn
from starlette.types import ASGIApp

from smalti.common.files import read_text
from smalti.errors import SmaltiError
from smalti.pipeline import Pipeline
from smalti.serving.app import make_app
from smalti.serving.gate import HEADER_BYTES, Access
from smalti.serving.limits import Limits
from smalti.serving.models import Models
from smalti.serving.protocol import bounded_protocol
from smalti.serving.service import Service
from smalti.serving.store import Store
from smalti.serving.submission import Submission
from smalti.serving.worker import Drawing, Worker

T = TypeVar("T")

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_SHORTEST_KEY = 16
_KEEP_ALIVE_SECONDS = 75
_NO_OTHERS: AbstractContextManager[None] = nullcontext()


@dataclass(frozen=True)
class Options:
    """How a server is run.

    Attributes:
        host, port: where it listens; port 0 is any free one.
        keys: keys of which a client must give one.
        no_auth: whether an address beyond loopback may be open to everyone.
        keep: folder of jobs and results, or None for the memory.
        aliases: other names of the first model.
        hosts: other names under which the server is reached.
        origins: origins of other sites whose pages may ask.
        strict_size, ignore_unknown, metadata: as in `Submission`.
        limits: bounds.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    keys: Sequence[str] = field(default=(), repr=False)
    no_auth: bool = False
    keep: Path | None = None
    aliases: Sequence[str] = ()
    hosts: Sequence[str] = ()
    origins: Sequence[str] = ()
    strict_size: bool = False
    ignore_unknown: bool = False
    metadata: bool = True
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.host not in _LOOPBACK and not self.keys and not self.no_auth:
            raise SmaltiError(
                f"host must be loopback without keys, not {self.host!r}: give --api-key-file, or --no-auth to let "
                "everyone in who reaches the address",
                argument="host",
            )
        for origin in self.origins:
            if not origin.startswith(("http://", "https://")) or origin.count("/") != 2:
                raise SmaltiError(
                    f"cors_origin must be like https://example.org, not {origin!r}", argument="cors_origin"
                )

    @property
    def access(self) -> Access:
        """Who may ask."""
        names = frozenset(name.lower() for name in (*self.hosts, self.host))
        return Access(self.keys, names, self.host not in _LOOPBACK, frozenset(self.origins))


def read_keys(path: Path) -> list[str]:
    """Return the keys of a file, one a line; blank lines and those that start with # are none.

    Raises:
        SmaltiError: the file cannot be read, holds no key, or one that is too short.
    """
    lines = [line.strip() for line in read_text(path).split("\n")]
    return check_keys([line for line in lines if line and not line.startswith("#")], str(path))


def check_keys(keys: list[str], where: str) -> list[str]:
    """Return keys, or raise SmaltiError if there are none, or one can be guessed or not be sent."""
    if not keys or min(map(len, keys)) < _SHORTEST_KEY or not all(key.isascii() for key in keys):
        raise SmaltiError(
            f"api_key_file must hold ASCII keys of at least {_SHORTEST_KEY} letters, one a line: {where}",
            argument="api_key_file",
        )
    return keys


def open_store(options: Options) -> Store:
    """Return the store of a server.

    Raises:
        SmaltiError: the folder of `keep` cannot be used.
    """
    return Store(options.keep, options.limits.results, options.limits.results_bytes)


def make_service(
    devices: Sequence[dict[str, Pipeline]],
    options: Options,
    version: str,
    store: Store,
    workers: Sequence[Drawing] | None = None,
) -> Service:
    """Return a service.

    Args:
        devices: for each device the models by name, the default one first.
        version: Smalti's.
        store: where jobs and results are kept.
        workers: workers in place of one a device.

    Raises:
        SmaltiError: an alias is the name of a model.
    """
    models = Models(devices[0], options.aliases)
    limits = options.limits
    submission = Submission(
        models,
        limits,
        strict_size=options.strict_size,
        ignore_unknown=options.ignore_unknown,
        metadata=options.metadata,
    )
    if workers is None:
        workers = [Worker(pipelines) for pipelines in devices]
    return Service(models, workers, submission, store, limits, version)


class Server(uvicorn.Server):
    """A server that stops to take requests as soon as it is told to end, and finishes those that it has.

    Args:
        started: called with the port once requests are answered.
    """

    def __init__(
        self, app: ASGIApp, service: Service, options: Options, started: Callable[[int], None]
    ) -> None:
        limits = options.limits
        super().__init__(
            uvicorn.Config(
                app,
                host=options.host,
                port=options.port,
                http=bounded_protocol(limits),
                ws="none",
                lifespan="on",
                access_log=False,
                log_config=None,
                server_header=False,
                h11_max_incomplete_event_size=HEADER_BYTES,
                # Longer than clients keep an idle connection, so that none is closed under a request.
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                # Answers to what fails at the end of the drain still go out.
                timeout_graceful_shutdown=int(limits.drain_seconds) + 3,
            )
        )
        self._service, self._started = service, started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        self._started(self.servers[0].sockets[0].getsockname()[1])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take no more work, then end; a second Ctrl-C ends at once."""
        self._service.engine.begin_drain(self._service.limits.drain_seconds)
        super().handle_exit(sig, frame)


def serve(
    load: Callable[[], Sequence[dict[str, Pipeline]]],
    options: Options,
    version: str,
    started: Callable[[int], None],
    workers: AbstractContextManager[Sequence[Drawing] | None] = _NO_OTHERS,
) -> None:
    """Load models and answer requests until the process is told to end.

    Args:
        load: loads the models of each device.
        started: called with the port once requests are answered.
        workers: runs workers in place of one a device; outlines of the models are then enough.

    Raises:
        SmaltiError: an option is wrong, or the address is taken.
    """
    listener = _listen(options)
    try:
        store = open_store(options)
        devices = _apart(load)
        with workers as others:
            service = _apart(partial(make_service, devices, options, version, store, others))
            server = Server(make_app(service, options.access), service, options, started)
            server.run(sockets=[listener])
    finally:
        listener.close()


def _apart(make: Callable[[], T]) -> T:
    """Return what a function returns that is called in a thread of its own.

    A thread that has computed keeps OpenMP's helper threads. With more of them than cores, helpers sleep at every
    barrier, and workers draw a fifth slower. This thread ends, and its helpers with it.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(make).result()


def _listen(options: Options) -> socket.socket:
    """Return a socket with the address, before anything slow happens; it listens once the models are loaded.

    Raises:
        SmaltiError: the address is taken or does not exist.
    """
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((options.host, options.port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise SmaltiError(
            f"port must be free at {options.host}, not {options.port}: {reason}", argument="port"
        ) from error
    return listener


@contextmanager
def shown_log() -> Iterator[None]:
    """Write the server's log to the standard error while the block lasts."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log = logging.getLogger("smalti.serving")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False  # the command shows warnings of all loggers, and would show these again
    # It warns of every damaged form, whose sender is told.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.propagate = True
        log.removeHandler(handler)
