"""Security headers, a rate limit for each client, and timeouts of connections."""

import asyncio
import ipaddress
import time

import h11
from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..utils.errors import UserError
from .errors import error_response


HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}


class SecurityHeaders:
    """Adds `HEADERS` to each response that does not set them."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers)


def parse_rate_limit(text: str) -> RateLimitItem | None:
    """A rate limit from its text; None for "none". Raises `UserError` if the package `limits` cannot parse it."""
    if text == "none":
        return None
    try:
        return parse(text)
    except ValueError:
        raise UserError(
            f"--rate-limit must be a limit such as 60/minute or 2/second, or none, not {text!r}."
        ) from None


class RateLimit:
    """Answers 429 to a client whose POST requests exceed the limit, before their body is read."""

    def __init__(self, app: ASGIApp, limit: RateLimitItem):
        self.app, self.limit = app, limit
        self.limiter = MovingWindowRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self.app(scope, receive, send)
        client = client_key(scope)
        if self.limiter.hit(self.limit, client):
            return await self.app(scope, receive, send)
        free_at = self.limiter.get_window_stats(self.limit, client).reset_time
        retry_after = max(1, round(free_at - time.time() + 0.5))
        response = error_response(429, f"Too many requests: the limit is {self.limit}.", retry_after=retry_after)
        await response(scope, receive, send)


def client_key(scope: Scope) -> str:
    """The client's address; for IPv6 its /64 network, which usually belongs to one client."""
    host = scope["client"][0] if scope.get("client") else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.version == 6:
        return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))
    return host


class LimitedProtocol(H11Protocol):
    """Uvicorn's HTTP/1.1 with a timeout for clients and a limit of open connections, idle ones included.

    A connection is closed if a request is not received completely within `client_timeout` seconds, or if data
    that was written cannot be sent for that time. A connection beyond `max_connections` gets 503 and is closed;
    uvicorn's `limit_concurrency` would wait for its request.
    """

    client_timeout = 20.0
    max_connections = 512
    _reading: asyncio.TimerHandle | None = None
    _writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            transport.write(
                b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
            return transport.close()
        transport.set_write_buffer_limits(high=0)  # so that `pause_writing` is called as soon as data waits
        self._reading = self._start_timer()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        incomplete = self.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        if incomplete and self._reading is None:
            self._reading = self._start_timer()
        elif not incomplete:
            self._reading = _cancel(self._reading)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writing = self._writing or self._start_timer()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._writing = _cancel(self._writing)

    def connection_lost(self, exc: Exception | None) -> None:
        self._reading, self._writing = _cancel(self._reading), _cancel(self._writing)
        super().connection_lost(exc)

    def _start_timer(self) -> asyncio.TimerHandle:
        return self.loop.call_later(self.client_timeout, self.transport.abort)


def _cancel(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """Cancel a timer and return None, to be assigned to its variable."""
    if timer is not None:
        timer.cancel()
    return None
