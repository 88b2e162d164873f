"""A directory in which a test comes between the steps of a login, or of a change of the password."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from keyturn.core.model import UserId
from keyturn.ports import Credential
from keyturn.stores.users import SqlUsers


class InterruptedUsers(SqlUsers):
    """The built-in directory, whose next look-up of a credential is followed by whatever the test wants to come between."""

    then: Callable[[Credential], Awaitable[None]] | None = None
    before_change: Callable[[], Awaitable[object]] | None = None
    """What comes before the next change of a hash."""

    async def find(self, email: str) -> Credential | None:
        credential = await super().find(email)
        then, self.then = self.then, None
        if then is not None and credential is not None:
            await then(credential)
        return credential

    async def replace_password_hash(self, user_id: UserId, old: str, new: str) -> bool:
        before, self.before_change = self.before_change, None
        if before is not None:
            await before()
        return await super().replace_password_hash(user_id, old, new)
