"""The plain ASGI application: ASGI messages to Request and Response values and back.

Owns: reading bodies within their limits, and the lifespan. Must not decide anything about a request.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, Final

from keyturn.core.errors import InvalidRequest, MethodNotAllowed, NotFound, PayloadTooLarge, Unavailable
from keyturn.core.policy import REQUEST_LIMIT
from keyturn.web import answers
from keyturn.web.application import WebApplication
from keyturn.web.endpoints import METRICS_TYPE, Route
from keyturn.web.messages import MAX_BODY_BYTES, BodyTooSlow, ClientGone, ReadBody, Request, Response

_logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Hook = Callable[[], Awaitable[None]]

SEND_WHOLE: Final = "keyturn.send_whole"
"""Where a scope holds what sends a whole answer without messages, as `keyturn serve` does (`keyturn/leaving.py`)."""
NEVER_FOUND: Final = "\0"
"""The path of a request whose path is spelled in a way that is not the contract's."""
_METRICS_METHODS: Final = "GET, HEAD, OPTIONS"
_CONNECTION_CLOSE: Final = (b"connection", b"close")


class KeyturnASGI:
    """Serve a WebApplication over ASGI.

    Args:
        application: answers the requests.
        startup: awaited in order before the first request.
        shutdown: awaited in order after the last one; each is, whatever the one before it did.
    """

    def __init__(
        self, application: WebApplication, *, startup: Sequence[Hook] = (), shutdown: Sequence[Hook] = ()
    ) -> None:
        self._application: Final = application
        self._startup: Final = startup
        self._shutdown: Final = shutdown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take one connection: HTTP or lifespan; WebSockets are closed."""
        if scope["type"] == "http":
            await serve(self._application, scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            for hook in self._startup:
                await hook()
        except Exception as fault:
            _logger.exception("start-up failed")
            await self._stop()
            await send({"type": "lifespan.startup.failed", "message": str(fault)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        failed = await self._stop()
        await send({"type": "lifespan.shutdown.failed" if failed else "lifespan.shutdown.complete"})

    async def _stop(self) -> bool:
        failed = False
        for hook in self._shutdown:
            try:
                await hook()
            except Exception:
                _logger.exception("shutdown failed")
                failed = True
        return failed


class MetricsASGI:
    """Serve `/metrics` alone, for a port that only the monitoring reaches; there it needs no token.

    Args:
        render: returns everything counted, in Prometheus' text format; None: nothing is counted.
    """

    def __init__(self, render: Callable[[], bytes] | None) -> None:
        self._render: Final = render

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; there is no lifespan."""
        if scope["type"] != "http":
            raise ValueError(f"{scope['type']} is not served here")
        request = read_request(scope, receive, body_timeout=0.0)
        response = answers.finish(self._answer(request), request.id)
        await write_response(response._replace(body=b"") if request.method == "HEAD" else response, scope, send)

    def _answer(self, request: Request) -> Response:
        if request.path != "/metrics" or self._render is None:
            return answers.problem(NotFound(), request.id)
        if request.method == "OPTIONS":
            return answers.nothing((b"allow", _METRICS_METHODS.encode("ascii")))
        if request.method not in {"GET", "HEAD"}:
            return answers.problem(MethodNotAllowed(_METRICS_METHODS), request.id)
        return Response(200, [METRICS_TYPE], self._render())


async def serve(application: WebApplication, scope: Scope, receive: Receive, send: Send) -> bool:
    """Answer one HTTP request; False: nobody waits for an answer, and none was sent."""
    request = read_request(scope, receive, application.config.body_timeout)
    try:
        response = await application.respond(request)
    except ClientGone:
        return False
    await write_response(response, scope, send)
    return True


async def respond_routed(
    application: WebApplication,
    methods: Mapping[str, Route],
    scope: Scope,
    receive: Receive,
    stream: AsyncIterator[bytes],
    *,
    gone: type[Exception],
    parameter: str,
) -> Response | None:
    """Answer a request that a host has routed, and whose body a hook of it may have read; None: nobody waits for an answer.

    Why not whatever the host has found: it goes by the path as it was decoded, and tidied up.

    Args:
        methods: those of its path.
        stream: the body, from the host.
        gone: what the stream raises when the client has left.
        parameter: the value of the route's one path parameter.
    """
    source = received_from(stream, gone)
    request = read_request(scope, receive, application.config.body_timeout, source=source, parameter=parameter)
    try:
        if request.path == NEVER_FOUND:
            return await application.respond(request)
        return await application.respond_at(methods, request)
    except ClientGone:
        return None


def read_request(
    scope: Scope, receive: Receive, body_timeout: float, *, source: Receive | None = None, parameter: str = ""
) -> Request:
    """Turn an ASGI scope into a Request.

    Args:
        source: where a host framework hands over the body, which it may have read already.
        parameter: the value of the route's one path parameter, where a host has routed.
    """
    path: str = scope["path"]
    # As it was sent, which servers need not tell; some test clients leave the query on it.
    sent = (scope.get("raw_path") or b"").partition(b"?")[0].decode("latin-1")
    root: str = scope.get("root_path", "")
    if root:
        path, sent = _below(path, root), _below(sent, root)
    if is_respelled(sent):
        path = NEVER_FOUND
    client = scope.get("client")
    return Request(
        scope["method"],
        path,
        scope["headers"],
        _arrived(receive) or body_reader(scope["headers"], receive, body_timeout, source or receive),
        peer=None if client is None else client[0],
        scheme=scope.get("scheme", "http"),
        ensure_awaited=ensure_awaited_by(receive),
        parameter=parameter,
    )


