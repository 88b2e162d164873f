"""The load: many browsers on few connections, as cheap as Python allows, in a process of its own.

Owns: requests as bytes, who presents which cookie when, counting answers. Must not hold: what a figure means (the
benchmarks), how a server is started (`subjects.py`).

A jar is one browser's refresh cookie. Each connection owns many jars and goes through them in turn, so that a jar comes
back only when its token is ripe: the load is closed (a connection sends its next request when it has its answer), yet
every refresh is a `confirm`. Commands come as JSON lines on standard input, results go out as JSON lines:

    {"load": "jars", "file": "…"}
    {"run": [{"kind": "refresh", "port": 1, "jars": "jars", "connections": 64}], "seconds": 5, "warm_up": 1}
"""

from __future__ import annotations

import asyncio
import json
import sys
from abc import ABC, abstractmethod
from collections import Counter, deque
from functools import partial
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import uvloop

ORIGIN: Final = "https://auth.example.com"
RIPE_AFTER: Final = 2.1
"""Seconds after which a token is older than the settle time of 1 s: its time of issue is rounded up to whole seconds."""
REQUEST_TIME: Final = 15.0
"""Seconds after which a request without an answer counts as failed."""

_COMMON: Final = (
    "Host: auth.example.com\r\n"
    "User-Agent: Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n"
    "Accept: */*\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\n"
    f"Origin: {ORIGIN}\r\nSec-Fetch-Dest: empty\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Site: same-origin\r\n"
    "X-Keyturn: 1\r\nContent-Type: application/json\r\n"
)
_COMMON_BYTES: Final = _COMMON.encode()
_REFRESH_BODY: Final = b'{"idle_seconds":4}'
_REFRESH_HEAD: Final = (
    f"POST /auth/refresh HTTP/1.1\r\n{_COMMON}Content-Length: {len(_REFRESH_BODY)}\r\n"
    "Cookie: kt_hint=1; __Host-kt_refresh="
).encode()
_REFRESH_TAIL: Final = b"\r\n\r\n" + _REFRESH_BODY
_SET_COOKIE: Final = b"set-cookie: __Host-kt_refresh="
_LENGTH: Final = b"content-length: "

Jar = list[Any]
"""[the token, the time (of `perf_counter`, as everywhere here) from which it may be presented]."""


