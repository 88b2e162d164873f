"""The plain ASGI application at its edges: bodies in pieces, paths as sent, the lifespan."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from keyturn.core.errors import Unavailable
from keyturn.core.policy import REQUEST_LIMIT
from keyturn.runtime import Keyturn
from keyturn.web.application import WebApplication
from keyturn.web.asgi import KeyturnASGI, MetricsASGI, ensure_awaited_by
from keyturn.web.config import WebConfig
from keyturn.web.messages import MAX_BODY_BYTES
from tests.web.conftest import ORIGIN, Browser

pytestmark = pytest.mark.anyio

SAFE = [(b"x-keyturn", b"1"), (b"origin", ORIGIN.encode()), (b"content-type", b"application/json")]


async def call(
    application: Any,
    method: str = "POST",
    path: str = "/auth/login",
    *,
    chunks: Iterable[bytes] = (),
    headers: Iterable[tuple[bytes, bytes]] = SAFE,
    ending: str = "complete",
    **scope: Any,
) -> tuple[int, dict[str, Any], dict[bytes, bytes]] | None:
    """Send one request as raw ASGI messages; None when there was no answer.

    Args:
        ending: `complete`; `disconnect` in mid-body; or `never`: the rest of the body does not come.
    """
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    if ending == "complete":
        messages.append({"type": "http.request", "body": b"", "more_body": False})
    elif ending == "disconnect":
        messages.append({"type": "http.disconnect"})
    arriving = iter(messages)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        for message in arriving:
            return message
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    whole = {"type": "http", "method": method, "path": path, "headers": list(headers), "http_version": "1.1", **scope}
    await application(whole, receive, send)
    if not sent:
        return None
    body = sent[1]["body"]
    return sent[0]["status"], json.loads(body) if body else {}, dict(sent[0]["headers"])


async def code(application: Any, *args: Any, **more: Any) -> str:
    """Send one request and return the code of its problem."""
    answer = await call(application, *args, **more)
    assert answer is not None
    found: str = answer[1]["code"]
    return found


async def test_body_in_pieces(node: Keyturn) -> None:
    """A body is one body however it is cut."""
    body = json.dumps({"email": "nobody@example.com", "password": "wrong wrong wrong"}).encode()
    assert await code(node.asgi, chunks=[body[:1], b"", body[1:7], body[7:]]) == "invalid_credentials"


async def test_body_at_the_limit(node: Keyturn) -> None:
    """One byte over the limit is too many, announced or not."""
    body = b'{"email":"nobody@example.com","password":"wrong"}'
    body += b" " * (MAX_BODY_BYTES - len(body))
    assert await code(node.asgi, chunks=[body]) == "invalid_credentials"
    assert await code(node.asgi, chunks=[body, b" "]) == "payload_too_large"


@pytest.mark.parametrize(
    "length",
    [str(MAX_BODY_BYTES + 1).encode(), b"9" * 40, b"9" * 5000, b"000000000000000099999999999", b"0" * 5000 + b"99999"],
    ids=["over", "huge", "huger", "zeros", "more digits than a number may have"],
)
async def test_body_announced_too_large(node: Keyturn, length: bytes) -> None:
    """What is announced too large is refused without reading it, and the connection is given up."""
    answer = await call(node.asgi, headers=[*SAFE, (b"content-length", length)], ending="never")
    assert answer is not None
    status, problem, headers = answer
    assert (status, problem["code"], headers[b"connection"]) == (413, "payload_too_large", b"close")


async def test_body_too_large_over_http2(node: Keyturn) -> None:
    """HTTP/2 knows no Connection header."""
    answer = await call(node.asgi, headers=[*SAFE, (b"content-length", b"99999")], ending="never", http_version="2")
    assert answer is not None
    assert answer[0] == 413
    assert b"connection" not in answer[2]


async def test_body_without_end(node: Keyturn) -> None:
    """A body that never ends is read no further than the limit."""
    given = 0

    def endless() -> Iterable[bytes]:
        nonlocal given
        for _ in range(1000):
            given += 1024
            yield b" " * 1024

    assert await code(node.asgi, chunks=endless()) == "payload_too_large"
    # The generator is drained by the test's own list; what counts is that the answer came.
    assert given > MAX_BODY_BYTES


async def test_content_length_of_thousands_of_zeros(node: Keyturn) -> None:
    """Python reads no number of so many digits; the length is one all the same."""
    headers = [*SAFE, (b"content-length", b"0" * 5000 + b"2")]
    assert await code(node.asgi, headers=headers, chunks=[b"{}"]) == "invalid_request"


@pytest.mark.parametrize("length", [b"-1", b"1e3", b"0x10", b"", b"1, 1"])
async def test_content_length_not_a_number(node: Keyturn, length: bytes) -> None:
    """A Content-Length that is no number is refused although a server should have done so."""
    assert await code(node.asgi, headers=[*SAFE, (b"content-length", length)]) == "invalid_request"


async def test_body_too_slow(node: Keyturn) -> None:
    """A body that does not arrive in time is refused, and the connection is given up."""
    config = WebConfig(own_origins=frozenset({ORIGIN}), body_timeout=0.01)
    application = KeyturnASGI(WebApplication(node.services, config))
    answer = await call(application, chunks=[b'{"email":'], ending="never")
    assert answer is not None
    status, problem, headers = answer
    assert (status, problem["code"], headers[b"connection"]) == (422, "invalid_request", b"close")


async def test_head_sends_no_body(node: Keyturn) -> None:
    """What a server would send after the head would be taken for the next answer; the length is that of GET."""
    get, head = [await call(node.asgi, method, "/healthz") for method in ("GET", "HEAD")]
    assert get is not None
    assert head is not None
    assert (head[0], head[1], head[2][b"content-length"]) == (200, {}, get[2][b"content-length"])
    assert get[1] == {"status": "ok"}


async def test_path_beside_a_root(node: Keyturn) -> None:
    """A server that names a root and leaves it out of the path, as hypercorn does, takes nothing off a path that begins with its letters."""
    answer = await call(node.asgi, "GET", "/healthz", root_path="/heal", raw_path=b"/healthz")
    assert answer is not None
    assert answer[0] == 200


async def test_client_gone(node: Keyturn) -> None:
    """Nobody is answered when nobody is there."""
    assert await call(node.asgi, chunks=[b"{"], ending="disconnect") is None


async def test_client_gone_before_its_turn(node: Keyturn, ada: Browser) -> None:
    """Its token is not judged, where the server knows that nobody is there: the browser may present it again."""
    sent: list[Any] = []

    class Connection:
        disconnected = False

        async def receive(self) -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [*SAFE, (b"cookie", f"__Host-kt_refresh={ada.cookies['__Host-kt_refresh']}".encode())]
    scope = {"type": "http", "method": "POST", "path": "/auth/refresh", "headers": headers}
    connection = Connection()
    await node.asgi(scope, connection.receive, send)
    assert sent.pop(0)["status"] == 200
    sent.clear()
    connection.disconnected = True
    await node.asgi(scope, connection.receive, send)
    assert sent == []


async def test_cancellation_passes(node: Keyturn) -> None:
    """A cancelled request is not turned into an answer."""
    task = asyncio.create_task(call(node.asgi, chunks=[b"{"], ending="never"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    "path",
    [
        "/auth/login/",
        "/auth//login",
        "/AUTH/login",
        "/auth/Login",
        "/auth/login;x",
        "/auth/../auth/login",
        "auth/login",
        "",
        "/",
        "*",
        "/auth",
        "/auth/",
        "/auth/sessions/",
        "/auth/sessions/a/b",
        "/auth/login\x00",
        "/auth/ssr/x",
    ],
)
async def test_path_not_exact(node: Keyturn, path: str) -> None:
    """One route has one spelling."""
    assert await code(node.asgi, path=path) == "not_found"


@pytest.mark.parametrize(
    "sent",
    [
        *(b"/auth/%6Cogin", b"//auth/login", b"/auth//login", b"/auth/login/"),
        *(b"https://auth.test/auth/login", b"/auth/login#", b"/auth/login#/x"),
    ],
)
async def test_path_in_another_spelling(node: Keyturn, sent: bytes) -> None:
    """It would pass by a proxy's rules, so it is another path, also where somebody before us has tidied it up."""
    assert await code(node.asgi, raw_path=sent) == "not_found"


