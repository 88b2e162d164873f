"""One request for keys: it ends in time, whatever the server does with its answer."""

from __future__ import annotations

import socket
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from threading import Event, Thread

import pytest

from keyturn.verify.fetching import FetchFault, KeySource
from keyturn.verify.in_time import _InTime
from tests.verify.publisher import PATIENCE, key_set

LIMIT = 0.3
BODY = key_set()
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY)
CHUNK = b"%x;name=a-value-that-goes-on-and-on\r\n" % len(BODY)
END = b"\r\n0\r\n\r\n"


@contextmanager
def dripping(at_once: bytes, drop_by_drop: bytes, rest: bytes) -> Generator[tuple[int, Event]]:
    """Answer one request with these, the second of them a byte at a time, for far longer than `LIMIT`.

    Gives the port, and what says that somebody has taken all of it.
    """
    over, taken = Event(), Event()

    def serve(listener: socket.socket) -> None:
        with suppress(OSError), listener.accept()[0] as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.recv(65536)
            connection.sendall(at_once)
            for drop in drop_by_drop:
                connection.sendall(bytes([drop]))
                if over.wait(10 * LIMIT / len(drop_by_drop)):
                    return
            taken.set()
            connection.sendall(rest)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        thread = Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1], taken
        finally:
            over.set()
            thread.join(PATIENCE)


ANSWERS = pytest.mark.parametrize(
    ("at_once", "drop_by_drop", "rest"),
    [(b"", PLAIN, BODY), (PLAIN, BODY, b""), (CHUNKED, CHUNK, BODY + END), (CHUNKED + CHUNK + BODY, END, b"")],
    ids=["head", "body", "chunk", "end"],
)


@ANSWERS
def test_answer_that_drips(at_once: bytes, drop_by_drop: bytes, rest: bytes) -> None:
    """A server that sends a byte now and then keeps nobody longer than one that is silent."""
    with dripping(at_once, drop_by_drop, rest) as (port, taken):
        source = KeySource(f"http://127.0.0.1:{port}/", timeout=LIMIT, allow_http=False)
        with pytest.raises(FetchFault):
            source.fetch(None)
        assert not taken.is_set()


@ANSWERS
def test_answer_that_drips_in_time(at_once: bytes, drop_by_drop: bytes, rest: bytes) -> None:
    """(It is the time alone that the answers above are refused for.)"""
    with dripping(at_once, drop_by_drop, rest) as (port, _):
        reply = KeySource(f"http://127.0.0.1:{port}/", timeout=PATIENCE, allow_http=False).fetch(None)
        assert (reply.status, reply.body) == (200, BODY)


def test_each_read_has_what_is_left() -> None:
    """A server that says something at the last moment, and then nothing, gets no second time-out."""
    near, far = socket.socketpair()
    with near, far, near.makefile("rb", buffering=0) as raw:
        near.settimeout(60)
        far.sendall(b"a")
        assert _InTime(raw, near, time.monotonic() + 5).read(1) == b"a"
        left = near.gettimeout()
        assert left is not None
        assert left <= 5
