"""An API of somebody's own: a real HTTP server that keeps what it was sent and refuses the tokens it is told to.

Owns: the server. Must not hold: Keyturn; it believes every token that it was not told to refuse.
"""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Sent(NamedTuple):
    """One request."""

    path: str
    authorization: str | None
    cookie: str | None
    body: bytes


class Api:
    """One API on a port of its own."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.refused: set[str | None] = set()
        """Authorization headers that are answered with 401."""
        self.refuses_all = False
        self.challenge = "Bearer"
        self.leads_to: str | None = None
        """Where everything is redirected."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._answerer())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> Api:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answerer(self) -> type[BaseHTTPRequestHandler]:
        api = self

        class Answerer(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                one = Sent(self.path, self.headers.get("authorization"), self.headers.get("cookie"), body)
                api.sent.append(one)
                if api.leads_to is not None:
                    self.send_response(307)
                    self.send_header("Location", api.leads_to)
                elif api.refuses_all or one.authorization in api.refused:
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", api.challenge)
                else:
                    self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST  # noqa: N815 - the name that the base class calls

            def log_message(self, *_args: Any) -> None:
                """Keep quiet."""

        return Answerer
