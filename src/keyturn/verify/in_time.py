"""An opener of HTTP addresses whose answers are read in time, whatever the server does.

Owns: until when an answer is read. Must not hold: who may be asked, what an answer means (`fetching.py`).
Only imported when something is fetched: http.client and ssl take 40 ms to load.

Why each read has a limit of its own: the time-out of a socket is for one read. The head of an answer, and what stands between
the chunks of its body, are read until they end, so a server that sends a byte now and then would be listened to for ever.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from io import BufferedReader, RawIOBase
from typing import Any, Final
from urllib.request import AbstractHTTPHandler, HTTPHandler, OpenerDirector, ProxyHandler, Request


class _InTime(RawIOBase):
    """Read from a connection until a time by the monotonic clock. Raises: TimeoutError: it is later."""

    def __init__(self, raw: Any, connection: socket.socket, deadline: float) -> None:
        self._raw: Final = raw
        self._connection: Final = connection
        self._deadline: Final = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        rest = self._deadline - time.monotonic()
        if rest <= 0:
            raise TimeoutError("the answer takes too long")
        self._connection.settimeout(rest)
        count: int | None = self._raw.readinto(buffer)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Limiting(AbstractHTTPHandler):
    deadline = 0.0

    def do_open(self, http_class: Callable[..., HTTPConnection], req: Any, **options: Any) -> HTTPResponse:
        deadline = self.deadline

        class Answer(HTTPResponse):
            def __init__(self, sock: socket.socket, *arguments: Any, **more: Any) -> None:
                super().__init__(sock, *arguments, **more)
                self.fp = BufferedReader(_InTime(self.fp.detach(), sock, deadline))

        def connect(host: str, **more: Any) -> HTTPConnection:
            connection = http_class(host, **more)
            # Also of what a proxy answers before.
            connection.response_class = Answer
            return connection

        return super().do_open(connect, req, **options)


class _Http(_Limiting, HTTPHandler):
    pass


class _Https(_Limiting):
    # Not the library's HTTPSHandler: since Python 3.12 that loads the certificates of all authorities when it is made, which
    # takes longer than many a server to answer, also where nothing but http is asked.
    https_request = AbstractHTTPHandler.do_request_

    def https_open(self, req: Request) -> HTTPResponse:
        return self.do_open(HTTPSConnection, req)


def opener(deadline: float, *, local: bool) -> OpenerDirector:
    """Make an opener that knows http, https and the machine's proxies: nothing in it follows a redirect.

    Args:
        deadline: by the monotonic clock, after which nothing of an answer is read.
        local: of this machine, to which no proxy leads.
    """
    director = OpenerDirector()
    plain, encrypted = _Http(), _Https()
    plain.deadline = encrypted.deadline = deadline
    for each in (ProxyHandler({} if local else None), plain, encrypted):
        director.add_handler(each)
    return director
