"""The demo's own routes around the real application: the page, what was decided, the thief, the notes.

Owns: the routes and the viewer's cookie. Must not hold: sessions, decisions, the page's files (`page.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from secrets import token_urlsafe
from typing import Final
from urllib.parse import parse_qs

from keyturn.core import cookie
from keyturn.demo.decisions import Acting, Decisions, acting
from keyturn.demo.notes import PATH, REFUSE_PATH, NotesAPI
from keyturn.demo.page import FRESH, HEADERS, File
from keyturn.demo.thief import Thieves
from keyturn.web.asgi import KeyturnASGI, Message, Receive, Scope, Send, read_request, write_response
from keyturn.web.messages import ClientGone
from keyturn.wire import values_of

VIEWER: Final = b"__Host-kt_demo_viewer"
_JSON: Final = b"application/json"
_BODY_TIMEOUT: Final = 10.0


class DemoASGI:
    """Answer the demo's routes and hand everything else to the real application.

    Args:
        application: the real one; it takes the lifespan too.
        page: the files of the page by their paths.
        decisions: the sink whose rows the page shows.
        thieves: who plays with copied cookies.
        notes: the API that only an access token opens.
        facts: what the page says about this demo, such as its times.
    """

    def __init__(
        self,
        application: KeyturnASGI,
        page: Mapping[str, File],
        decisions: Decisions,
        thieves: Thieves,
        notes: NotesAPI,
        facts: Mapping[str, object],
    ) -> None:
        self._application = application
        self._page = page
        self._decisions = decisions
        self._thieves = thieves
        self._notes = notes
        self._facts = facts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take one connection."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        viewer = _viewer(scope)
        acting.set(None if viewer is None else Acting(viewer, "you"))
        method, path = scope["method"], scope["path"]
        if method == "GET" and path in self._page:
            body, kind, caching = self._page[path]
            fresh = [] if viewer is not None or path != "/" else [_new_viewer()]
            await _answer(send, 200, body, kind, [caching, *fresh])
        elif method == "GET" and path == "/demo/decisions":
            await self._list(scope, send, viewer)
        elif method == "POST" and path == "/demo/thief":
            await self._rob(scope, send, viewer)
        elif path in {PATH, REFUSE_PATH}:
            await self._note(scope, receive, send)
        else:
            await self._application(scope, receive, send)

    async def _note(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self._notes.respond(read_request(scope, receive, _BODY_TIMEOUT))
        except ClientGone:
            return
        await write_response(response, scope, send)

    async def _list(self, scope: Scope, send: Send, viewer: str | None) -> None:
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("after", ["0"])[0]
        number = int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 16 else 0
        rows = () if viewer is None else self._decisions.after(viewer, number)
        # Where Vite serves the page, this is the first that it asks of us.
        fresh = [] if viewer is not None else [_new_viewer()]
        await _answer(send, 200, json.dumps({"decisions": list(rows), **self._facts}).encode(), _JSON, [FRESH, *fresh])

    async def _rob(self, scope: Scope, send: Send, viewer: str | None) -> None:
        held = cookie.read(values_of(scope["headers"], b"cookie"), cookie.REFRESH)
        # No other page may start a thief: forms cannot set the header.
        if viewer is None or len(held) != 1 or values_of(scope["headers"], b"x-keyturn") != [b"1"]:
            await _answer(send, 409, b'{"code": "nothing_to_steal"}', _JSON)
            return
        self._thieves.start(viewer, held[0])
        await _answer(send, 202, b'{"thief": "has a copy of your cookie"}', _JSON)


def _viewer(scope: Scope) -> str | None:
    values = cookie.read(values_of(scope["headers"], b"cookie"), VIEWER)
    return values[0].decode("latin-1") if len(values) == 1 and 20 <= len(values[0]) <= 64 else None


def _new_viewer() -> tuple[bytes, bytes]:
    return b"set-cookie", cookie.render(VIEWER, token_urlsafe(24), max_age=None, same_site="Strict")


async def _answer(
    send: Send, status: int, body: bytes, kind: bytes, headers: Iterable[tuple[bytes, bytes]] = (FRESH,)
) -> None:
    length = (b"content-length", str(len(body)).encode("ascii"))
    start: Message = {"type": "http.response.start", "status": status}
    start["headers"] = [(b"content-type", kind), length, *HEADERS, *headers]
    await send(start)
    await send({"type": "http.response.body", "body": body})
