"""The plain WSGI application: a WSGI environment to a Request value, and a Response value back.

Owns: reading headers and bodies as WSGI servers hand them over. Must not decide anything about a request.

What WSGI cannot say: whether the client is still there, and that the connection is of no further use. A body is read on
the thread of the request: a client that stops in the middle of one holds that thread until the server's own timeout.
Spec: PEP 3333.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final, Protocol

from keyturn.core import cookie
from keyturn.core.errors import InvalidRequest, PayloadTooLarge, Refused
from keyturn.ports import MonotonicClock
from keyturn.web.asgi import NEVER_FOUND, ensure_awaited_by, is_respelled, refuse_announced
from keyturn.web.messages import MAX_BODY_BYTES, BodyTooSlow, ClientGone, Header, ReadBody, Request, Response
from keyturn.web.threaded import ThreadedNode

Environ = Mapping[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], object]

_OURS: Final = b"|".join(map(re.escape, (cookie.REFRESH, cookie.DEVICE)))
_JOINED: Final = re.compile(rb",[ \t]*(?:%b)=|(?:^|;)[ \t]*(?:%b)=[^;,]*," % (_OURS, _OURS))


class Source(Protocol):
    """Where a body is read from."""

    def read(self, size: int, /) -> bytes: ...


class KeyturnWSGI:
    """Serve a node over WSGI.

    Args:
        node: answers the requests; it starts with the first one.
    """

    def __init__(self, node: ThreadedNode) -> None:
        self._node: Final = node

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        response = self._node.respond(read_environ(environ, self._node.web.config.body_timeout))
        start_response(f"{response.status} {HTTPStatus(response.status).phrase}", native_headers(response))
        return [response.body] if response.body else []


def native_headers(response: Response) -> list[tuple[str, str]]:
    """Return the headers as WSGI wants them, every Set-Cookie among them."""
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers]


def read_environ(
    environ: Environ,
    body_timeout: float,
    *,
    source: Source | None = None,
    parameter: str = "",
    monotonic: MonotonicClock = time.monotonic,
) -> Request:
    """Turn a WSGI environment into a Request, and read its body.

    Args:
        source: where a host framework keeps a body of known length, which it may have read already.
        parameter: the value of the route's one path parameter, where a host has routed.
    """
    # Before the body is read: that is time in which whoever waits may have given up.
    ensure_awaited = ensure_awaited_by(environ, monotonic)
    headers = _headers(environ)
    path: str = environ.get("PATH_INFO", "")
    # Servers that tell the path as it was sent do so under one of these names, with whatever else was in the target.
    target: str = environ.get("REQUEST_URI") or environ.get("RAW_URI") or ""
    if is_respelled(target.partition("?")[0]):
        path = NEVER_FOUND
    return Request(
        environ["REQUEST_METHOD"],
        path,
        headers,
        _body_reader(environ, headers, source, _deadline(body_timeout, monotonic)),
        peer=environ.get("REMOTE_ADDR") or None,
        scheme=environ.get("wsgi.url_scheme", "http"),
        ensure_awaited=ensure_awaited,
        parameter=parameter,
    )


def _headers(environ: Environ) -> list[Header]:
    found: list[Header] = []
    for key, value in environ.items():
        if key.startswith("HTTP_"):
            found.append((key[5:].replace("_", "-").lower().encode("latin-1"), value.encode("latin-1")))
    announced = environ.get("CONTENT_LENGTH") or ""
    if announced:
        found.append((b"content-length", announced.encode("latin-1")))
    content_type = environ.get("CONTENT_TYPE") or ""
    # wsgiref, and Django's runserver with it, makes up this type for a request that has neither type nor body.
    has_body = announced not in {"", "0"} or "HTTP_TRANSFER_ENCODING" in environ
    if content_type and (has_body or content_type != "text/plain"):
        found.append((b"content-type", content_type.encode("latin-1")))
    return [header for one in found for header in _unjoined(one)]


def _unjoined(header: Header) -> Iterable[Header]:
    """Yield a header once; twice when a server may have joined it from several: each cookie then has two values, and is refused.

    Why: WSGI servers join headers of one name with a comma, and a comma may also be in the value of a cookie that a
    sibling subdomain has planted. Whether one of ours was sent once, twice or not at all cannot be told then, so none is
    used, and none is cleared. No value of ours has a comma, and browsers send one Cookie header.
    Spec: RFC 6265 5.4 ("MUST NOT attach more than one Cookie header field").
    """
    name, value = header
    if name == b"cookie" and _JOINED.search(value) is not None:
        header = (name, value.replace(b",", b";"))
        yield header
    yield header


# -- the body


def _deadline(timeout: float, monotonic: MonotonicClock) -> Callable[[], bool]:
    """Return a function that says whether there still is time."""
    late_at = monotonic() + timeout
    return lambda: monotonic() < late_at


def _body_reader(
    environ: Environ, headers: list[Header], source: Source | None, in_time: Callable[[], bool]
) -> ReadBody:
    """Read the body now, and return a function that hands it out, or raises why there is none.

    Why now: the input belongs to the thread of the request, and the endpoint runs on another. Refusals wait until the
    endpoint asks, so that their order is the same as everywhere.
    """
    refused: Refused | ClientGone | None = None
    content = b""
    try:
        content = _read(environ, headers, source, in_time)
    except (Refused, ClientGone) as fault:
        refused = fault

    async def read() -> bytes:
        if refused is not None:
            raise refused
        return content

    return read


def _read(environ: Environ, headers: list[Header], source: Source | None, in_time: Callable[[], bool]) -> bytes:
    length: int | None = None
    given: Source = environ["wsgi.input"] if source is None else source
    if "HTTP_TRANSFER_ENCODING" in environ:
        # What the server does not decode has no end that we could see; a length beside it is somebody's trick.
        if not environ.get("wsgi.input_terminated"):
            raise InvalidRequest("this server reads only bodies with a Content-Length")
        given = environ["wsgi.input"]
    else:
        length = refuse_announced(headers)
    try:
        return _read_limited(given, length, in_time)
    except OSError as fault:  # servers and frameworks derive from it what they raise when a client leaves in mid-body
        raise ClientGone from fault


def _read_limited(source: Source, length: int | None, in_time: Callable[[], bool]) -> bytes:
    """Read so many bytes, or to the end where the length is unknown.

    Raises: PayloadTooLarge. BodyTooSlow. ClientGone: it ends early.
    """
    # What returns with what has come, where there is such a thing: a body that drips in is given up in the middle.
    read: Callable[[int], bytes] = getattr(source, "read1", source.read)
    left = MAX_BODY_BYTES + 1 if length is None else length
    chunks: list[bytes] = []
    while left:
        chunk = read(left)
        if not in_time():
            raise BodyTooSlow("the body did not arrive in time")
        if not chunk:
            break
        chunks.append(chunk)
        left -= len(chunk)
    if length is None and not left:
        raise PayloadTooLarge
    if length is not None and left:
        raise ClientGone
    return b"".join(chunks)
