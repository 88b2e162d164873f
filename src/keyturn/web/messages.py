"""HTTP as values: the Request an endpoint reads and the Response it returns.

Owns: how headers, addresses and bodies are read, and every way of refusing them. Must not hold: routes, frameworks,
what a request means (`endpoints.py`).

Nothing here believes `Host`, `X-Forwarded-Host`, `X-HTTP-Method-Override` or `X-Original-URL`: nobody reads them, but for the
first in development (`WebConfig.own_origin_from_host`).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError

from keyturn.core import cookie
from keyturn.core.errors import InvalidRequest, InvalidToken, UnsupportedMediaType
from keyturn.tokens.jws import JsonObject, decode_json_object
from keyturn.wire import Header as Header
from keyturn.wire import Response as Response
from keyturn.wire import bearer as bearer
from keyturn.wire import request_id as request_id

MAX_BODY_BYTES: Final = 16 * 1024
"""Two of the longest passwords take half of it in UTF-8, and no body of the contract holds more of them."""
MAX_USER_AGENT: Final = 512
"""Characters that are kept of a User-Agent; the rest is cut off."""

_MAX_ADDRESS: Final = 64
"""Characters; the longest address has 45, its brackets and port 8."""
_JSON_TYPE: Final = re.compile(rb'application/json(?:[ \t]*;[ \t]*charset="?utf-8"?)?', re.IGNORECASE)
_PLAIN_JSON: Final = (b"application/json",)
_WITH_PORT: Final = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::\d{1,5})?|([0-9.]+):\d{1,5}")

ReadBody = Callable[[], Awaitable[bytes]]
"""Reads the whole body. Raises: PayloadTooLarge. InvalidRequest: it is too slow, among other things. ClientGone."""
Body = TypeVar("Body", bound=BaseModel)


class ClientGone(Exception):
    """The client went away before its request was complete, or judged: there is nobody to answer."""


class BodyTooSlow(InvalidRequest):
    """The body did not arrive in time; on the wire an `invalid_request` like any other."""


class Request:
    """One request, undecoded: endpoints ask for what they need.

    Args:
        method: upper case, as sent; no header overrides it.
        path: decoded, without the query, which no route of ours reads.
        headers: names in lower case, raw values, in order.
        body: the body, or what reads it.
        peer: the address of the TCP peer, or None for a local socket.
        scheme: `http` or `https`, as the server saw it.
        ensure_awaited: raises ClientGone or Unavailable when nobody waits for the answer any more; `bool` never does.
            Why: a request that lay in the queue of a frozen or starting node for longer than the settle time carries a
            token that is reuse by now. Whoever sent it gave up long ago and has gone on; judging it would sign them out.
        parameter: the value of the route's one path parameter.
    """

    __slots__ = ("_all", "_body", "_headers", "ensure_awaited", "id", "method", "parameter", "path", "peer", "scheme")

    def __init__(
        self,
        method: str,
        path: str,
        headers: Sequence[Header],
        body: bytes | ReadBody,
        *,
        peer: str | None = None,
        scheme: str = "https",
        ensure_awaited: Callable[[], object] = bool,
        parameter: str = "",
    ) -> None:
        self.method: Final = method
        self.path: Final = path
        self._headers: Final = dict(headers)
        # A header that stands there twice is rare, and then the dictionary has forgotten one.
        self._all: Final = headers if len(self._headers) < len(headers) else None
        self._body = body
        self.peer: Final = peer
        self.scheme: Final = scheme
        self.ensure_awaited: Final = ensure_awaited
        self.parameter = parameter
        self.id: Final = request_id(self.values(b"x-request-id"))

    def values(self, name: bytes) -> Sequence[bytes]:
        """Return every value of a header."""
        if self._all is not None:
            return [value for other, value in self._all if other == name]
        value = self._headers.get(name)
        return () if value is None else (value,)

    def raw(self, name: bytes) -> bytes | None:
        """Return the value of a header that stands there exactly once, else None."""
        if self._all is not None and len(self.values(name)) != 1:
            return None
        return self._headers.get(name)

    def only(self, name: bytes) -> str | None:
        """Do as `raw`, as text."""
        return text_of(self.raw(name))

    def cookie(self, name: bytes) -> Sequence[bytes]:
        """Return every value of a cookie, from the raw headers."""
        return cookie.read(self.values(b"cookie"), name)

    def bearer(self) -> str:
        """Return the access token of the Authorization header. Raises: InvalidToken."""
        return bearer(self.values(b"authorization"))

    def user_agent(self) -> str:
        """Return the User-Agent for people to read: cut off, without control characters; empty when unknown.

        Why: it is stored, listed and logged; control characters in it forge log lines and move terminal cursors.
        """
        return _readable((self.raw(b"user-agent") or b"")[:MAX_USER_AGENT])

    def client_address(self, trusted_proxies: int) -> str:
        """Return the address of the client as the outermost trusted proxy saw it; empty when unknown.

        Why: whoever calls may send any X-Forwarded-For. Each proxy appends the address it was called from, so only
        as many values from the right as there are proxies of ours were written by one of them.
        Spec: RFC 7239 8.1; OWASP ASVS 5.0 4.1.3.

        Args:
            trusted_proxies: how many of our own proxies every request passes.
        """
        peer = _address(self.peer or "") or ""
        if trusted_proxies < 1:
            return peer
        hops = b",".join(self.values(b"x-forwarded-for")).split(b",")
        if len(hops) < trusted_proxies:
            return peer
        hop = hops[-trusted_proxies].decode("latin-1").strip()
        # One that is not written by a proxy of ours, as too few were passed, is as long as whoever calls likes: it is not kept.
        return (_address(hop) if len(hop) <= _MAX_ADDRESS else None) or peer

    async def body(self) -> bytes:
        """Read the whole body; an empty one needs no content type.

        Raises: PayloadTooLarge, UnsupportedMediaType, InvalidRequest: it arrives too slowly.
        Spec: OWASP ASVS 5.0 3.5.2 (a form cannot send application/json; nothing else is read as JSON).
        """
        # A type that is named is judged before the body is read, and whether there is one or not.
        types = self.values(b"content-type")
        if types and types != _PLAIN_JSON and (len(types) != 1 or _JSON_TYPE.fullmatch(types[0].strip()) is None):
            raise UnsupportedMediaType
        if not isinstance(self._body, bytes):
            self._body = await self._body()
        content = self._body
        if content and not types:
            raise UnsupportedMediaType
        return content

    async def json(self) -> JsonObject:
        """Read the body as one strict JSON object; an empty body is an empty object.

        Raises: as `body`; InvalidRequest: not UTF-8, not JSON, not an object, a member twice, NaN, or nested too deep.
        Spec: RFC 8259 4 (names SHOULD be unique: two readers may pick different ones).
        """
        content = await self.body()
        return parse_json(content) if content else {}

    async def model(self, shape: type[Body]) -> Body:
        """Read the body into a pydantic model.

        Raises: as `json`; InvalidRequest: a member is missing, unknown or of the wrong type.
        """
        members = await self.json()
        problem = ""
        try:
            return shape.model_validate(members)
        except ValidationError as fault:
            problem = _describe(fault)
        # Outside the except clause: the validation error holds what was sent, passwords included.
        raise InvalidRequest(problem)


def parse_json(content: bytes) -> JsonObject:
    """Read one JSON object strictly.

    Raises: InvalidRequest: see `Request.json`.
    """
    try:
        return decode_json_object(content)
    except InvalidToken:
        pass
    raise InvalidRequest("the body is not one strict JSON object")


def text_of(value: bytes | None) -> str | None:
    """Decode a header's value; every byte is a character."""
    return None if value is None else value.decode("latin-1")


# Browsers of one version all send the same, and a browser that comes back does.
@lru_cache(maxsize=4096)
def _readable(user_agent: bytes) -> str:
    return readable(user_agent.decode("latin-1"))


def readable(text: str) -> str:
    """Replace control characters: a text of a stranger's that is stored, listed and logged."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


# The peers are a few proxies, or people who come again every few minutes; parsing takes longer than most of a request.
@lru_cache(maxsize=4096)
def _address(text: str) -> str | None:
    """Normalise an address with or without port; None for anything else, zone ids included."""
    if match := _WITH_PORT.fullmatch(text):
        text = match[1] or match[2]
    if "%" in text:
        return None
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


def _describe(fault: ValidationError) -> str:
    """Say which members are wrong and how, without repeating anything that was sent."""
    parts: list[str] = []
    for error in fault.errors(include_url=False, include_context=False, include_input=False)[:5]:
        if error["type"] == "extra_forbidden":
            parts.append("an unknown member")
        else:
            parts.append(f"{'.'.join(str(step) for step in error['loc'])}: {error['msg']}")
    return "; ".join(parts)
