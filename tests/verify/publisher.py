"""An HTTP server that publishes keys, well or badly, and counts who asks. For tests only."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ssl import SSLContext
from threading import Event, Thread
from typing import Literal

from keyturn.tokens.signing_key import SigningKey, SigningKeyRing, etag
from tests.tokens.forge import KEY, NOW

PATIENCE = 30.0
"""Seconds that tests wait for what takes milliseconds, on a machine that has other things to do."""


def key_set(*keys: SigningKey) -> bytes:
    """Return the JWK set of these keys."""
    return SigningKeyRing(keys or (KEY,)).jwks(NOW)


class Publisher:
    """What is answered to whoever asks for the keys; tests change it while it serves.

    Attributes:
        requests: the If-None-Match of each request so far.
        before: called before each answer; tests block in it.
        drips: whether the head or the body of an answer goes on, a byte at a time, for longer than anybody waits.
        exhausted: set when somebody has waited for the end of it all the same.
    """

    def __init__(self) -> None:
        self.status = 200
        self.body = key_set()
        self.headers = [("Cache-Control", "public, max-age=300")]
        self.tagged = True
        self.requests: list[str | None] = []
        self.before: Callable[[], object] = bool
        self.drips: Literal["", "head", "body"] = ""
        self.exhausted = False
        self.ended = Event()
        self.scheme = "http"
        self.port = 0

    @property
    def base(self) -> str:
        """The address that stands for the issuer's."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        known = request.headers.get("If-None-Match")
        self.requests.append(known)
        self.before()
        if self.drips == "head":
            self._drip(request)
        tag = etag(self.body)
        unchanged = self.tagged and known == tag and self.status == 200
        body = b"" if unchanged else self.body
        request.send_response(304 if unchanged else self.status)
        for name, value in [*self.headers, ("ETag", tag)] if self.tagged else self.headers:
            request.send_header(name, value)
        if not unchanged and self.drips != "body":
            request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if self.drips == "body":
            self._drip(request)
        request.wfile.write(body)

    def _drip(self, request: BaseHTTPRequestHandler) -> None:
        until = time.monotonic() + PATIENCE
        while not self.ended.wait(0.01) and time.monotonic() < until:
            request.wfile.write(b" ")
        self.exhausted = not self.ended.is_set()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: whoever asked had a limit to its patience, which is what some tests are about."""


@contextmanager
def publishing(tls: SSLContext | None = None) -> Iterator[Publisher]:
    """Run a Publisher on a free port. Args: tls: its certificate; None: it speaks plain HTTP."""
    publisher = Publisher()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            publisher.answer(self)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the name is the base class's
            """Say nothing."""

    with _Server(("127.0.0.1", 0), Handler) as server:
        publisher.port = server.server_address[1]
        if tls is not None:
            server.socket, publisher.scheme = tls.wrap_socket(server.socket, server_side=True), "https"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield publisher
        finally:
            publisher.ended.set()
            server.shutdown()
            thread.join()
