"""A replica: the worker of one device in a process of the cluster, which reports what it draws step by step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from smalti.editing.edit import PreparedEdit
from smalti.serving.cluster.messages import Failed, Finished, Message, failed
from smalti.serving.steps import Orders, Seen
from smalti.serving.tasks import Drawn, Piece, Task
from smalti.serving.worker import Worker


class Replica:
    """A `Worker` that serves one batch at a time to another process.

    The models are loaded and used in one thread of their own, so that the replica hears new orders while it draws.

    Args:
        make: makes the worker; it is called once.
    """

    def __init__(self, make: Callable[[], Worker]) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="smalti-worker")
        self._worker = self._thread.submit(make).result()
        self._paces = self._thread.submit(self._worker.warm_up).result()

    async def paces(self) -> dict[str, float]:
        """Return what `Worker.warm_up` measured."""
        return self._paces

    async def prepare(self, task: Task) -> PreparedEdit | Failed:
        """Select the tokens of an edit, as `Worker.prepare`."""
        try:
            return await asyncio.wrap_future(self._thread.submit(self._worker.prepare, task))
        except Exception as error:
            return failed(error)

    async def draw(
        self, batch: str, pieces: Sequence[Piece], orders: Orders, desk: Any
    ) -> AsyncIterator[Message]:
        """Draw a batch, as `Worker.draw`, and yield what happens.

        Args:
            batch: name of the batch at the desk.
            pieces: images of one group.
            orders: what is wanted from the first step on.
            desk: handle of a `Desk`.
        """
        loop = asyncio.get_running_loop()
        messages: asyncio.Queue[Message | None] = asyncio.Queue()

        def report(message: Message | None) -> None:
            loop.call_soon_threadsafe(messages.put_nowait, message)

        watch = _Reporter(orders, len(pieces), report)

        def work() -> None:
            try:
                self._worker.draw(pieces, watch)
                report(None)
            except Exception as error:
                report(failed(error))

        listening = asyncio.create_task(_listen(watch, batch, desk))
        self._thread.submit(work)
        try:
            while (message := await messages.get()) is not None:
                yield message
                if isinstance(message, Failed):
                    break
        finally:
            listening.cancel()
            watch.stop()  # also where nobody reads on: the thread ends at the next step


class _Reporter:
    """Watches a batch for a server in another process."""

    def __init__(self, orders: Orders, count: int, report: Callable[[Message], None]) -> None:
        self._orders, self._count, self._report = orders, count, report

    def orders(self) -> Orders:
        return self._orders

    def after(self, seen: Seen) -> None:
        if seen.previews:
            # The next preview is due when the server says so again.
            self._orders = replace(self._orders, previews=frozenset())
        self._report(seen)

    def finished(self, image: int, drawn: Drawn) -> None:
        self._report(Finished(image, replace(drawn, edit=None)))

    def take(self, orders: Orders) -> None:
        """Take new orders; what was dropped stays dropped."""
        self._orders = replace(orders, dropped=orders.dropped | self._orders.dropped)

    def stop(self) -> None:
        """Want nothing more."""
        self._orders = Orders(dropped=frozenset(range(self._count)))


async def _listen(watch: _Reporter, batch: str, desk: Any) -> None:
    """Take new orders from the desk until the batch is over there, or the desk is gone with its server."""
    number = 0
    try:
        while (news := await desk.news.remote(batch, number)) is not None:
            number, orders = news
            watch.take(orders)
    except Exception:
        pass  # whatever became of the server, nobody waits for the batch
    watch.stop()
