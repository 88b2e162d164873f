"""The network between the browser and the server, which misbehaves as told.

Owns: reading requests, the rules that hold, drop, double or answer them, and the record of all of them. Must not hold:
what a test expects. It runs in the event loop of `site.py`; tests use it from their own thread.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from tests.services import wait_until

Moment = Literal["before", "after"]
"""Before the request has reached the server, or after the server has answered."""
PATIENCE: Final = 30.0
KEPT_ALIVE: Final = re.compile(rb"^connection: keep-alive\r\n", re.IGNORECASE | re.MULTILINE)


@dataclass(eq=False)
class Exchange:
    """One request of a browser and what became of it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    at: float
    """By the server's clock."""
    status: int | None = None
    set_cookie: bool = False
    took: float = 0.0
    """Seconds until the answer was there to be delivered; they are real ones, whatever the server's clock says."""
    lost: bool = False
    """Cut off, told to be too late, or answered by something else than the server."""
    over: bool = False
    """Answered, dropped, or given up by the browser."""

    @property
    def json(self) -> Any:
        """The body of the request, `{}` when there is none."""
        return json.loads(self.body or b"{}")

    @property
    def bearer(self) -> str | None:
        """The access token that came with it."""
        kind, _, token = self.headers.get("authorization", "").partition(" ")
        return token if kind == "Bearer" else None


@dataclass(eq=False)
class Fault:
    """What to do to the next requests for a path.

    `hold` keeps the request at `moment` until `release`; `drop` cuts the connection there; `double` sends the request
    twice and returns the second answer; `status` answers in the server's place; `delay` is seconds, `late` when that is
    more than the client waits.
    """

    path: str
    times: int = 1
    moment: Moment = "before"
    hold: bool = False
    drop: bool = False
    double: bool = False
    status: int | None = None
    retry_after: int | None = None
    delay: float = 0.0
    late: bool = False
    reached: list[Exchange] = field(default_factory=list)
    _free: threading.Event = field(default_factory=threading.Event)

    def wait(self, count: int = 1) -> None:
        """Wait until so many requests have come to where they are held or dropped."""
        wait_until(lambda: len(self.reached) >= count, PATIENCE, f"request {count} for {self.path}")

    def release(self) -> None:
        """Let go of what is held, and wait until it has been delivered or the browser has hung up."""
        self._free.set()
        wait_until(lambda: all(one.over for one in self.reached), PATIENCE, f"delivery of {self.path}")

    async def strike(self, exchange: Exchange) -> bool:
        """Do it to one request; False when the connection has to be cut."""
        self.reached.append(exchange)
        exchange.lost = self.drop or self.late or self.status is not None
        if self.delay:
            await asyncio.sleep(self.delay)
        if self.hold:
            await asyncio.to_thread(self._free.wait)
        return not self.drop


class Proxy:
    """Passes requests on to `upstream` (a port of 127.0.0.1), with faults."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.upstream = 0
        self.exchanges: list[Exchange] = []
        self.chaos: Callable[[Exchange], Fault | None] = lambda _: None
        """Asked when no rule applies; may return a fault for this one request."""
        self._clock = clock
        self._faults: list[Fault] = []
        self._made: list[Fault] = []
        self._open: set[asyncio.StreamWriter] = set()

    # -- for tests

    def fault(self, path: str, **what: Any) -> Fault:
        """Do something to the next requests for a path."""
        fault = Fault(path, **what)
        self._faults.append(fault)
        self._made.append(fault)
        return fault

    def hold(self, path: str, moment: Moment = "after", times: int = 1) -> Fault:
        """Hold the next requests for a path until they are released."""
        return self.fault(path, moment=moment, times=times, hold=True)

    def drop(self, path: str, moment: Moment = "after", times: int = 1) -> Fault:
        """Cut the connection of the next requests for a path."""
        return self.fault(path, moment=moment, times=times, drop=True)

    def calm(self) -> None:
        """Forget the faults that have not struck."""
        self._faults.clear()
        self.chaos = lambda _: None

    def to(self, path: str) -> list[Exchange]:
        """Return the requests for a path so far."""
        return [one for one in list(self.exchanges) if one.path == path]

    @property
    def refreshes(self) -> list[Exchange]:
        """The refreshes so far."""
        return self.to("/auth/refresh")

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return all(one.over for one in list(self.exchanges))

    # -- in the loop

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection of a browser."""
        self._open.add(writer)
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._open.discard(writer)
            writer.transport.abort()

    def hang_up(self) -> None:
        """Let go of everything and cut all connections."""
        for fault in self._made:
            fault._free.set()
        for writer in tuple(self._open):
            writer.transport.abort()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head[:-4].decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        exchange = Exchange(method, target.partition("?")[0], headers, body, self._clock())
        self.exchanges.append(exchange)
        began = time.monotonic()
        try:
            answer = await self._pass(exchange, head + body)
            exchange.took = time.monotonic() - began
            if answer is not None:
                writer.write(answer)
                await writer.drain()
            return answer is not None
        finally:
            exchange.over = True

    async def _pass(self, exchange: Exchange, request: bytes) -> bytes | None:
        fault = self._next_fault(exchange)
        if fault is None:
            return await self._ask(exchange, request)
        if fault.moment == "before" and not await fault.strike(exchange):
            return None
        if fault.status is not None:
            exchange.status = fault.status
            return _refusal(fault.status, fault.retry_after)
        answer = await self._ask(exchange, request)
        if fault.double:
            answer = await self._ask(exchange, request)
        if fault.moment == "after" and not await fault.strike(exchange):
            return None
        return answer

    def _next_fault(self, exchange: Exchange) -> Fault | None:
        for fault in self._faults:
            if fault.path == exchange.path and fault.times > 0:
                fault.times -= 1
                return fault
        return self.chaos(exchange)

    async def _ask(self, exchange: Exchange, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.upstream)
        try:
            # One connection per request: the end of the answer is the end of the stream.
            writer.write(KEPT_ALIVE.sub(b"Connection: close\r\n", request, count=1))
            await writer.drain()
            head, separator, body = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.transport.abort()
        lines = [line for line in head.split(b"\r\n") if line.lower() != b"connection: close"]
        exchange.status = int(lines[0].split(b" ")[1])
        exchange.set_cookie = any(line.lower().startswith(b"set-cookie: __host-kt_refresh=") for line in lines)
        return b"\r\n".join(lines) + separator + body


def _refusal(status: int, retry_after: int | None) -> bytes:
    """Write an answer of some gateway, not of Keyturn: a page, or from 500 on what a Kubernetes ingress says."""
    page, kind = b"<html>something is wrong</html>", b"text/html"
    if status >= 500:
        page, kind = b'{"kind":"Status","reason":"ServiceUnavailable","code":%d}' % status, b"application/json"
    later = b"" if retry_after is None else b"Retry-After: %d\r\n" % retry_after
    head = b"HTTP/1.1 %d Fault\r\nContent-Type: %s\r\n%sContent-Length: %d\r\n\r\n"
    return head % (status, kind, later, len(page)) + page