@pytest.mark.parametrize(
    ("root", "sent"),
    [("/x", b"/x/healthz"), ("/x/", b"/x//healthz"), ("/x", b"/healthz"), ("/x", b"/x/healthz?a=%2F//"), ("/x", None)],
)
async def test_path_below_a_mount(node: Keyturn, root: str, sent: bytes | None) -> None:
    """The application can be mounted: the mount's path is not part of ours, and how it was sent need not be told."""
    answer = await call(node.asgi, "GET", f"{root}/healthz", root_path=root, raw_path=sent)
    assert answer is not None
    assert answer[0] == 200


@pytest.mark.parametrize(
    "name", [b"x-http-method-override", b"x-http-method", b"x-method-override", b"x-original-url", b"x-rewrite-url"]
)
async def test_override_headers_ignored(node: Keyturn, name: bytes) -> None:
    """Method and path are those of the request line."""
    value = b"/healthz" if name.endswith(b"url") else b"POST"
    answer = await call(node.asgi, "GET", "/auth/login", headers=[*SAFE, (name, value)])
    assert answer is not None
    assert answer[0] == 405


async def test_middleware_subrequest_ignored(node: Keyturn) -> None:
    """No header says that a check was already made (Next.js CVE-2025-29927)."""
    headers = [(b"x-middleware-subrequest", b"middleware:middleware:middleware"), (b"x-forwarded-user", b"admin")]
    assert await code(node.asgi, "GET", "/auth/me", headers=headers) == "invalid_token"


