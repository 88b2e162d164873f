"""What every HTTP answer of Keyturn shares, with or without the server: the value, its problem document, its headers.

Owns: Response, how a refusal becomes bytes and a line in the log, how a bearer token and a request id are read. Must not hold: routes, cookies,
anything that needs more than the standard library: a service that only checks tokens loads this file, too.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Sequence
from math import ceil
from random import getrandbits
from ssl import SSLError
from typing import Final, NamedTuple

from keyturn.core.errors import (
    CsrfRefused,
    Forbidden,
    InvalidToken,
    MethodNotAllowed,
    Refused,
    SessionEnded,
    StepUpRequired,
    Unavailable,
)

Header = tuple[bytes, bytes]
"""A name in lower case and a value, as on the wire."""

ERROR_TYPE: Final = "urn:keyturn:error:"
JSON_TYPE: Final = (b"content-type", b"application/json")
PROBLEM_TYPE: Final = (b"content-type", b"application/problem+json")
_GUARDS: Final[tuple[Header, ...]] = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
# Why no-store: an answer with a token or a Set-Cookie must never come out of a shared cache (CVE-2025-48947).
STANDARD_HEADERS: Final[tuple[Header, ...]] = (*_GUARDS, (b"cache-control", b"private, no-store"))

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{8,64}")
_BEARER: Final = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9._~+/=-]+) *")
_REDIS_WORD: Final = re.compile(r"(?:^|caused error: \(['\"])([A-Z]{3,}) ")
"""Its library says of a command in a pipeline which one it was, before what Redis has said."""
# ASCII only, so that no reader disagrees about the encoding; no NaN, which is not JSON.
encode_json: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


class Response(NamedTuple):
    """One answer."""

    status: int
    headers: list[Header]
    body: bytes = b""
    close: bool = False
    """True when the rest of the request was not read, so that the connection is of no further use."""
    cacheable: bool = False
    """True when `headers` says how long the answer may be kept; every other answer may not be kept at all."""


class ScopeMissing(Forbidden):
    """A token without a scope that the route needs; names all that it needs."""

    def __init__(self, scopes: Sequence[str]) -> None:
        super().__init__("the access token lacks a scope that is needed here")
        self.scopes: Final = scopes


class SignInTooWeak(StepUpRequired):
    """A token whose sign-in is too old for the route, or was made in another way than it needs.

    Args:
        max_age: seconds since the sign-in, at most; None when its age does not matter.
        amr: how the sign-in has to be made, RFC 8176 values.
    """

    def __init__(self, max_age: int | None, amr: Sequence[str]) -> None:
        super().__init__()
        self.max_age: Final = max_age
        self.amr: Final = amr


def values_of(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """Return every value of a header, as it came: a framework's own mapping may join, drop or decode them.

    Args:
        headers: names in lower case, as in an ASGI scope.
    """
    # Before Python 3.12 a comprehension is a call of its own, a quarter more for each request.
    values: list[bytes] = []
    for each, value in headers:
        if each == name:
            values.append(value)
    return values


def bearer(values: Sequence[bytes]) -> str:
    """Return the access token of the Authorization header; a query, a form or a cookie is never looked at.

    Args:
        values: every Authorization header.

    Raises: InvalidToken: no such header, more than one, or another form than `Bearer <token>`.
    Spec: RFC 6750 2.1 (the header), 2 ("MUST NOT use more than one method").
    """
    if len(values) != 1:
        raise InvalidToken("authorization_header")
    # As every client writes it: the pattern would take as long as the whole check of a token that was seen before. What is
    # no token68 is no JWS either, and whoever judges tokens refuses it.
    text = values[0].decode("latin-1")
    token = text[7:]
    if text[:7] != "Bearer " or not token or " " in token or not token.isascii():
        match = _BEARER.fullmatch(text)
        if match is None:
            raise InvalidToken("authorization_header")
        token = match[1]
    return token


def is_for_others(values: Sequence[bytes]) -> bool:
    """Say whether a request has no credentials but of other schemes, such as Basic: they are somebody else's to judge.

    Args:
        values: every Authorization header.
    """
    return all(value.partition(b" ")[0].lower() not in {b"", b"bearer"} for value in values)


def request_id(values: Sequence[bytes]) -> str:
    """Take over a well-formed X-Request-ID, so that a proxy's logs and ours can be joined; make one otherwise."""
    if len(values) == 1 and _REQUEST_ID.fullmatch(values[0]) is not None:
        return values[0].decode("ascii")
    # Unique and no more: it opens nothing. The system's generator would be a system call in every request.
    return f"{getrandbits(128):032x}"


