"""Between the engine's thread and asyncio: the stories of one request, whose client may leave at any time."""

import asyncio
import weakref
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
        mail = _Mail.of_running_loop()

        def tell(index: int, event: Event) -> None:
            mail.send(self._queue, (index, event))

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
                raise Refused("The request was not started within its time limit.", retry_after=5)
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


class _Mail:
    """What the engine's thread sends to an event loop, which is woken once for all that has come meanwhile."""

    _of_loops: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self._loop, self._sent, self._woken = weakref.ref(loop), deque(), False

    @classmethod
    def of_running_loop(cls) -> "_Mail":
        loop = asyncio.get_running_loop()
        return cls._of_loops.setdefault(loop, cls(loop))

    def send(self, queue: asyncio.Queue, item) -> None:
        """Called in the engine's thread. Raises RuntimeError where the loop is closed."""
        self._sent.append((queue, item))
        if not self._woken:
            self._woken = True
            try:
                self._loop().call_soon_threadsafe(self._deliver)
            except BaseException:
                self._woken = False
                raise

    def _deliver(self) -> None:
        self._woken = False  # before the first is taken: what comes from here on wakes the loop again
        while self._sent:
            queue, item = self._sent.popleft()
            queue.put_nowait(item)


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