@pytest.mark.parametrize("name", [b"host", b"x-forwarded-host", b"forwarded", b"x-forwarded-proto"])
async def test_host_is_nowhere_in_the_answer(node: Keyturn, name: bytes) -> None:
    """A poisoned Host neither makes an origin ours nor shows in an answer."""
    evil = [(b"x-keyturn", b"1"), (b"origin", b"https://evil.test"), (name, b"evil.test")]
    answer = await call(node.asgi, headers=evil)
    assert answer is not None
    assert answer[1]["code"] == "csrf_refused"
    assert "evil" not in str(answer)


async def test_unexpected_exception(node: Keyturn, caplog: pytest.LogCaptureFixture) -> None:
    """A bug is a 500 that says nothing, and one log entry with the same request id."""

    def broken() -> tuple[bytes, str]:
        raise ZeroDivisionError("the secret is forty-two")

    services = replace(node.services, jwks=broken)
    application = KeyturnASGI(WebApplication(services, WebConfig()))
    answer = await call(application, "GET", "/.well-known/jwks.json")
    assert answer is not None
    status, problem, headers = answer
    assert (status, problem["code"]) == (500, "internal")
    assert "forty-two" not in str(answer)
    assert headers[b"cache-control"] == b"private, no-store"
    entries = [entry for entry in caplog.records if entry.exc_info]
    assert len(entries) == 1
    assert vars(entries[0])["request_id"] == problem["request_id"]


# -- lifespan


async def lifespan(application: KeyturnASGI) -> list[str]:
    """Start and end an application; return what it said."""
    asked = iter(["lifespan.startup", "lifespan.shutdown"])
    said: list[str] = []

    async def receive() -> dict[str, str]:
        return {"type": next(asked)}

    async def send(message: Any) -> None:
        said.append(message["type"])

    await application({"type": "lifespan"}, receive, send)
    return said


async def test_lifespan_in_order(node: Keyturn) -> None:
    """Start-up runs in order, and shutdown too."""
    order: list[str] = []

    def note(name: str) -> Any:
        async def hook() -> None:
            order.append(name)

        return hook

    application = KeyturnASGI(node.web, startup=[note("a"), note("b")], shutdown=[note("c"), note("d")])
    assert await lifespan(application) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert order == ["a", "b", "c", "d"]


async def test_lifespan_that_fails(node: Keyturn) -> None:
    """A start that fails is told to the server, after what did start has been closed."""
    closed: list[bool] = []

    async def fail() -> None:
        raise OSError("no database")

    async def close() -> None:
        closed.append(True)

    assert await lifespan(KeyturnASGI(node.web, startup=[fail], shutdown=[close])) == ["lifespan.startup.failed"]
    assert closed == [True]


async def test_shutdown_that_fails(node: Keyturn) -> None:
    """One thing that cannot be closed keeps nothing else open."""
    closed: list[bool] = []

    async def fail() -> None:
        raise OSError("gone")

    async def close() -> None:
        closed.append(True)

    said = await lifespan(KeyturnASGI(node.web, shutdown=[fail, close]))
    assert said == ["lifespan.startup.complete", "lifespan.shutdown.failed"]
    assert closed == [True]


async def test_websocket_refused(node: Keyturn) -> None:
    """There is no WebSocket."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nothing is read")

    await node.asgi({"type": "websocket"}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1000}]


@pytest.mark.parametrize(("path", "status"), [("/metrics", 200), ("/", 404), ("/auth/me", 404)])
async def test_metrics_on_their_own_port(path: str, status: int) -> None:
    """The metrics port has one page."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nothing is read")

    scope = {"type": "http", "method": "GET", "path": path, "headers": []}
    await MetricsASGI(lambda: b"up 1\n")(scope, receive, send)
    assert sent[0]["status"] == status
    assert (sent[1]["body"] == b"up 1\n") == (status == 200)


def test_request_that_everybody_has_given_up() -> None:
    """A request older than L is not judged: its sender has gone on, and its token may be reuse by now."""
    now = [100.0]

    async def receive() -> dict[str, object]:
        return {"type": "http.request"}

    ensure_awaited = ensure_awaited_by(receive, lambda: now[0])
    ensure_awaited()
    now[0] += REQUEST_LIMIT - 0.1
    ensure_awaited()
    now[0] += 0.1
    with pytest.raises(Unavailable):
        ensure_awaited()
