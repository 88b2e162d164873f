"""A model of a browser: tabs that share one cookie jar and refresh as a correct client does.

Owns: HTTP over a socket, the jar, give-up, retry, navigation, crash. Must not hold: faults, claims about many browsers.

What makes it correct: a cookie is applied only when its answer has arrived within the limit; a refresh is given up when
the limit after reading its cookie is over; 503 and broken connections are tried again, later and later. What makes it
real: tabs do not talk to each other, a navigation now and then throws an answer away, and a crash loses the last
cookie writes.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Sequence
from time import monotonic
from typing import NamedTuple

from keyturn.tokens import base64url
from tests.chaos.node import Pace

COOKIE = "__Host-kt_refresh"
PASSWORD = "a long enough passphrase"
_LOST = 0.04
"""Share of the refreshes whose answer a navigation throws away."""
_CRASH_EVERY = 40.0
"""Settle times between two crashes of a browser, on average."""
_FIRST_PAUSE, _LAST_PAUSE = 0.05, 0.8


class Answer(NamedTuple):
    """One HTTP answer."""

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """Return the first value of a header."""
        return next((value for key, value in self.headers if key == name), None)

    def cookie(self) -> str | None:
        """Return the refresh cookie that is set; empty when it is cleared, None when it is left alone."""
        for key, value in self.headers:
            if key == "set-cookie" and value.startswith(COOKIE + "="):
                return value.partition("=")[2].partition(";")[0]
        return None

    def code(self) -> str:
        """Return the error code, or nothing."""
        try:
            return str(json.loads(self.body).get("code", ""))
        except ValueError:
            return ""

    def reason(self) -> str:
        """Return why the session has ended, or nothing."""
        try:
            return str(json.loads(self.body).get("reason", ""))
        except ValueError:
            return ""


class Link:
    """A connection to one server, kept open between requests."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def send(self, method: str, path: str, headers: str, body: bytes) -> None:
        """Send a request."""
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)
        origin = f"localhost:{self.port}"
        head = f"{method} {path} HTTP/1.1\r\nHost: {origin}\r\nOrigin: http://{origin}\r\nX-Keyturn: 1\r\n"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self._writer.write(f"{head}{headers}\r\n".encode() + body)
        await self._writer.drain()

    async def receive(self) -> Answer:
        """Read the answer. Raises: OSError, EOFError: there is none."""
        assert self._reader is not None
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in head[1:] if line)]
        length = next((int(value) for name, value in pairs if name == "content-length"), 0)
        answer = Answer(int(head[0].split()[1]), pairs, await self._reader.readexactly(length))
        if answer.header("connection") == "close":
            self.drop()
        return answer

    def drop(self) -> None:
        """Close the connection, whatever is under way on it."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


def generation_of(token: str) -> int:
    """Read the generation out of a refresh token."""
    return int.from_bytes(base64url.decode(token.removeprefix("kt_rt_"))[18:22], "big")


def session_of(token: str) -> str:
    """Read the session id, in hex, out of a refresh token."""
    return base64url.decode(token.removeprefix("kt_rt_"))[2:18].hex()


async def log_in(port: int) -> Answer:
    """Sign in once more who belongs to the first browser, from a device of their own."""
    return await _open_session("/auth/login", port, 0, "")


async def _open_session(path: str, port: int, number: int, headers: str) -> Answer:
    link = Link(port)
    try:
        account = {"email": f"person{number}@example.com", "password": PASSWORD, "remember": True}
        await link.send("POST", path, headers, json.dumps(account).encode())
        return await link.receive()
    finally:
        link.drop()


class Browser:
    """One person's browser, signed in once.

    Args:
        number: makes its address and its e-mail address.
        ports: of the servers; each request goes to one of them.
        pace: the protocol's times.
        counts: of all browsers.

    Attributes:
        acknowledged: the highest generation that a server has told us to be confirmed.
        answered_at: when the request was sent that was last answered with 200.
        steady: whether it neither navigates in the middle of a refresh nor crashes.
        wrongs: everything that must never happen.
        behind: when it was last told that the database lost commits.
    """

    def __init__(self, number: int, ports: Sequence[int], pace: Pace, counts: Counter[str]) -> None:
        self._number = number
        self.ports = ports
        self.pace = pace
        self.counts = counts
        self._random = random.Random(number)
        self._jar: list[tuple[float, str]] = []
        self.steady = False
        self.acknowledged = 0
        self.answered_at = 0.0
        self.behind_at = 0.0
        self.wrongs: list[str] = []

    @property
    def session(self) -> str:
        """The id of its session, in hex."""
        return session_of(self._jar[-1][1])

    @property
    def cookie(self) -> str:
        """What the jar holds now."""
        return self._jar[-1][1]

    async def sign_up(self) -> None:
        """Sign up, which signs in."""
        port = self.ports[self._number % len(self.ports)]
        answer = await _open_session("/auth/signup", port, self._number, self._headers())
        assert answer.status == 201, answer
        self._apply(answer)

    async def ask(self, port: int, *, keep: bool = False) -> tuple[int, str]:
        """Refresh once at a server, whatever comes of it; return the status and the error code.

        Args: keep: the cookie that comes back.
        """
        link = Link(port)
        try:
            await link.send("POST", "/auth/refresh", f"{self._headers()}Cookie: {COOKIE}={self.cookie}\r\n", b"")
            answer = await link.receive()
        finally:
            link.drop()
        if keep:
            self._apply(answer)
        return answer.status, answer.code()

    async def run(self, tabs: int) -> None:
        """Use some tabs until cancelled; now and then all of them crash."""
        while True:
            crash = None if self.steady else self._random.expovariate(1 / (_CRASH_EVERY * self.pace.settle))
            try:
                async with asyncio.timeout(crash), asyncio.TaskGroup() as group:
                    for _ in range(tabs):
                        group.create_task(self._tab())
            except TimeoutError:
                self._crash()

    def _headers(self) -> str:
        return f"X-Forwarded-For: 10.0.{self._number // 250}.{self._number % 250 + 1}\r\n"

    def _crash(self) -> None:
        """Come back with the jar as it was on the disk."""
        self.counts["crashes"] += 1
        written = monotonic() - self._random.uniform(0, self.pace.crash_loss)
        while len(self._jar) > 1 and self._jar[-1][0] > written:
            self._jar.pop()

    async def _tab(self) -> None:
        links = {port: Link(port) for port in self.ports}
        pause = _FIRST_PAUSE
        try:
            while True:
                link = links[self._random.choice(self.ports)]
                if await self._refresh(link):
                    pause = _FIRST_PAUSE
                    await asyncio.sleep(self._random.uniform(0.05, 0.7) * self.pace.settle)
                else:
                    await asyncio.sleep(pause * self._random.uniform(0.5, 1))
                    pause = min(2 * pause, _LAST_PAUSE)
        finally:
            for link in links.values():
                link.drop()

    async def _refresh(self, link: Link) -> bool:
        """Refresh once; say whether it is done for now."""
        started, cookie = monotonic(), self.cookie
        lost = not self.steady and self._random.random() < _LOST
        try:
            async with asyncio.timeout(self.pace.limit):
                headers = f"{self._headers()}Cookie: {COOKIE}={cookie}\r\n"
                await link.send("POST", "/auth/refresh", headers, b'{"idle_seconds": 0}')
                if lost:
                    await asyncio.sleep(self._random.uniform(0, 0.03))
                answer = None if lost else await link.receive()
        except TimeoutError:
            return self._given_up(link, "given up")
        except (OSError, EOFError):
            return self._given_up(link, "connection lost")
        if answer is None:
            return self._given_up(link, "left by navigation")
        if monotonic() - started > self.pace.limit:
            return self._given_up(link, "given up")
        return self._judge(answer, started, cookie)

    def _given_up(self, link: Link, why: str) -> bool:
        link.drop()
        self.counts[why] += 1
        return False

    def _ended(self, answer: Answer) -> None:
        """Take note that the session is over."""
        self.wrongs.append(f"{answer.status} {answer.code()} cleared the cookie")

    def _judge(self, answer: Answer, started: float, presented: str) -> bool:
        cookie = answer.cookie()
        if cookie == "":
            self._ended(answer)
            return False
        if answer.status == 200:
            self.counts["refreshed"] += 1
            self._apply(answer)
            self.answered_at = started
            return True
        if answer.status == 503:
            self.counts["503"] += 1
            if answer.code() != "unavailable" or not (answer.header("retry-after") or "").isdigit():
                self.wrongs.append(f"503 without its code or Retry-After: {answer}")
        elif answer.code() == "session_behind":
            self.counts["session_behind"] += 1
            self.behind_at = monotonic()
        else:
            self.wrongs.append(f"{answer.status} {answer.body!r}")
        if cookie is not None:
            self.wrongs.append(f"{answer.status} set a cookie")
        return False

    def _apply(self, answer: Answer) -> None:
        if (cookie := answer.cookie()) is not None:
            self._take(cookie)

    def _take(self, cookie: str) -> None:
        now = monotonic()
        # Only what a crash may still bring back is kept.
        while len(self._jar) > 1 and self._jar[1][0] < now - self.pace.crash_loss:
            self._jar.pop(0)
        self._jar.append((now, cookie))
        # Whoever hands out a child of a generation says that this generation is confirmed.
        self.acknowledged = max(self.acknowledged, generation_of(cookie) - 1)
