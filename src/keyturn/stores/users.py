"""The built-in directory of users: one table, for applications that bring none of their own.

Owns: reading and writing `keyturn_users`. Must not hold: password hashing (`tokens/password.py`), what a disabled user may
do (`auth.py`), how sessions end (`revoking.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from unicodedata import category

from sqlalchemy import delete, select, text, update

from keyturn.core.errors import InvalidRequest
from keyturn.core.events import Event, EventType
from keyturn.core.model import RevokeReason, SessionId, User, UserId
from keyturn.email import normalise_email
from keyturn.ports import Clock, Credential, PasswordChanged
from keyturn.stores.engine import AsyncConnection, Engine
from keyturn.stores.event_log import write_events
from keyturn.stores.group_commit import Gatherer, Group
from keyturn.stores.revoking import NOTHING, OnRevoked, Revoked, lock_user, revoke_sessions, tell_denied
from keyturn.stores.schema import users
from keyturn.stores.user_rows import (
    CREDENTIAL_COLUMNS,
    USER_COLUMNS,
    credential_of,
    insert_users,
    new_id,
    row_of,
    user_of,
)

MAX_NAME = 200
"""Characters, as on the wire."""

_GET_POSTGRES = f"SELECT {USER_COLUMNS} FROM keyturn_users WHERE id = ANY($1::text[])"  # noqa: S608 - no input in it
_GET_SQLITE = f"SELECT {USER_COLUMNS} FROM keyturn_users WHERE id IN (SELECT value FROM json_each(?))"  # noqa: S608 - as above
_FIND_POSTGRES = f"SELECT {CREDENTIAL_COLUMNS} FROM keyturn_users WHERE email_key = $1"  # noqa: S608 - as above
_FIND_SQLITE = f"SELECT {CREDENTIAL_COLUMNS} FROM keyturn_users WHERE email_key = ?"  # noqa: S608 - as above


class SqlUsers:
    """Users in the database: `ports.UserDirectory`, and their administration.

    Every method raises `Unavailable` when the database is at fault.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        denylist_lifetime: float,
        on_revoked: OnRevoked | None = None,
        clock: Clock | None = None,
        group_size: int = 256,
    ) -> None:
        """Set up.

        Args:
            denylist_lifetime: seconds until the last access token of a session is dead.
            on_revoked: hears which sessions have ended with a user.
            clock: stands in for the database's, in tests.
            group_size: reads that share a query; 1 switches that off.
        """
        self._engine = engine
        self._on_revoked = on_revoked
        self._denylist_lifetime = denylist_lifetime
        self._clock = clock
        self._reads: Gatherer[UserId, User | None] = Gatherer(self._read, size=group_size)

    async def get(self, user_id: UserId) -> User | None:
        """Read a user; None when deleted. Concurrent calls share one query."""
        return await self._reads.call(user_id)

    async def find(self, email: str) -> Credential | None:
        """Find a user by e-mail address, normalised here, without regard to case.

        Raises:
            InvalidRequest: it is not an e-mail address.
        """
        key = normalise_email(email).key
        async with self._engine.lane() as lane:
            rows = await lane.fetch((_FIND_POSTGRES if lane.postgres else _FIND_SQLITE, (key,)))
        return credential_of(rows[0]) if rows else None

    async def create(self, email: str, name: str | None, password_hash: str) -> User | None:
        """Create a user; None when the address is taken in any case, decided by the unique index.

        Raises:
            InvalidRequest: the address is not one, or the name holds what no database takes.
        """
        return await self._create(email, name, password_hash)

    async def sign_up(self, email: str, name: str | None, password_hash: str, event: Event) -> User | None:
        """Do as `create`, and record the event in the same transaction: see `ports.Accounts`."""
        return await self._create(email, name, password_hash, event)

    async def _create(self, email: str, name: str | None, password_hash: str, *events: Event) -> User | None:
        address = normalise_email(email)
        user = User(new_id(), address.display, storable_name(name))

        async def work(connection: AsyncConnection) -> bool:
            now = await self._engine.read_now(connection, self._clock)
            row = row_of(user.id, address, user.name, password_hash, now)
            insert = insert_users(postgres=self._engine.postgres).values(row)
            statement = insert.on_conflict_do_nothing(index_elements=["email_key"])
            created = (await connection.execute(statement.returning(users.c.id))).one_or_none() is not None
            if created:
                await write_events(connection, [event._replace(user_id=user.id) for event in events])
            return created

        return user if await self._engine.run(work) else None

    async def get_password_hash(self, user_id: UserId) -> str | None:
        """Read the user's password hash; None: no such user, or one without a password."""
        async with self._engine.autocommit() as connection:
            found = await connection.execute(select(users.c.password_hash).where(users.c.id == user_id))
            value: str | None = found.scalar_one_or_none()
            return value

    async def replace_password_hash(self, user_id: UserId, old: str, new: str) -> bool:
        """Set the hash if it still is `old`; of two changes that race, one gets False."""
        return await self._engine.run(lambda connection: _replace_hash(connection, user_id, old, new))

    async def change_password(
        self, user_id: UserId, old: str, new: str, keep: SessionId, event: Event
    ) -> PasswordChanged:
        """Change the hash, end the other sessions and record the event in one transaction: see `ports.Accounts`."""

        async def work(connection: AsyncConnection) -> Revoked | None:
            await lock_user(connection, user_id)
            now = await self._engine.read_now(connection, self._clock)
            if not await _replace_hash(connection, user_id, old, new):
                return None
            await write_events(connection, [event])
            return await self._end_sessions(connection, user_id, now, RevokeReason.PASSWORD_CHANGED, keep)

        revoked = await self._engine.run(work)
        done = self._tell(revoked)
        return PasswordChanged(done, () if revoked is None else revoked.session_ids)

    async def set_password(self, user_id: UserId, new: str, data: Mapping[str, str]) -> bool:
        """Set the hash whatever it was, end all sessions and record the event, in one transaction. False: no such user.

        For an administrator: nobody has proven the old password, so no session is kept. A login that has proven it and is not
        in yet finds another hash when it opens its session, and a password change another than it has checked.

        Args: data: of the event.
        """

        async def work(connection: AsyncConnection) -> Revoked | None:
            await lock_user(connection, user_id)
            now = await self._engine.read_now(connection, self._clock)
            statement = update(users).where(users.c.id == user_id).values(password_hash=new).returning(users.c.id)
            if (await connection.execute(statement)).one_or_none() is None:
                return None
            await write_events(connection, [Event(EventType.PASSWORD_CHANGED, now, user_id, data=data)])
            return await self._end_sessions(connection, user_id, now, RevokeReason.PASSWORD_CHANGED)

        return self._tell(await self._engine.run(work))

    async def list_users(self, *, after: UserId | None = None, limit: int = 100) -> Sequence[User]:
        """List users in the order of their ids, from the one after `after`."""
        statement = select(text(USER_COLUMNS)).select_from(users).order_by(users.c.id).limit(limit)
        if after is not None:
            statement = statement.where(users.c.id > after)
        async with self._engine.autocommit() as connection:
            return [user_of(row) for row in await connection.execute(statement)]

    async def set_disabled(self, user_id: UserId, *, disabled: bool) -> bool:
        """Disable or enable; disabling ends all sessions in the same transaction. False: no such user."""

        async def work(connection: AsyncConnection) -> Revoked | None:
            await lock_user(connection, user_id)
            now = await self._engine.read_now(connection, self._clock)
            found = (await connection.execute(select(users.c.disabled_at).where(users.c.id == user_id))).one_or_none()
            if found is None:
                return None
            if (found[0] is not None) != disabled:
                at = now if disabled else None
                await connection.execute(update(users).where(users.c.id == user_id).values(disabled_at=at))
                kind = EventType.USER_DISABLED if disabled else EventType.USER_ENABLED
                await write_events(connection, [Event(kind, now, user_id)])
            return await self._end_sessions(connection, user_id, now) if disabled else NOTHING

        return self._tell(await self._engine.run(work))

    async def delete(self, user_id: UserId) -> bool:
        """Delete the user and end all their sessions in the same transaction. False: no such user."""

        async def work(connection: AsyncConnection) -> Revoked | None:
            await lock_user(connection, user_id)
            now = await self._engine.read_now(connection, self._clock)
            statement = delete(users).where(users.c.id == user_id).returning(users.c.id)
            if (await connection.execute(statement)).one_or_none() is None:
                return None
            await write_events(connection, [Event(EventType.USER_DELETED, now, user_id)])
            return await self._end_sessions(connection, user_id, now)

        return self._tell(await self._engine.run(work))

    async def _end_sessions(
        self,
        connection: AsyncConnection,
        user_id: UserId,
        now: float,
        reason: RevokeReason = RevokeReason.USER_DISABLED,
        keep: SessionId | None = None,
    ) -> Revoked:
        return await revoke_sessions(
            connection,
            user_id,
            reason,
            now,
            keep=keep,
            denylist_lifetime=self._denylist_lifetime,
        )

    def _tell(self, revoked: Revoked | None) -> bool:
        if revoked is not None:
            tell_denied(self._on_revoked, revoked.denied)
        return revoked is not None

    async def _read(self, group: Group[UserId, User | None]) -> None:
        ids = sorted(set(group.items))
        async with self._engine.lane() as lane:
            rows = await lane.fetch((_GET_POSTGRES, (ids,)) if lane.postgres else (_GET_SQLITE, (json.dumps(ids),)))
        found = {row[0]: user_of(row) for row in rows}
        for index, user_id in enumerate(group.items):
            group.answer(index, found.get(user_id))


async def _replace_hash(connection: AsyncConnection, user_id: UserId, old: str, new: str) -> bool:
    unchanged = update(users).where(users.c.id == user_id, users.c.password_hash == old)
    found = await connection.execute(unchanged.values(password_hash=new).returning(users.c.id))
    return found.one_or_none() is not None


def storable_name(name: str | None) -> str | None:
    """Refuse what PostgreSQL cannot store, before it is taken for a fault, and what nobody is called."""
    if name is not None and any(category(character) in {"Cc", "Cs"} for character in name):
        raise InvalidRequest("name: contains control characters")
    if name is not None and len(name) > MAX_NAME:
        raise InvalidRequest(f"name: at most {MAX_NAME} characters")
    return name