def _below(path: str, root: str) -> str:
    """Return the rest of a path below a root, which some servers leave out of the path: `/auth` is not below `/a`."""
    rest = path.removeprefix(root)
    return rest if rest.startswith("/") else path


def is_respelled(sent: str) -> bool:
    """Say whether a path as it was sent, without its query, is spelled in a way that is not the contract's.

    Why: every path of the contract is spelled in one way. Servers and hosts decode a path, and some drop slashes, steps such
    as `/x/..`, an address before it or what follows a #, before they route; one that only then is ours would slip past a proxy's
    rules.
    """
    return "%" in sent or "//" in sent or "#" in sent or "/./" in sent or "/../" in sent or sent.endswith("/")


def ensure_awaited_by(receive: object, monotonic: Callable[[], float] = time.monotonic) -> Callable[[], None]:
    """Return a function that raises once nobody waits for the answer any more.

    Raises, when called: ClientGone: the client has closed its connection. Unavailable: the request is older than the time
    after which everybody has given it up, whether or not a proxy has passed that on.

    ASGI tells a disconnect only to whoever awaits `receive`, which takes a task per request. uvicorn also notes it on the
    object whose method `receive` is; under another server, or behind a middleware, no client counts as gone.
    """
    cycle = getattr(receive, "__self__", None)
    given_up_at = monotonic() + REQUEST_LIMIT

    def ensure_awaited() -> None:
        if getattr(cycle, "disconnected", False) is True:
            raise ClientGone
        if monotonic() >= given_up_at:
            raise Unavailable("queue")

    return ensure_awaited


def received_from(stream: AsyncIterator[bytes], gone: type[Exception]) -> Receive:
    """Return what hands over a body that a hook of the host may have read, from the host's own stream of it.

    Why: a server whose body has been taken has one more message, the end of the connection, and that may be far off.

    Args:
        gone: what the stream raises when the client has left.
    """

    async def receive() -> Message:
        try:
            return {"type": "http.request", "body": await anext(stream), "more_body": True}
        except StopAsyncIteration:
            return {"type": "http.request"}
        except gone:
            return {"type": "http.disconnect"}

    return receive


def body_reader(headers: Sequence[tuple[bytes, bytes]], receive: Receive, timeout: float, source: Receive) -> ReadBody:
    """Return a function that reads the body, once.

    Why a limit and a time: whoever may call may also send without end, or one byte a minute.
    Spec: OWASP ASVS 5.0 15.2.2.
    """

    async def read() -> bytes:
        if _has_arrived(receive):
            return await _read_limited(source)
        refuse_announced(headers)
        try:
            async with asyncio.timeout(timeout):
                return await _read_limited(source)
        except TimeoutError:
            raise BodyTooSlow("the body did not arrive in time") from None

    return read


def _has_arrived(receive: object) -> bool:
    """Say whether the whole body is here, so that nobody has to be timed; uvicorn notes that beside `disconnected`."""
    return getattr(getattr(receive, "__self__", None), "more_body", True) is False


def _arrived(receive: object) -> bytes:
    """Return the body if all of it is here, as nearly always, and uvicorn holds it beside those two; else nothing.

    Why: a message takes three coroutines, a fortieth of a refresh.
    """
    cycle = getattr(receive, "__self__", None)
    if not _has_arrived(receive) or getattr(cycle, "disconnected", True):
        return b""
    body = getattr(cycle, "body", b"")
    return bytes(body) if isinstance(body, bytes | bytearray) and len(body) <= MAX_BODY_BYTES else b""


def refuse_announced(headers: Sequence[tuple[bytes, bytes]]) -> int:
    """Refuse a body by the length it announces, before any of it is read; return that length, 0 where there is none.

    Raises: PayloadTooLarge. InvalidRequest.
    """
    length = 0
    for name, value in headers:
        if name != b"content-length":
            continue
        # A length of more digits than the limit's own is over it; anything but digits, the server let pass by mistake.
        if not value.isdigit():
            raise InvalidRequest("Content-Length is not a number")
        digits = value.lstrip(b"0") or b"0"  # Python reads no number of thousands of digits, zeros included
        if len(digits) > 9 or (length := int(digits)) > MAX_BODY_BYTES:
            raise PayloadTooLarge
    return length


async def _read_limited(receive: Receive) -> bytes:
    content = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk: bytes = message.get("body", b"")
        content += chunk
        if len(content) > MAX_BODY_BYTES:
            raise PayloadTooLarge
        if not message.get("more_body", False):
            return content


def end_connection(response: Response, scope: Scope) -> None:
    """Say that the connection ends with this answer, where it does."""
    # HTTP/2 has no such header and must not see it.
    if response.close and scope.get("http_version", "1.1").startswith("1"):
        response.headers.append(_CONNECTION_CLOSE)


async def write_response(response: Response, scope: Scope, send: Send) -> None:
    """Send a Response."""
    end_connection(response, scope)
    headers = response.headers
    send_whole = scope.get(SEND_WHOLE)
    if send_whole is not None and send_whole(send, response.status, headers, response.body):
        return
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})
