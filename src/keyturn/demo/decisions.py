"""What the server decided, kept for the page: the last events of each browser that looks at the demo.

Owns: the ring, who is acting, and the sentence that explains an event. Must not hold: HTTP, decisions.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Final, NamedTuple, TypedDict

from keyturn.core.events import Event, EventType
from keyturn.core.rotation import Outcome

MAX_VIEWERS: Final = 100
MAX_ROWS: Final = 200

_REFRESH_TEXT: Final = {
    Outcome.ROTATE: "The current refresh token. A new child goes into the cookie; it counts once it is used.",
    Outcome.EARLY: "A child younger than the settle time. An access token, but no new cookie: tabs that race converge.",
    Outcome.CONFIRM: "A child older than the settle time. It is the current token from now on, and gets a child.",
    Outcome.TAIL: "The token before the current one, just replaced: a straggler. An access token, no new cookie.",
    Outcome.AHEAD: "A token newer than the database. The session is kept; ask again later.",
    Outcome.REUSE: "A token that was replaced long ago. Somebody has a copy: the session ends, for both.",
    Outcome.ENDED: "The session of this token has ended.",
}
_TEXT: Final = {
    EventType.SIGNED_UP: "A user was created.",
    EventType.SIGNED_IN: "A session was opened.",
    EventType.SIGN_IN_REFUSED: "Unknown, wrong and disabled get the same answer in the same time.",
    EventType.NEW_DEVICE: "This user has never signed in on this device.",
    EventType.REFRESH_REFUSED: "The refresh was refused.",
    EventType.REUSE_DETECTED: "Two parties hold tokens of one session. It was revoked before this answer was built.",
    EventType.DEVICE_DRIFT: "The session is used by another browser than before: worth an event, not a sign-out.",
    EventType.SESSION_ENDED: "A session ended.",
    EventType.PASSWORD_CHANGED: "The password changed. All other sessions of the user ended.",
    EventType.CSRF_REFUSED: "A request that does not come from this page.",
    EventType.THROTTLED: "Too many attempts.",
}


class Acting(NamedTuple):
    """On whose behalf the running code acts."""

    viewer: str
    """The random name of the browser that looks at the page."""
    who: str
    """`you` or `thief`."""


acting: Final[ContextVar[Acting | None]] = ContextVar("keyturn_demo_acting", default=None)


class Row(TypedDict):
    """One line of the list on the page."""

    number: int
    at: float
    who: str
    event: str
    outcome: str
    generation: str
    reason: str
    text: str


class Decisions:
    """An event sink that remembers the last events of each viewer, in memory."""

    def __init__(self) -> None:
        self._rows: OrderedDict[str, deque[Row]] = OrderedDict()
        # From the clock, in milliseconds: a page that stays open over a restart asks for what comes after the last it has seen.
        self._number = time.time_ns() // 1_000_000

    async def emit(self, event: Event) -> None:
        """Remember an event for the viewer on whose behalf it happened; others never see it."""
        now_acting = acting.get()
        if now_acting is None:
            return
        rows = self._rows.setdefault(now_acting.viewer, deque(maxlen=MAX_ROWS))
        self._rows.move_to_end(now_acting.viewer)
        while len(self._rows) > MAX_VIEWERS:
            self._rows.popitem(last=False)
        self._number += 1
        rows.append(_row(self._number, now_acting.who, event))

    def after(self, viewer: str, number: int) -> Sequence[Row]:
        """List a viewer's rows that come after a number, oldest first."""
        return [row for row in self._rows.get(viewer, ()) if row["number"] > number]


def _row(number: int, who: str, event: Event) -> Row:
    outcome = event.data.get("outcome", "")
    text = _REFRESH_TEXT[Outcome(outcome)] if outcome in set(Outcome) else _TEXT.get(event.type, "")
    return Row(
        number=number,
        at=event.at,
        who=who,
        event=event.type.value,
        outcome=outcome,
        generation=event.data.get("generation", ""),
        reason=event.data.get("reason", ""),
        text=text,
    )
