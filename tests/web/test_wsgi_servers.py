"""What real WSGI servers make of a request, byte by byte: wsgiref, Django's runserver, and werkzeug's."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from socketserver import ThreadingMixIn
from threading import Thread
from typing import Any, NamedTuple
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest

from tests.django import project as project  # sets Django up, which its server needs

# isort: split
from django.core.servers.basehttp import ThreadedWSGIServer as DjangoServer
from django.core.servers.basehttp import WSGIRequestHandler as DjangoHandler
from werkzeug.serving import WSGIRequestHandler as WerkzeugHandler
from werkzeug.serving import make_server as make_werkzeug_server

from tests.databases import sqlite_database
from tests.web.conftest import ORIGIN, PASSWORD
from tests.web.wsgi import new_node

SAFE = f"X-Keyturn: 1\r\nOrigin: {ORIGIN}\r\n"


class Threaded(ThreadingMixIn, WSGIServer):
    """The server of the standard library, with a thread for each connection."""

    daemon_threads = True


class Quiet(WSGIRequestHandler):
    """Logs nothing."""

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


class QuietDjango(DjangoHandler):
    """Logs nothing."""

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


class QuietWerkzeug(WerkzeugHandler):
    """Logs nothing."""

    def log_request(self, *_: Any) -> None:
        """Log nothing."""


def wsgiref(application: Any) -> Any:
    """The standard library's server."""
    return make_server("127.0.0.1", 0, application, server_class=Threaded, handler_class=Quiet)


def runserver(application: Any) -> Any:
    """The server of Django's runserver."""
    server = DjangoServer(("127.0.0.1", 0), QuietDjango)
    server.set_app(application)
    return server


def werkzeug(application: Any) -> Any:
    """The server of `flask run`."""
    return make_werkzeug_server("127.0.0.1", 0, application, threaded=True, request_handler=QuietWerkzeug)


class Answer(NamedTuple):
    """What came back."""

    status: int
    head: str
    body: Any

    @property
    def cookies(self) -> list[str]:
        """Every cookie that is set: name and value."""
        lines = self.head.split("\r\n")
        return [line.partition(": ")[2].partition(";")[0] for line in lines if line.lower().startswith("set-cookie:")]


class Wire:
    """Sends bytes to a server."""

    def __init__(self, kind: str, port: int) -> None:
        self.kind = kind
        self.port = port

    def send(self, path: str, headers: str = "", body: str = "", method: str = "POST") -> Answer:
        """Send one request as it stands."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            request = f"{method} {path} HTTP/1.1\r\nHost: auth.test\r\nConnection: close\r\n{headers}\r\n{body}"
            connection.sendall(request.encode("latin-1"))
            content = b"".join(iter(lambda: connection.recv(65536), b""))
        head, _, rest = content.partition(b"\r\n\r\n")
        return Answer(int(head.split(b" ")[1]), head.decode("latin-1"), json.loads(rest) if rest else None)

    def sign_up(self, email: str) -> Answer:
        """Sign up."""
        body = json.dumps({"email": email, "password": PASSWORD})
        headers = f"{SAFE}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        return self.send("/auth/signup", headers, body)


@pytest.fixture(scope="module", params=[wsgiref, runserver, werkzeug], ids=lambda serve: serve.__name__)
def wire(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    """A running server of each kind, with a node."""
    serve: Callable[[Any], Any] = request.param
    node = new_node(sqlite_database(tmp_path_factory.mktemp(serve.__name__)))
    server = serve(node.wsgi)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Wire(serve.__name__, server.server_port)
    server.shutdown()
    thread.join()
    server.server_close()
    node.threaded.close()


@pytest.fixture(scope="module")
def ada(wire: Wire) -> Answer:
    """The answer to Ada's sign-up."""
    return wire.sign_up("ada@example.com")


def test_cookies_of_an_answer(ada: Answer) -> None:
    """Every cookie has a header of its own."""
    assert [cookie.partition("=")[0] for cookie in ada.cookies] == ["__Host-kt_refresh", "kt_hint", "__Host-kt_device"]


def test_refresh_without_a_body(wire: Wire, ada: Answer) -> None:
    """A request without body and type is one, whatever type the server makes up for it."""
    answer = wire.send("/auth/refresh", f"{SAFE}Content-Length: 0\r\nCookie: {ada.cookies[0]}\r\n")
    assert answer.status == 200
    assert wire.send("/auth/refresh", f"{SAFE}Cookie: {ada.cookies[0]}\r\n").status == 200


@pytest.mark.parametrize("other", ["__Host-kt_refresh=planted", "{mine}", "a=1; __Host-kt_refresh=planted; b=2"])
@pytest.mark.parametrize("first", [True, False])
def test_two_cookie_headers(wire: Wire, ada: Answer, other: str, first: bool) -> None:
    """Two cookies of our name in two headers are none, and none is cleared."""
    lines = [ada.cookies[0], other.format(mine=ada.cookies[0])]
    cookies = "".join(f"Cookie: {line}\r\n" for line in (lines if first else lines[::-1]))
    answer = wire.send("/auth/refresh", SAFE + cookies)
    assert (answer.body["code"], answer.cookies) == ("no_session", [])


def test_two_of_what_must_be_one(wire: Wire, ada: Answer) -> None:
    """No header that decides anything may come twice."""
    bearer = f"Authorization: Bearer {ada.body['access_token']}\r\n"
    assert wire.send("/auth/me", bearer, method="GET").status == 200
    assert wire.send("/auth/me", bearer + bearer, method="GET").body["code"] == "invalid_token"
    for line in ("X-Keyturn: 1\r\n", f"Origin: {ORIGIN}\r\n"):
        assert wire.send("/auth/logout", SAFE + line).body["code"] == "csrf_refused"


def test_body_in_chunks(wire: Wire) -> None:
    """A body in chunks is read where the server decodes it, and refused where it does not."""
    body = json.dumps({"email": "nobody@example.com", "password": PASSWORD})
    headers = f"{SAFE}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
    answer = wire.send("/auth/login", headers, f"{len(body):x}\r\n{body}\r\n0\r\n\r\n")
    assert answer.body["code"] == ("invalid_credentials" if wire.kind == "werkzeug" else "invalid_request")


def test_path_spelled_otherwise(wire: Wire) -> None:
    """Where the server tells how a path was spelled, only one spelling is ours."""
    status = wire.send("/%68ealthz", method="GET").status
    assert status == (404 if wire.kind == "werkzeug" else 200)
