"""A cluster without Ray: handles that call a replica and a desk in a thread, with values that travel by pickle."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from smalti.serving.cluster.desk import Desk
from smalti.serving.cluster.remote import RemoteWorker
from smalti.serving.cluster.replica import Replica
from smalti.serving.worker import Worker


def travelled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


class Answer:
    """What `remote` returns: it can be awaited, and asked for its result."""

    def __init__(self, coming: Any) -> None:
        self._coming = coming

    def __await__(self) -> Any:
        return asyncio.wrap_future(self._coming).__await__()

    def result(self, timeout_s: float | None = None) -> Any:
        return self._coming.result(timeout_s)


class Method:
    def __init__(self, handle: Handle, method: Any, stream: bool) -> None:
        self._handle, self._method, self._stream = handle, method, stream

    def remote(self, *args: Any) -> Any:
        # Handles are what they are wherever they go.
        args = tuple(arg if isinstance(arg, Handle) else travelled(arg) for arg in args)
        if self._stream:
            return Stream(self._handle, self._method(*args))
        return Answer(self._handle.run(self._answer(args)))

    async def _answer(self, args: tuple[Any, ...]) -> Any:
        return travelled(await self._method(*args))


class Stream:
    """The messages of a call, which may be cancelled."""

    def __init__(self, handle: Handle, messages: Any) -> None:
        self._handle, self._messages = handle, messages
        self._queue: asyncio.Queue[Any] = asyncio.Queue()
        self._task = handle.run(self._pump())

    async def _pump(self) -> None:
        async for message in self._messages:
            await self._queue.put(travelled(message))
        await self._queue.put(None)

    async def __anext__(self) -> Any:
        if self._handle.lost:
            raise ConnectionError("the replica died")
        message = await Answer(self._handle.run(self._queue.get()))
        if message is None:
            raise StopAsyncIteration
        return message

    def cancel(self) -> None:
        self._task.cancel()


class Handle:
    """A handle of an object that lives in an event loop of its own.

    Attributes:
        lost: whether its messages cannot be read any more.
    """

    def __init__(self, thing: Any, loop: asyncio.AbstractEventLoop, stream: bool = False) -> None:
        self._thing, self._loop, self._stream = thing, loop, stream
        self.lost = False

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def options(self, *, stream: bool) -> Handle:
        other = Handle(self._thing, self._loop, stream)
        other.lost, self.lost = self.lost, False  # the next call finds another replica
        return other

    def __getattr__(self, name: str) -> Method:
        return Method(self, getattr(self._thing, name), self._stream)


@contextmanager
def remote_worker(make: Callable[[], Worker]) -> Iterator[tuple[RemoteWorker, Handle]]:
    """Yield a worker in a replica, and the replica's handle."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        replica = Handle(Replica(make), loop)
        yield RemoteWorker(replica, Handle(Desk(), loop), 20), replica
    finally:
        asyncio.run_coroutine_threadsafe(_end(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        loop.close()


async def _end() -> None:
    """Cancel what is left, so that nothing is pending when the loop ends."""
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