def problem(refused: Refused, request_id: str) -> Response:
    """Answer with an RFC 9457 problem document.

    Why so little: `detail` is written by us for the developer who reads it; what went wrong inside is in the log, under
    the same request id.
    """
    headers: list[Header] = [PROBLEM_TYPE]
    document: dict[str, object] = {
        "type": ERROR_TYPE + refused.code,
        "title": refused.title,
        "status": refused.status,
        "detail": refused.detail or refused.title,
        "code": refused.code,
        "request_id": request_id,
    }
    if isinstance(refused, SessionEnded):
        document["reason"] = refused.reason.on_the_wire
    elif isinstance(refused, MethodNotAllowed):
        headers.append((b"allow", refused.allow.encode("ascii")))
    elif (challenge := _challenge(refused)) is not None:
        headers.append((b"www-authenticate", challenge.encode("ascii")))
    if refused.retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(1, ceil(refused.retry_after))))
    return Response(refused.status, headers, encode_json(document).encode("ascii"))


def driver_error(error: BaseException) -> tuple[BaseException, str | None]:
    """Return what the driver raised, from behind a fault, and its SQLSTATE, result code or OpenSSL's reason, or the word of Redis that has no class."""
    while isinstance(error, Unavailable) and error.__cause__ is not None:
        error = error.__cause__
    origin = getattr(error, "orig", None) or error
    code = getattr(origin, "sqlite_errorname", None) or getattr(origin, "sqlstate", None)
    if code is None and isinstance(origin.__context__, OSError):
        # Redis' library has one name for all that can be wrong with the way to a server.
        origin = origin.__context__
    if type(origin).__name__ == "ResponseError" and (word := _REDIS_WORD.search(str(origin))):
        code = word[1]
    return origin, getattr(origin, "reason", None) if isinstance(origin, SSLError) else code


def name_of(error: BaseException) -> str:
    """Name what is behind a fault, for a log: its class and the driver's code.

    Why not its text: a driver quotes addresses and statements in it.
    """
    origin, code = driver_error(error)
    return type(origin).__name__ if code is None else f"{type(origin).__name__} {code}"


def log_refusal(logger: logging.Logger, refused: Refused, request_id: str, **more: str) -> None:
    """Log why a request was refused: the answer does not say it.  Spec: OWASP ASVS 5.0 16.3.2."""
    fields = {"code": refused.code, "status": refused.status, "request_id": request_id, **more}
    # Most of it in the text as well: what a host has set up for its log may show nothing else.
    level, text = logging.INFO, f"refused: {refused.code}"
    if isinstance(refused, InvalidToken | CsrfRefused):
        fields["why"] = str(refused.reason)
        text = f"{text} ({fields['why']})"
    elif isinstance(refused, Unavailable):
        fields |= {"dependency": refused.dependency, "fault": name_of(refused)}
        level, text = logging.WARNING, f"refused: {refused.dependency} ({fields['fault']})"
    logger.log(level, text, extra=fields)


def _challenge(refused: Refused) -> str | None:
    """Say what a request would need. No description: which check failed is nobody's business.

    Spec: RFC 6750 3.1; RFC 9470 3. `amr_values` is ours: there is no standard name for it.
    """
    match refused:
        case InvalidToken():
            return 'Bearer error="invalid_token"'
        case ScopeMissing():
            return f'Bearer error="insufficient_scope", scope="{" ".join(refused.scopes)}"'
        case SignInTooWeak():
            age = "" if refused.max_age is None else f', max_age="{refused.max_age}"'
            amr = f', amr_values="{" ".join(refused.amr)}"' if refused.amr else ""
            return f'Bearer error="{refused.code}"{age}{amr}'
        case _:
            return None


def finish(response: Response, request_id: str) -> Response:
    """Add the headers that every answer carries."""
    headers = response.headers
    headers.extend(_GUARDS if response.cacheable else STANDARD_HEADERS)
    headers.append((b"x-request-id", request_id.encode("ascii")))
    # Spec: RFC 9110 8.6: no Content-Length on a 204 or a 304.
    if response.status not in {204, 304}:
        headers.append((b"content-length", b"%d" % len(response.body)))
    return response
