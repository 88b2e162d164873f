"""The frameworks the scenarios run over, and how each runs in a real server.

To add a framework: write its host (see `Adapter`) in a file of its own and name it in ADAPTERS.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.client import HTTPConnection
from threading import Thread
from typing import Any, NamedTuple

import uvicorn
from werkzeug.serving import WSGIRequestHandler, make_server

from keyturn.ports import PrincipalSource
from keyturn.runtime import Keyturn
from tests.frameworks import asgi_hosts, django_hosts, flask_hosts
from tests.services import wait_until

START_TIMEOUT = 30.0


class Adapter(NamedTuple):
    """One framework. Both ways yield the port of a running server of a host application with these routes:

    - `GET /open`: `{"open": true}` for everybody
    - `GET /notes`: `{"user": "<user id>"}`; needs the scope `notes`
    - `GET /admin`: the same; needs the scopes `notes` and `admin`, in this order
    - `GET /recent`: the same; needs a sign-in that is at most an hour old
    - `GET /strong`: the same; needs a sign-in that is at most 300 seconds old, and the method `otp`

    Attributes:
        name: in the tests' ids.
        embedding: the node's routes are in the application, which also starts and closes the node.
        checking: the application only checks tokens, with the source it is given.
    """

    name: str
    embedding: Callable[[Keyturn], AbstractContextManager[int]]
    checking: Callable[[PrincipalSource], AbstractContextManager[int]]


@contextmanager
def uvicorn_running(application: Any) -> Iterator[int]:
    """Run an ASGI application in a server of this process; yield its port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(application, log_config=None, lifespan="on", server_header=False))
        thread = Thread(target=server.run, args=([listener],), name="uvicorn")
        thread.start()
        try:
            wait_until(lambda: server.started or not thread.is_alive(), START_TIMEOUT, "the server")
            assert server.started
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def asgi(name: str, embedding: Callable[[Keyturn], Any], checking: Callable[[PrincipalSource], Any]) -> Adapter:
    """Make the adapter of a framework that makes ASGI applications."""
    return Adapter(
        name,
        lambda node: uvicorn_running(embedding(node)),
        lambda source: uvicorn_running(checking(source)),
    )


@contextmanager
def werkzeug_running(application: Any) -> Iterator[int]:
    """Run a WSGI application in a server of this process, with a thread for each connection; yield its port."""
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=_QuietHandler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, name="werkzeug")
    thread.start()
    try:
        yield server.port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _QuietHandler(WSGIRequestHandler):
    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        """Log nothing: there are hundreds."""


@contextmanager
def closing_its_node(node: Keyturn, running: AbstractContextManager[int]) -> Iterator[int]:
    """Run a server whose application has a node on a thread of its own, and close the node at the end of the process."""
    with running as port:
        yield port
    node.threaded.close()


def flask() -> Adapter:
    """Make the adapter of Flask."""
    return Adapter(
        "flask",
        lambda node: closing_its_node(node, werkzeug_running(flask_hosts.flask(node))),
        lambda source: werkzeug_running(flask_hosts.flask_checking(source)),
    )


def django(name: str, running: Callable[[Any], AbstractContextManager[int]], serve: Any, routes: Any) -> Adapter:
    """Make the adapter of one way to write a Django project and to serve it."""
    return Adapter(
        name,
        lambda node: closing_its_node(node, running(serve(django_hosts.with_node(node, routes)))),
        lambda source: running(serve(django_hosts.only_checking(source, routes))),
    )


ADAPTERS = [
    asgi("asgi", asgi_hosts.plain, asgi_hosts.plain_checking),
    asgi("fastapi", asgi_hosts.fastapi, asgi_hosts.fastapi_checking),
    asgi("starlette", asgi_hosts.starlette, asgi_hosts.starlette_checking),
    asgi("litestar", asgi_hosts.litestar, asgi_hosts.litestar_checking),
    flask(),
    django("django-wsgi", werkzeug_running, django_hosts.wsgi, django_hosts.DJANGO_ROUTES),
    django("django-asgi", uvicorn_running, django_hosts.asgi, django_hosts.DJANGO_ROUTES),
    django("rest-framework", werkzeug_running, django_hosts.wsgi, django_hosts.REST_ROUTES),
    django("django-ninja", uvicorn_running, django_hosts.asgi, django_hosts.NINJA_ROUTES),
]


class Wire:
    """A server on this machine as an ASGI application, so that the tools of the attacks reach it over a real wire.

    Every header goes out as it stands, and comes back so: names in lower case, values undecoded, none merged.
    """

    def __init__(self, port: int) -> None:
        self.port = port

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Forward one request."""
        body = b""
        while message := await receive():
            body += message["body"]
            if not message["more_body"]:
                break
        status, headers, content = await asyncio.to_thread(self._exchange, scope, body)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def _exchange(self, scope: Any, body: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        target = scope["raw_path"].decode("latin-1")
        if scope["query_string"]:
            target += "?" + scope["query_string"].decode("latin-1")
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.putrequest(scope["method"], target, skip_host=True, skip_accept_encoding=True)
            names = {name for name, _ in scope["headers"]}
            if b"host" not in names:
                connection.putheader("host", "auth.test")
            if b"x-forwarded-for" not in names:
                connection.putheader("x-forwarded-for", scope["client"][0])
            if body and b"content-length" not in names:
                connection.putheader("content-length", str(len(body)))
            for name, value in scope["headers"]:
                connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.getheaders()]
            return answer.status, headers, answer.read()
        finally:
            connection.close()
