"""The events of submitted requests on the event loop of the server."""

import asyncio
import weakref
from collections import deque
from collections.abc import AsyncIterator, Awaitable
from functools import partial
from typing import TypeVar

from fastapi import Request

from .engine import Engine, Event, Finished, GenerationRequest, ServiceUnavailable


Result = TypeVar("Result")


class ClientDisconnected(Exception):
    """The client has closed its connection."""


class CompletionStream:
    """Submits requests to the engine and yields their events.

    Raises:
        ServiceUnavailable: if the engine refuses them.
    """

    def __init__(self, engine: Engine, requests: list[GenerationRequest]):
        self._engine, self._unfinished = engine, len(requests)
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._first: list[tuple[int, Event]] = []
        dispatcher = _Dispatcher.of_running_loop()

        def send(index: int, event: Event) -> None:
            dispatcher.send(self._events, (index, event))

        self._states = engine.submit(requests, [partial(send, index) for index in range(len(requests))])

    async def begin(self, request: Request) -> None:
        """Wait for the first event, before which the response can still have an error status.

        Raises:
            ClientDisconnected: if the client disconnects first.
            ServiceUnavailable: if the time limit ends before the request is started.
        """
        try:
            index, event = await while_connected(request, self._events.get())
            if isinstance(event, Finished) and event.reason in ("time", "shutdown"):
                raise ServiceUnavailable("The request was not started within its time limit.", retry_after=5)
        except BaseException:
            self.cancel()
            raise
        self._first.append((index, event))

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """The index of a request and an event, until all have `Finished`. Closing the iterator cancels the rest."""
        try:
            while self._unfinished:
                index, event = self._first.pop() if self._first else await self._events.get()
                self._unfinished -= isinstance(event, Finished)
                yield index, event
        finally:
            self.cancel()

    def cancel(self) -> None:
        for state in self._states:
            self._engine.cancel(state)


class _Dispatcher:
    """Passes events from the engine's thread to an event loop, with one wake-up for all events of a round."""

    _of_loops: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self._loop, self._woken = weakref.ref(loop), False
        self._sent: deque[tuple[asyncio.Queue, tuple[int, Event]]] = deque()

    @classmethod
    def of_running_loop(cls) -> "_Dispatcher":
        loop = asyncio.get_running_loop()
        return cls._of_loops.setdefault(loop, cls(loop))

    def send(self, queue: asyncio.Queue, item: tuple[int, Event]) -> None:
        """Called in the engine's thread. Raises RuntimeError if the loop is closed."""
        self._sent.append((queue, item))
        if not self._woken:
            self._woken = True
            try:
                self._loop().call_soon_threadsafe(self._deliver)  # type: ignore[union-attr]
            except BaseException:
                self._woken = False
                raise

    def _deliver(self) -> None:
        self._woken = False  # before the first item is taken, so that a later one wakes the loop again
        while self._sent:
            queue, item = self._sent.popleft()
            queue.put_nowait(item)


async def while_connected(request: Request, awaitable: Awaitable[Result]) -> Result:
    """Await a result; raises `ClientDisconnected` if the client disconnects first."""
    work, disconnect = asyncio.ensure_future(awaitable), asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait((work, disconnect), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientDisconnected
        return work.result()
    finally:
        work.cancel()
        disconnect.cancel()


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
