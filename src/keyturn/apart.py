"""Sessions in our database and users in the application's: both asked, one after the other.

Owns: the order. Must not hold: what a user may do (`auth.py`), how a store that has both reads them at once (`stores/`).
"""

from __future__ import annotations

from typing import Final

from keyturn.core.model import SessionId, User
from keyturn.ports import Admit, Judge, Opened, Presented, SessionStore, UserDirectory


class Apart:
    """`ports.SessionsWithUsers` over a session store and any directory.

    Why the user is always read last: who was disabled before the session was read, or while it was opened, must not get in.
    """

    def __init__(self, sessions: SessionStore, users: UserDirectory) -> None:
        self._sessions: Final = sessions
        self._users: Final = users

    async def present_with_user(self, session_id: SessionId, judge: Judge) -> Presented:
        """Present, then read the user, unless the session is refused anyway."""
        decision = await self._sessions.present(session_id, judge)
        if decision.session is None or not decision.outcome.accepted:
            return Presented(decision, None)
        return Presented(decision, await self._users.get(decision.session.user_id))

    async def open_with_user(self, user: User, admit: Admit) -> Opened:
        """Open, then find the user again."""
        admission = await self._sessions.open(user.id, admit)
        return Opened(admission, await self._users.find(user.email))
