"""A worker of the engine whose models are in a replica of the cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from smalti.editing.edit import PreparedEdit
from smalti.serving.cluster.messages import Failed, Finished, Message
from smalti.serving.ids import new_id
from smalti.serving.steps import Orders, Seen
from smalti.serving.tasks import Piece, Task
from smalti.serving.worker import Watch, WorkerLost

# Seconds between looks at the orders while nothing comes from the replica.
_PATIENCE = 0.25


class RemoteWorker:
    """Draws as a `Worker` does, in whichever replica is free.

    An error of the drawing comes as it would from a worker here. What else goes wrong means that the replica is lost.

    Args:
        handle: handle of a deployment of `Replica`.
        desk: handle of a `Desk`.
        seconds: longest time that a selection of tokens may take.
    """

    def __init__(self, handle: Any, desk: Any, seconds: float) -> None:
        self._handle, self._desk, self._seconds = handle, desk, seconds

    def warm_up(self) -> dict[str, float]:
        """Return the paces that a replica measured when it started."""
        paces: dict[str, float] = self._handle.paces.remote().result()
        return paces

    def prepare(self, task: Task) -> PreparedEdit:
        """Select the tokens of an edit, as `Worker.prepare`.

        Raises:
            WorkerLost: no replica answered.
        """
        try:
            found: PreparedEdit | Failed = self._handle.prepare.remote(task).result(timeout_s=self._seconds)
        except Exception as error:
            raise WorkerLost(_reason(error)) from error
        if isinstance(found, Failed):
            raise found.error
        return found

    def draw(self, pieces: Sequence[Piece], watch: Watch) -> None:
        """Draw a batch, as `Worker.draw`.

        Raises:
            WorkerLost: the replica has gone away.
        """
        asyncio.run(self._draw(pieces, watch))

    async def _draw(self, pieces: Sequence[Piece], watch: Watch) -> None:
        batch, number, orders = new_id(), 0, watch.orders()
        done: set[int] = set()
        try:
            await self._desk.open.remote(batch, orders)
            response = self._handle.options(stream=True).draw.remote(batch, pieces, orders, self._desk)
        except Exception as error:
            raise WorkerLost(_reason(error)) from error
        coming = asyncio.ensure_future(_next(response))
        try:
            while len(orders.dropped) < len(pieces):
                await asyncio.wait({coming}, timeout=_PATIENCE)
                if coming.done():
                    message = coming.result()
                    if isinstance(message, WorkerLost):
                        raise message
                    if message is None:
                        _check_complete(done, orders, len(pieces))
                        return
                    _pass_on(message, pieces, watch, done)
                    coming = asyncio.ensure_future(_next(response))
                newer = watch.orders()
                if newer != orders:
                    number, orders = number + 1, newer
                    self._desk.tell.remote(batch, number, orders)
        finally:
            coming.cancel()
            response.cancel()
            self._desk.close.remote(batch)


async def _next(response: Any) -> Message | WorkerLost | None:
    """Return the next message, None at the end, or an error where there will be no more and it was not the end."""
    try:
        message: Message = await response.__anext__()
        return message
    except StopAsyncIteration:
        return None
    except Exception as error:
        return WorkerLost(_reason(error))


def _pass_on(message: Message, pieces: Sequence[Piece], watch: Watch, done: set[int]) -> None:
    """Tell a watch what a replica says."""
    if isinstance(message, Seen):
        watch.after(message)
    elif isinstance(message, Finished):
        done.add(message.image)
        watch.finished(message.image, replace(message.drawn, edit=pieces[message.image].edit))
    else:
        raise message.error


def _check_complete(done: set[int], orders: Orders, count: int) -> None:
    """Raise WorkerLost if a batch came to its end without all of its images."""
    if len(done | orders.dropped) < count:
        raise WorkerLost("a replica ended its batch before it was done")


def _reason(error: Exception) -> str:
    """Return what became of a replica, in one line for the log."""
    text = " ".join(str(error).split())[:200]
    return f"a replica was lost: {type(error).__name__}: {text}"
