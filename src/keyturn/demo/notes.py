"""The demo's own API: notes that only an access token reads. It stands for the API of your application.

Owns: the notes, in memory, and which access tokens it plays to refuse. Must not hold: sessions, cookies.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypedDict

from keyturn.core.errors import InvalidRequest, InvalidToken, MethodNotAllowed, Refused
from keyturn.core.model import Principal
from keyturn.web import answers
from keyturn.web.messages import Request, Response

PATH: Final = "/demo/notes"
REFUSE_PATH: Final = "/demo/notes/refuse"
MAX_USERS: Final = 100
"""Users whose notes are kept; and sessions whose token is refused."""
MAX_NOTES: Final = 20
MAX_TEXT: Final = 200


class Note(TypedDict):
    """One note."""

    number: int
    at: float
    text: str


@dataclass(slots=True)
class Refusal:
    """The access token of a session that is refused, and how often that has happened."""

    token_id: str
    count: int = 0


class NotesAPI:
    """Answer the notes' routes; no session is looked up, the access token says it all.

    Args:
        authenticate: turns an access token into a principal, or raises InvalidToken.
    """

    def __init__(self, authenticate: Callable[[str], Principal]) -> None:
        self._authenticate = authenticate
        self._notes: OrderedDict[str, deque[Note]] = OrderedDict()
        self._refusals: OrderedDict[bytes, Refusal] = OrderedDict()
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
        refusal = self._refusals.get(principal.session_id)
        if refusal is not None and refusal.token_id == principal.token_id:
            refusal.count += 1
            raise InvalidToken("refused_by_the_demo")
        if request.path == REFUSE_PATH:
            # From now on this token is as good as expired: the next requests show what a client makes of it.
            self._refusals[principal.session_id] = Refusal(principal.token_id)
            _keep_newest(self._refusals)
            return answers.nothing()
        if request.method == "GET":
            notes = list(self._notes.get(principal.user_id, ()))
            return answers.ok({"notes": notes, "refused": 0 if refusal is None else refusal.count})
        return answers.ok(self._add(principal, await request.json()), status=201)

    def _add(self, principal: Principal, members: dict[str, object]) -> Note:
        text = members.get("text")
        if set(members) != {"text"} or not isinstance(text, str) or not 1 <= len(text) <= MAX_TEXT:
            raise InvalidRequest(f"text: 1 to {MAX_TEXT} characters")
        self._number += 1
        note = Note(number=self._number, at=time.time(), text=text)
        self._notes.setdefault(principal.user_id, deque(maxlen=MAX_NOTES)).appendleft(note)
        self._notes.move_to_end(principal.user_id)
        _keep_newest(self._notes)
        return note


def _keep_newest(entries: OrderedDict[Any, Any]) -> None:
    while len(entries) > MAX_USERS:
        entries.popitem(last=False)
