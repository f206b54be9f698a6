"""Between the engine's thread and asyncio: the stories of one request, whose client may leave at any time."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable
from functools import partial
from typing import TypeVar

from fastapi import Request

from .engine import Engine, Event, Finished, Order, Refused


Result = TypeVar("Result")


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


class Stories:
    """Orders given to the engine, and their events as they come.

    Raises:
        Refused: where the engine does not take them.
    """

    def __init__(self, engine: Engine, orders: list[Order]):
        self._engine, self._unfinished = engine, len(orders)
        self._queue: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._seen: deque[tuple[int, Event]] = deque()  # taken from the queue, but not told yet
        loop = asyncio.get_running_loop()

        def tell(index: int, event: Event) -> None:
            loop.call_soon_threadsafe(self._queue.put_nowait, (index, event))

        self._tickets = engine.submit(orders, [partial(tell, index) for index in range(len(orders))])

    async def begin(self, request: Request) -> None:
        """Wait for the first event, as long as the answer can still say that there will be none.

        Raises:
            ClientGone: where the client left.
            Refused: where the time was over before the story's turn came.
        """
        try:
            index, event = await while_connected(request, self._queue.get())
            if isinstance(event, Finished) and event.reason in ("time", "shutdown"):
                raise Refused("The story's turn did not come in time.", retry_after=5)
        except BaseException:
            self.cancel()
            raise
        self._seen.append((index, event))

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """Each order's index with an event, until all have `Finished`. Who stops listening ends the stories."""
        try:
            while self._unfinished:
                index, event = self._seen.popleft() if self._seen else await self._queue.get()
                self._unfinished -= isinstance(event, Finished)
                yield index, event
        finally:
            self.cancel()

    def cancel(self) -> None:
        for ticket in self._tickets:
            self._engine.cancel(ticket)


async def while_connected(request: Request, wanted: Awaitable[Result]) -> Result:
    """What is awaited; it is given up where the client leaves before. Raises `ClientGone` then."""
    work, left = asyncio.ensure_future(wanted), asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait((work, left), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientGone
        return work.result()
    finally:
        work.cancel()
        left.cancel()


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
