"""A directory in which a test comes between the steps of a login."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from keyturn.ports import Credential
from keyturn.stores.users import SqlUsers


class InterruptedUsers(SqlUsers):
    """The built-in directory, whose next look-up of a credential is followed by whatever the test wants to come between."""

    then: Callable[[Credential], Awaitable[None]] | None = None

    async def find(self, email: str) -> Credential | None:
        credential = await super().find(email)
        then, self.then = self.then, None
        if then is not None and credential is not None:
            await then(credential)
        return credential
