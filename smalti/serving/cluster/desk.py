"""The desk of a server: there replicas hear what is wanted of the batches that they draw."""

from __future__ import annotations

import asyncio

from smalti.serving.steps import Orders


class Desk:
    """The newest orders of each batch in progress. In a cluster it is an actor of its own beside the server.

    Messages may overtake each other, so orders have numbers.
    """

    def __init__(self) -> None:
        self._orders: dict[str, tuple[int, Orders]] = {}
        self._changed = asyncio.Condition()

    async def open(self, batch: str, orders: Orders) -> None:
        """Begin a batch; its first orders have the number 0."""
        self._orders[batch] = (0, orders)

    async def tell(self, batch: str, number: int, orders: Orders) -> None:
        """Take the orders with a number, unless newer ones are there."""
        async with self._changed:
            if batch in self._orders and number > self._orders[batch][0]:
                self._orders[batch] = (number, orders)
                self._changed.notify_all()

    async def news(self, batch: str, number: int) -> tuple[int, Orders] | None:
        """Wait for orders newer than those with a number, and return them; None once the batch is over."""
        async with self._changed:
            await self._changed.wait_for(lambda: batch not in self._orders or self._orders[batch][0] > number)
            return self._orders.get(batch)

    async def close(self, batch: str) -> None:
        """End a batch: nobody wants anything of it any more."""
        async with self._changed:
            self._orders.pop(batch, None)
            self._changed.notify_all()
