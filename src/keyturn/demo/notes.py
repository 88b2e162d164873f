"""The demo's own API: notes that only an access token reads. It stands for the API of your application.

Owns: the notes, in memory, and which access tokens it plays to refuse. Must not hold: sessions, cookies.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final, TypedDict

from keyturn.core.errors import InvalidRequest, InvalidToken, MethodNotAllowed, Refused
from keyturn.core.model import Principal
from keyturn.web import answers
from keyturn.web.messages import Request, Response

PATH: Final = "/demo/notes"
REFUSE_PATH: Final = "/demo/notes/refuse"
MAX_USERS: Final = 100
MAX_NOTES: Final = 20
MAX_TEXT: Final = 200
_MAX_REFUSED: Final = 1000


class Note(TypedDict):
    """One note."""

    number: int
    at: float
    text: str


class NotesAPI:
    """Answer the notes' routes; no session is looked up, the access token says it all.

    Args:
        authenticate: turns an access token into a principal, or raises InvalidToken.
    """

    def __init__(self, authenticate: Callable[[str], Principal]) -> None:
        self._authenticate = authenticate
        self._notes: OrderedDict[str, deque[Note]] = OrderedDict()
        self._refused: deque[str] = deque(maxlen=_MAX_REFUSED)
        self._number = 0

    async def respond(self, request: Request) -> Response:
        """Answer one request."""
        try:
            response = await self._route(request)
        except Refused as refused:
            response = answers.problem(refused, request.id)
        return answers.finish(response, request.id)

    async def _route(self, request: Request) -> Response:
        allowed = ("POST",) if request.path == REFUSE_PATH else ("GET", "POST")
        if request.method not in allowed:
            raise MethodNotAllowed(", ".join(allowed))
        principal = self._authenticate(request.bearer())
        if principal.token_id in self._refused:
            raise InvalidToken("refused_by_the_demo")
        if request.path == REFUSE_PATH:
            # From now on this token is as good as expired: the next requests show what a client makes of it.
            self._refused.append(principal.token_id)
            return answers.nothing()
        if request.method == "GET":
            return answers.ok({"notes": list(self._notes.get(principal.user_id, ()))})
        return answers.ok(self._add(principal, await request.json()), status=201)

    def _add(self, principal: Principal, members: dict[str, object]) -> Note:
        text = members.get("text")
        if set(members) != {"text"} or not isinstance(text, str) or not 1 <= len(text) <= MAX_TEXT:
            raise InvalidRequest(f"text: 1 to {MAX_TEXT} characters")
        self._number += 1
        note = Note(number=self._number, at=time.time(), text=text)
        self._notes.setdefault(principal.user_id, deque(maxlen=MAX_NOTES)).appendleft(note)
        self._notes.move_to_end(principal.user_id)
        while len(self._notes) > MAX_USERS:
            self._notes.popitem(last=False)
        return note