class Tally:
    """What one group of connections saw.

    Args:
        start: the time from which answers count for the rate and the times.
        end: until when; afterwards no request is sent. A busy machine may have measured nothing by then: the first
            answer that counts is waited for.
    """

    def __init__(self, start: float, end: float) -> None:
        self.start = start
        self.end = end
        self.answered = 0
        """Every good answer of the run, also before the start and after the end."""
        self.times: list[float] = []
        self.refused: Counter[str] = Counter()
        self.waits = 0
        """How often a connection had no ripe jar: then the load is not what it should be."""

    def answer(self, sent_at: float, now: float) -> None:
        self.answered += 1
        if now >= self.start and not self.is_over(now):
            self.times.append(now - sent_at)
            self.end = max(self.end, now)

    def is_over(self, now: float) -> bool:
        return now >= self.end and bool(self.times)

    def result(self) -> dict[str, object]:
        times = sorted(self.times) or [0.0]
        return {
            "answered": self.answered,
            "rate": len(self.times) / (self.end - self.start),
            "p50": times[len(times) // 2],
            "p99": times[min(len(times) - 1, int(len(times) * 0.99))],
            "max": times[-1],
            "measured": len(self.times),
            "refused": dict(self.refused),
            "waits": self.waits,
        }


class Connection(asyncio.Protocol, ABC):
    """One keep-alive connection with at most one request under way.

    Args:
        pause: seconds between an answer and the next request.
    """

    def __init__(self, tally: Tally, pause: float) -> None:
        self.tally = tally
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pause = pause
        self._sent_at = 0.0
        self._received = b""
        self._transport: Any = None

    @abstractmethod
    def send(self) -> None:
        """Send the next request, or arrange that it is sent later."""

    @abstractmethod
    def take(self, answer: bytes, now: float) -> float:
        """Take a whole answer; return for how long to wait before the next request."""

    def is_whole(self, data: bytes) -> bool:
        """Say whether an answer has come to its end; the server writes its headers in small letters."""
        end = data.find(b"\r\n\r\n")
        at = data.find(_LENGTH, 0, end)
        return end >= 0 and (at < 0 or len(data) >= end + 4 + int(data[at + len(_LENGTH) : data.index(b"\r", at)]))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport
        self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count a connection that the server closed."""
        if not self.done.done():
            self.tally.refused["connection lost"] += 1
            self.done.set_result(None)

    def write(self, request: bytes) -> None:
        self._sent_at = perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Take an answer when it is complete, and go on."""
        if self._received:
            data = self._received + data
        if not self.is_whole(data):
            self._received = data
            return
        self._received = b""
        now = perf_counter()
        wait = max(self.take(data, now), self._pause)
        if wait:
            asyncio.get_running_loop().call_later(wait, self.go_on)
        else:
            self.go_on()

    def go_on(self) -> None:
        if self.done.done():
            return
        if self.tally.is_over(perf_counter()):
            self.done.set_result(None)
            self._transport.close()
        else:
            self.send()


class Refreshing(Connection):
    """Present one jar after the other, as our own browser package does."""

    def __init__(self, tally: Tally, group: dict[str, Any], jars: deque[Jar]) -> None:
        super().__init__(tally, group.get("pause", 0.0))
        self._jars = jars
        self._ripe_after = group.get("ripe_after", RIPE_AFTER)

    def send(self) -> None:
        """Present the jar that has rested longest, once it is ripe."""
        wait = self._jars[0][1] - perf_counter()
        if wait > 0:
            self.tally.waits += 1
            asyncio.get_running_loop().call_later(wait, self.go_on)
            return
        self.write(self.request(self._jars[0][0]))

    def take(self, answer: bytes, now: float) -> float:
        """Put the new token into the jar; an answer without one is no `confirm`."""
        jar = self._jars.popleft()
        status, token = answer[9:12], self.renewed(answer, jar[0])
        if status == b"200" and token:
            self.tally.answer(self._sent_at, now)
            jar[0] = token
        else:
            self.tally.refused[f"{status.decode()}{'' if token else ' without a token'}"] += 1
        jar[1] = now + self._ripe_after
        self._jars.append(jar)
        return 0.0

    def request(self, token: bytes) -> bytes:
        """Write the request that presents a token."""
        return b"%b%b%b" % (_REFRESH_HEAD, token, _REFRESH_TAIL)

    def renewed(self, answer: bytes, token: bytes) -> bytes:
        """Read the next token out of an answer; empty when there is none."""
        return _between(answer, _SET_COOKIE, b";")


class _Peer(Refreshing):
    """Refreshes at another system."""

    def is_whole(self, data: bytes) -> bool:
        """Say whether an answer has come to its end, by its length or its last chunk."""
        head, blank, body = data.partition(b"\r\n\r\n")
        head = head.lower()
        if b"\r\ntransfer-encoding: chunked" in head:
            return body.endswith(b"0\r\n\r\n")
        return bool(blank) and len(body) >= int(_between(head + b"\r", _LENGTH, b"\r"))


class SimpleJwt(_Peer):
    """simplejwt's way: refresh tokens travel in bodies."""

    def request(self, token: bytes) -> bytes:
        """Write the request that presents a token."""
        body = b'{"refresh":"%b"}' % token
        return b"POST /api/token/refresh HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (
            _COMMON_BYTES,
            len(body),
            body,
        )

    def renewed(self, answer: bytes, token: bytes) -> bytes:
        """Read the next token out of an answer; empty when there is none."""
        return _between(answer, b'"refresh":"', b'"')


class BetterAuth(_Peer):
    """better-auth's way: the session's cookie stays the same, and buys an access token."""

    def request(self, token: bytes) -> bytes:
        """Write the request that presents the cookie."""
        return b"GET /api/auth/token HTTP/1.1\r\n%bCookie: %b\r\n\r\n" % (_COMMON_BYTES, token)

    def renewed(self, answer: bytes, token: bytes) -> bytes:
        """Keep the cookie when there is an access token; empty when there is none."""
        return token if _between(answer, b'"token":"', b'"') else b""


