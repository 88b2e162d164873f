"""The demo's own routes around the real application: the page, what was decided, the thief.

Owns: static files with their strict headers, and the viewer's cookie. Must not hold: sessions, decisions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib.resources import files
from secrets import token_urlsafe
from typing import Final
from urllib.parse import parse_qs

from keyturn.core import cookie
from keyturn.demo.decisions import Acting, Decisions, acting
from keyturn.demo.thief import Thieves
from keyturn.web.asgi import KeyturnASGI, Message, Receive, Scope, Send

VIEWER: Final = b"__Host-kt_demo_viewer"
_JSON: Final = b"application/json"
_FILES: Final = {
    "/": ("index.html", b"text/html; charset=utf-8"),
    "/demo/demo.css": ("demo.css", b"text/css; charset=utf-8"),
    "/demo/demo.js": ("demo.js", b"text/javascript; charset=utf-8"),
    "/favicon.ico": ("icon.svg", b"image/svg+xml"),
}
_HEADERS: Final = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; "
        b"form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    (b"cache-control", b"private, no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class DemoASGI:
    """Answer the demo's routes and hand everything else to the real application.

    Args:
        application: the real one; it takes the lifespan too.
        decisions: the sink whose rows the page shows.
        thieves: who plays with copied cookies.
        facts: what the page says about this demo, such as its times.
    """

    def __init__(
        self, application: KeyturnASGI, decisions: Decisions, thieves: Thieves, facts: Mapping[str, object]
    ) -> None:
        self._application = application
        self._decisions = decisions
        self._thieves = thieves
        self._facts = facts
        static = files("keyturn.demo") / "static"
        self._static = {path: ((static / name).read_bytes(), kind) for path, (name, kind) in _FILES.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take one connection."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        viewer = _viewer(scope)
        acting.set(None if viewer is None else Acting(viewer, "you"))
        method, path = scope["method"], scope["path"]
        if method == "GET" and path in self._static:
            body, kind = self._static[path]
            fresh = [] if viewer is not None or path != "/" else [_new_viewer()]
            await _answer(send, 200, body, kind, fresh)
        elif method == "GET" and path == "/demo/decisions":
            await self._list(scope, send, viewer)
        elif method == "POST" and path == "/demo/thief":
            await self._rob(scope, send, viewer)
        else:
            await self._application(scope, receive, send)

    async def _list(self, scope: Scope, send: Send, viewer: str | None) -> None:
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("after", ["0"])[0]
        number = int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 16 else 0
        rows = () if viewer is None else self._decisions.after(viewer, number)
        await _answer(send, 200, json.dumps({"decisions": list(rows), **self._facts}).encode(), _JSON)

    async def _rob(self, scope: Scope, send: Send, viewer: str | None) -> None:
        held = cookie.read(_all(scope, b"cookie"), cookie.REFRESH)
        # No other page may start a thief: forms cannot set the header.
        if viewer is None or len(held) != 1 or _all(scope, b"x-keyturn") != [b"1"]:
            await _answer(send, 409, b'{"code": "nothing_to_steal"}', _JSON)
            return
        self._thieves.start(viewer, held[0])
        await _answer(send, 202, b'{"thief": "has a copy of your cookie"}', _JSON)


def _all(scope: Scope, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key == name]


def _viewer(scope: Scope) -> str | None:
    values = cookie.read(_all(scope, b"cookie"), VIEWER)
    return values[0].decode("latin-1") if len(values) == 1 and 20 <= len(values[0]) <= 64 else None


def _new_viewer() -> tuple[bytes, bytes]:
    return b"set-cookie", cookie.render(VIEWER, token_urlsafe(24), max_age=None, same_site="Strict")


async def _answer(
    send: Send, status: int, body: bytes, kind: bytes, headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    length = (b"content-length", str(len(body)).encode("ascii"))
    start: Message = {"type": "http.response.start", "status": status}
    start["headers"] = [(b"content-type", kind), length, *_HEADERS, *headers]
    await send(start)
    await send({"type": "http.response.body", "body": body})
