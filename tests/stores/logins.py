"""What the tests of logins in PostgreSQL share: a node's stores, and logins that something else comes between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from os import urandom
from threading import Thread

from sqlalchemy import select

from keyturn.core.login import Admission, Login, admit
from keyturn.core.model import RevokeReason, Session, SessionId, User
from keyturn.core.policy import Policy
from keyturn.ports import Admit
from keyturn.stores.attempts import PostgresAttempts
from keyturn.stores.engine import Engine
from keyturn.stores.revocations import Denied
from keyturn.stores.sql import SqlSessions
from keyturn.stores.throttle import SqlThrottle
from keyturn.stores.users import SqlUsers
from keyturn.testing import CONTACT, refresh_tokens
from keyturn.testing.sessions import DEVICE_ID
from tests.stores.support import open_database, waited_for

LIFETIME = 610.0
OLD, NEW = "hash-1", "hash-2"


class Node:
    """The stores of one node."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.users = SqlUsers(engine, denylist_lifetime=LIFETIME)
        self.denied: list[Denied] = []
        """What it was told of its own revocations."""
        self.sessions = SqlSessions(engine, denylist_lifetime=LIFETIME, heal_time=900.0, on_revoked=self.denied.extend)
        self.throttle = SqlThrottle(engine)
        self.attempts = PostgresAttempts(engine, self.throttle)

    async def live(self, user: User) -> set[SessionId]:
        return {session.id for session in (await self.sessions.list_live(user.id)).sessions}

    async def read(self, *columns: object) -> list[tuple[object, ...]]:
        async with self.engine.autocommit() as connection:
            return [tuple(row) for row in await connection.execute(select(*columns))]  # type: ignore[call-overload]

    async def waits(self) -> None:
        """Wait until somebody waits for a lock."""
        await waited_for(self.engine)


Change = Callable[[Node], Awaitable[object]]


@asynccontextmanager
async def open_node(url: str) -> AsyncGenerator[Node]:
    """Open a node over a database."""
    async with open_database(url) as engine:
        node = Node(engine)
        yield node
        await node.sessions.close()


class Entering:
    """A login on its way in: the store calls it with what it has read, and something else happens then."""

    def __init__(self, user: User, policy: Policy, *between: Callable[[], object]) -> None:
        opening = Login(SessionId(urandom(16)), user.id, DEVICE_ID, None, CONTACT, ("pwd",), remember=True)
        mint = refresh_tokens().minter(urandom(16))
        self._admit: Admit = lambda live, now: admit(live, opening, now, policy, mint)
        self._between = list(between)
        self.calls = 0

    def __call__(self, live: Sequence[Session], now: float) -> Admission:
        self.calls += 1
        admission = self._admit(live, now)
        if self._between:
            self._between.pop(0)()
        return admission


def elsewhere(url: str, change: Change, *, wait: bool = True) -> Thread:
    """Do something on another node, with a loop and connections of its own."""

    async def run() -> None:
        async with open_node(url) as other:
            await change(other)

    thread = Thread(target=lambda: asyncio.run(run()))
    thread.start()
    if wait:
        thread.join()
    return thread


def log_in(user: User, policy: Policy) -> Change:
    """Make a login that nothing comes between."""
    return lambda node: node.sessions.open_with_user(user, Entering(user, policy))


def change_password(user: User) -> Change:
    """Make a password change as the use case does it: first the hash, then the sessions."""

    async def change(node: Node) -> None:
        assert await node.users.replace_password_hash(user.id, OLD, NEW)
        await node.sessions.revoke(user.id, RevokeReason.PASSWORD_CHANGED)

    return change
