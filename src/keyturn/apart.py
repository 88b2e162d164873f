"""Sessions, users and counters in different places: each asked, one after the other.

Owns: the order, and how long a directory may take. Must not hold: what a user may do (`auth.py`), how a store that has them all asks at once (`stores/`).
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final, TypeVar

from keyturn.background import answer_within
from keyturn.core.errors import InvalidRequest, Refused, Unavailable
from keyturn.core.events import Event
from keyturn.core.model import RevokeReason, SessionId, User, UserId
from keyturn.core.policy import REQUEST_LIMIT
from keyturn.counted import GIVING_BACK, unjudged
from keyturn.ports import (
    Admit,
    Attempt,
    ChooseLimits,
    Credential,
    Judge,
    Opened,
    PasswordChanged,
    Presented,
    SessionStore,
    SessionsWithUsers,
    Throttle,
    UserDirectory,
)

Result = TypeVar("Result")


class Bounded:
    """A directory of the application, awaited only as long as anybody waits for the answer to a request.

    Why: nobody else ends a query that hangs, and each request that waits for one would be held for ever.

    Each method raises `Unavailable` after `patience` seconds. What was to be written may be written all the same, as after
    any fault on the way back. A refusal that is not about what it was asked is a fault of the application.
    """

    patience = REQUEST_LIMIT

    def __init__(self, users: UserDirectory) -> None:
        self._users: Final = users

    async def get(self, user_id: UserId) -> User | None:
        """Read a user. Raises: ValueError: the directory told of another one, who is not to be acted for, nor shown."""
        user = await self._in_time(self._users.get(user_id))
        if user is not None and user.id != user_id:
            raise ValueError(f"the user directory's get({user_id!r}) returned the user {user.id!r}")
        return user

    async def find(self, email: str) -> Credential | None:
        """Find a user."""
        return await self._in_time(self._users.find(email))

    async def create(self, email: str, name: str | None, password_hash: str) -> User | None:
        """Create a user."""
        return await self._in_time(self._users.create(email, name, password_hash))

    async def get_password_hash(self, user_id: UserId) -> str | None:
        """Read a password hash."""
        return await self._in_time(self._users.get_password_hash(user_id))

    async def replace_password_hash(self, user_id: UserId, old: str, new: str) -> bool:
        """Change a password hash."""
        return await self._in_time(self._users.replace_password_hash(user_id, old, new))

    async def _in_time(self, asked: Awaitable[Result]) -> Result:
        try:
            return await answer_within(self.patience, asked, "users")
        except (Unavailable, InvalidRequest):
            raise
        except Refused as refused:
            # Something that it needs was refused to it, by whomever. Who asks us must not be signed out for that.
            raise RuntimeError("the user directory was refused what it needs") from refused


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


class InTurn:
    """`ports.Attempts`, `Openings` and `Accounts` over any directory, sessions with their users, and throttle."""

    def __init__(
        self, sessions: SessionStore, users: UserDirectory, with_users: SessionsWithUsers, throttle: Throttle
    ) -> None:
        self._sessions: Final = sessions
        self._users: Final = users
        self._with_users: Final = with_users
        self._throttle: Final = throttle

    async def begin(self, email: str, device_id: bytes | None, limits: ChooseLimits) -> Attempt:
        """Find the user, then the device, then count."""
        credential = await self._users.find(email)
        known = False
        if device_id is not None:
            # Asked for an unknown user too: the time it takes must not tell.
            known = await self._sessions.knows_device("" if credential is None else credential.user.id, device_id)
        taken = limits(known)
        return Attempt(credential, known, taken, await self._throttle.take(taken))

    async def open_after_attempt(self, user: User, admit: Admit, attempt: Attempt | None, room: int) -> Opened:
        """Give back, if anything was taken, then open."""
        if attempt is None:
            return await self._with_users.open_with_user(user, admit)
        await self._throttle.give_back(attempt.taken)
        # What counts successes: there is none yet.
        kept = [limit for limit in attempt.taken if limit.kept]
        async with unjudged(self._throttle, kept, within=GIVING_BACK):
            return await self._with_users.open_with_user(user, admit)

    async def sign_up(self, email: str, name: str | None, password_hash: str, event: Event) -> User | None:
        """Look, create, then record: what comes between the last two leaves a user in the application's table, and no event.

        Why look, where a unique index decides: of a directory that gets or overwrites whoever is there, the caller would be them.
        """
        if await self._users.find(email) is not None:
            return None
        user = await self._users.create(email, name, password_hash)
        if user is not None:
            await self._sessions.record(event._replace(user_id=user.id))
        return user

    async def change_password(self, user_id: str, old: str, new: str, keep: SessionId, event: Event) -> PasswordChanged:
        """End the other sessions, change, end them again.

        Why before as well: once the password is changed nobody can ask again with the old one, so a fault after it would leave
        those sessions open. Where the change then fails they have ended all the same, as the user wanted.
        """
        reason = RevokeReason.PASSWORD_CHANGED
        ended = await self._sessions.revoke(user_id, reason, keep=keep)
        changed = False
        try:
            changed = await self._users.replace_password_hash(user_id, old, new)
        finally:
            # Who signed in with the old password between the two, also where nobody can tell whether it has changed.
            late = await self._sessions.revoke(user_id, reason, keep=keep)
        if not changed:
            return PasswordChanged(False, (*ended, *late))
        await self._sessions.record(event)
        return PasswordChanged(True, (*ended, *late))
