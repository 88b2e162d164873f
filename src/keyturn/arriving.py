"""Requests as they arrive: how large one may be beside its body, how long it may take, how many may wait, where one ends.

Owns: what ends a connection before its time, how many there may be. Must not hold: the limits of bodies (`web/asgi.py`), listening and draining
(`serving.py`).

Why: uvicorn keeps headers and trailers of any size in memory, and however many requests one read holds, and waits for the
rest of a request for ever. A few connections could fill the memory of a node, and a few hundred half requests take all the
connections it may have, for good. So could connections on which nothing is sent, be it for a minute: with the last file that
the system lets a process open, the database's go too.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from contextlib import suppress
from math import inf
from typing import Any, ClassVar, Final, NoReturn, cast

from httptools import HttpParserInvalidURLError, HttpParserUpgrade
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from keyturn.leaving import send_whole
from keyturn.web.asgi import SEND_WHOLE

_logger = logging.getLogger(__name__)

HEAD_LIMIT: Final = 64 * 1024
"""Bytes of a request that are not its body: eight times what common proxies let through."""
HEADERS_LIMIT: Final = 256
"""Headers of a request, trailers among them: each takes a hundred bytes of memory, however short it is. Browsers send thirty."""
ARRIVAL_TIME: Final = 20.0
"""Seconds from the first byte of a request to its last: twice the time after which everybody gives a request up."""
WAITING_LIMIT: Final = 16
"""Requests of a connection that wait for their turn: hardly any client sends a second one before the first is answered."""
CONNECTIONS_LIMIT: Final = 4096
"""Connections of a process: with a head of the largest size on each they take half a gigabyte."""
OWN_FILES: Final = 128
"""Files of a process that are no client's: the database's, Redis', the program's."""
_BURST: Final = 2048
"""Connections that the system may hand over before the first of them is counted."""
_READ_TIME: Final = 0.1
"""Seconds in which what has come is read."""
_LINE: Final = len(":\r\n")
_TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


def _announces_body(name: bytes, value: bytes) -> bool:
    return name == b"transfer-encoding" or (name == b"content-length" and value != b"0")


def connections_limit() -> int:
    """Return how many connections this process may have, and let it open as many files where it may: often it begins with 1024."""
    if sys.platform == "win32":
        return CONNECTIONS_LIMIT
    import resource

    files, most = (
        inf if each == resource.RLIM_INFINITY else each for each in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    wanted = min(CONNECTIONS_LIMIT + _BURST + OWN_FILES, most)
    if files < wanted:
        files = wanted
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(files), -1 if most == inf else int(most)))
    return int(min(CONNECTIONS_LIMIT, max(files - OWN_FILES, files // 2)))


class _Transport:
    """A connection that, told to close while a request arrives, says only that it will: it reads on and forgets what comes.

    Why: a connection that is closed on bytes which nobody has read is reset, and a proxy that still sends meets the reset before
    it reads the answer. nginx shows a 502 in its place, and sends nothing to that server for ten seconds: a few bodies over the
    limit, from anybody, turned everybody away.
    Spec: RFC 9112 9.6.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self.arriving = False
        """Whether a request has begun and not ended."""
        self.end = transport.close
        self.has_ended = transport.is_closing
        self.abort = transport.abort
        self.get_extra_info = transport.get_extra_info
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading
        self._transport = transport
        self._leaving = False

    def is_closing(self) -> bool:
        """Say whether it was told to close, or has."""
        return self._leaving or self.has_ended()

    def write(self, data: bytes) -> None:
        """Send, unless it was told to close while a request arrives, or has ended.

        Why ask afterwards: uvicorn tells the last request that the client has gone, and not one before, and uvloop takes what
        that one writes for a mistake. It would stand in the log as a fault of the application.
        """
        if self._leaving:
            return
        try:
            self._transport.write(data)
        except RuntimeError:
            if not self.has_ended():
                raise

    def close(self) -> None:
        """Close once everything is sent; while a request arrives, say only that no more comes, and leave closing to the client or `end`."""
        if not self.arriving or self.is_closing():
            self.end()
            return
        self._leaving = True
        self.resume_reading()
        with suppress(OSError):  # the client has gone
            self._transport.write_eof()

    def holds_unread(self) -> bool:
        """Say whether something has come that nobody has read yet."""
        if sys.platform == "win32":
            return False
        import fcntl
        import termios

        held = bytearray(4)
        with suppress(OSError, ValueError):  # closed
            fcntl.ioctl(self.get_extra_info("socket").fileno(), termios.FIONREAD, held)
        return any(held)

    def say_end(self) -> None:
        """Tell the client at once that no more comes, where everything is sent.

        Why: an event loop closes a connection only after all else that it has to do.
        """
        if sys.platform != "win32" and not self._transport.get_write_buffer_size():
            with (
                suppress(OSError, ValueError),
                socket.socket(fileno=os.dup(self.get_extra_info("socket").fileno())) as own,
            ):
                own.shutdown(socket.SHUT_WR)


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 on one connection, with an end to what a caller may send and to how long it may take.

    A request that comes in one piece, as nearly all do, costs no timer.
    """

    arrival_time = ARRIVAL_TIME
    connections_limit = CONNECTIONS_LIMIT
    _resting: ClassVar[dict[_Transport, None]] = {}
    """The connections of this process on which no whole request waits for its answer, the one that has for longest first."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.headers = []
        self._read = 0
        self._taken = 0
        self._size = 0
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; a connection on which nothing comes is kept as long as one on which nothing more comes.

        One too many ends the one that has rested for longest, and not itself: whoever opens many keeps nobody out.
        """
        self._connection = _Transport(transport)
        super().connection_made(cast("asyncio.Transport", self._connection))
        self._resting[self._connection] = None
        if len(self.connections) > self.connections_limit:
            longest = next(iter(self._resting))
            del self._resting[longest]
            longest.abort()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        """End, and let go of the timers, which uvicorn does not after a reset."""
        self._cancel_deadline()
        self._resting.pop(self._connection, None)
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what has come; refuse what is too much, and forget what comes after the end was announced."""
        if self.transport.is_closing():
            return
        self._read = len(data)
        self._size += self._read
        while data:
            self._taken = len(data)
            super().data_received(data)
            data = data[self._taken :]
        if self._connection.arriving or not self._answering():
            if self._deadline is None:
                self._deadline = self.loop.call_later(self.arrival_time, self._too_slow)
            if (self._size > HEAD_LIMIT or len(self.headers) > HEADERS_LIMIT) and not self.transport.is_closing():
                self._refuse()

    def on_message_begin(self) -> None:
        """Note that a request begins."""
        self._connection.arriving = True
        super().on_message_begin()
        self.scope[SEND_WHOLE] = send_whole  # type: ignore[typeddict-unknown-key]

    def on_headers_complete(self) -> None:
        """Pass a head on, unless it is too large, too many wait already, or two could read in it another path, host or end of the body."""
        self._weigh()
        if len(self.pipeline) >= WAITING_LIMIT:
            self._give_up()
        names = [name for name, _ in self.headers]
        hosts = names.count(b"host")
        # The parser is None once the connection is lost, and then it calls nobody.
        version = self.parser.get_http_version()  # pyright: ignore[reportOptionalMemberAccess]
        if version not in {"1.1", "1.0"}:
            raise ValueError("another HTTP")
        if hosts > 1 or (not hosts and version == "1.1"):
            # RFC 9112 3.2: another server on the way may have read another one.
            raise ValueError("none or several Hosts")
        if self.url[:1] not in {b"/", b"*"} or b"#" in self.url:
            # uvicorn would take an address, and what follows a #, away. A proxy that does not lets `https://a/metrics` pass.
            raise ValueError("a target that is more than a path")
        if b"transfer-encoding" in names and not self._is_chunked():
            raise ValueError("a coding that nobody takes off, or another one to somebody else")
        offered = self.parser.should_upgrade()  # pyright: ignore[reportOptionalMemberAccess]
        if offered and any(_announces_body(*each) for each in self.headers):
            # Not an offer that may be passed over: uvicorn's parser would take the body for the next request.
            raise ValueError("an offer to leave HTTP/1.1 with a body")
        super().on_headers_complete()
        # Trailers go elsewhere: uvicorn would add them to the headers of the request, behind those of our proxies.
        self.headers = []

    def on_body(self, body: bytes) -> None:
        """Take a part of a body, which has a limit of its own."""
        self._size -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that a request is here, unless its trailers are too large."""
        self._weigh()
        self._connection.arriving = False
        self._size = 0
        self._cancel_deadline()
        super().on_message_complete()
        if self._answering():
            self._resting.pop(self._connection, None)

    def on_response_complete(self) -> None:
        """Go on to the next request, or rest."""
        super().on_response_complete()
        if (not self._answering() or self.cycle.more_body) and not self._connection.has_ended():
            self._resting[self._connection] = None

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that has rested for long enough, unless the system holds something that is read next."""
        if not self._connection.holds_unread():
            self._connection.say_end()
            super().timeout_keep_alive_handler()

    def shutdown(self) -> None:
        """End with the server: after the answer, or at once; first comes the answer to what the system holds unread.

        Why: a proxy that has sent a request by a connection which has rested would meet a reset, and most send no POST again.
        """
        if not self._answering() and self._connection.holds_unread():
            self.loop.call_later(_READ_TIME, self._leave)
        else:
            self._leave()

    def _leave(self) -> None:
        if self._connection.has_ended():
            return
        if not self._answering():
            self._connection.say_end()
        super().shutdown()
        if not self._answering():
            self._connection.end()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request, unless it has been refused; the library's line in the log says neither who sent it nor why."""
        if not self.transport.is_closing():
            raised = sys.exception()
            fault = (raised and raised.__context__) or raised
            # This one quotes the path, whose end may be a secret of another application.
            self._log(
                "malformed", 400, why="invalid url" if isinstance(fault, HttpParserInvalidURLError) else str(fault)
            )
            super().send_400_response(msg)

    def _unsupported_upgrade_warning(self) -> None:
        """Pass an offer over, as is right, and have the parser read on behind it, where it stops.

        Why: the library would forget what has come with the offer: a request, or half of one, whose other half is taken for one by
        itself. And it would log with each that it lacks something, which is to be installed.
        Spec: RFC 9110 7.8.
        """
        (self._taken,) = cast("HttpParserUpgrade", sys.exception()).args

    def _is_chunked(self) -> bool:
        return [value.lower() for name, value in self.headers if name == b"transfer-encoding"] == [b"chunked"]

    def _weigh(self) -> None:
        if len(self.headers) > HEADERS_LIMIT:
            self._give_up()
        if self._read > HEAD_LIMIT or self._size > HEAD_LIMIT:
            # A read may hold a whole request, or several: how much of it is head, only what was found in it tells.
            lines = sum(len(name) + len(value) + _LINE for name, value in self.headers)
            if len(self.url) + lines > HEAD_LIMIT:
                self._give_up()

    def _give_up(self) -> NoReturn:
        self._refuse()
        raise ValueError("too much")  # the parser reads no further

    def _refuse(self) -> None:
        self._log("too much beside a body, or too many requests", 431)
        if not self._answering():
            self.transport.write(_TOO_LARGE)
        self.transport.close()

    def _log(self, what: str, status: int, **more: str) -> None:
        peer = self.client[0] if self.client else ""
        _logger.info("refused: %s", what, extra={"status": status, "peer": peer, **more})

    def _answering(self) -> bool:
        # There is none before the first request; its type does not say so.
        return self.cycle is not None and not self.cycle.response_complete  # pyright: ignore[reportUnnecessaryComparison]

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if self._answering():
            # Its answer comes first: bodies have a time of their own, and end the connection when it is over.
            self._deadline = self.loop.call_later(self.arrival_time, self._too_slow)
        else:
            self._connection.end()