class LoggingIn(Connection):
    """Log in as one user after the other, each connection from an address of its own; come back later when told to."""

    numbers = count(1)

    def __init__(self, tally: Tally, group: dict[str, Any], logins: deque[bytes]) -> None:
        super().__init__(tally, group.get("pause", 0.0))
        number = next(self.numbers)
        self._address = f"198.18.{number >> 8 & 255}.{number & 255}"
        self._logins = logins

    def send(self) -> None:
        """Send the password of the user whose turn it is."""
        body = self._logins[0]
        self._logins.rotate(-1)
        self.write(
            f"POST /auth/login HTTP/1.1\r\n{_COMMON}X-Forwarded-For: {self._address}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )

    def take(self, answer: bytes, now: float) -> float:
        """Count a login; a full queue says when to come back."""
        status = answer[9:12].decode()
        if status == "200":
            self.tally.answer(self._sent_at, now)
            return 0.0
        self.tally.refused[status] += 1
        at = answer.find(b"retry-after: ")
        return float(answer[at + 13 : answer.index(b"\r", at)]) if at >= 0 else 0.0


_REFRESHING: Final = {"refresh": Refreshing, "simplejwt": SimpleJwt, "better-auth": BetterAuth}
_KINDS: Final[dict[str, type[Refreshing] | type[LoggingIn]]] = {**_REFRESHING, "login": LoggingIn}


def _between(text: bytes, before: bytes, after: bytes) -> bytes:
    """Return what stands between two marks; empty when the first is missing."""
    at = text.find(before)
    return text[at + len(before) : text.index(after, at + len(before))] if at >= 0 else b""


def _same(connection: Connection) -> Connection:
    return connection


class Load:
    """Run what the commands say."""

    def __init__(self) -> None:
        self._files: dict[str, list[bytes]] = {}
        self._jars: dict[str, deque[Jar]] = {}

    def load(self, name: str, file: str) -> dict[str, object]:
        """Read a file with one token, or one login, in each line."""
        lines = Path(file).read_bytes().splitlines()
        self._files[name] = lines
        self._jars[name] = deque([line, 0.0] for line in lines)
        return {"loaded": len(lines)}

    async def run(self, groups: list[dict[str, Any]], seconds: float, warm_up: float) -> list[dict[str, object]]:
        """Run groups of connections at the same time, each against its server."""
        start = perf_counter() + warm_up
        runs = [(Tally(start, start + seconds), group) for group in groups]
        connections = [connection for tally, group in runs for connection in await self._connect(tally, group)]
        _, late = await asyncio.wait([each.done for each in connections], timeout=warm_up + seconds + REQUEST_TIME)
        for connection in connections:
            if connection.done in late:
                connection.tally.refused["no answer"] += 1
                connection.done.cancel()
        self._gather_jars(groups)
        return [tally.result() for tally, _ in runs]

    async def _connect(self, tally: Tally, group: dict[str, Any]) -> list[Connection]:
        name, number = group["jars"], group["connections"]
        made: list[Connection] = []
        shares: list[deque[Any]] = [deque() for _ in range(number)]
        items: Any = self._jars[name] if group["kind"] in _REFRESHING else self._files[name]
        for index, item in enumerate(items):
            shares[index % number].append(item)
        for index, share in enumerate(shares):
            # With a pause, the connections take turns instead of all sending at once.
            await asyncio.sleep(group.get("pause", 0.0) / number if index else 0.0)
            connection = _KINDS[group["kind"]](tally, group, share)
            await asyncio.get_running_loop().create_connection(partial(_same, connection), "127.0.0.1", group["port"])
            made.append(connection)
        return made

    def _gather_jars(self, groups: list[dict[str, Any]]) -> None:
        """Bring the jars back in the order in which they ripen."""
        for group in groups:
            if group["kind"] in _REFRESHING:
                self._jars[group["jars"]] = deque(sorted(self._jars[group["jars"]], key=lambda jar: float(jar[1])))


async def serve_commands() -> None:
    """Do one command after the other until standard input ends."""
    load = Load()
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        if "load" in command:
            result: object = load.load(command["load"], command["file"])
        else:
            result = await load.run(command["run"], command["seconds"], command["warm_up"])
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve_commands())
