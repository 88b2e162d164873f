"""Users who come from elsewhere, many in one transaction.

Owns: writing them, and telling who of them is there already. Must not hold: what is taken (`user_lines.py`), files.

Why an event for each: without it nobody could tell from the log how an account came to be, and it is a row that is pruned
as any other. It also tells a user who came in by an earlier run, and has signed in since, which changes the hash, from somebody who
has signed up with that address meanwhile: the latter is not whom the file means, and may be anybody.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from enum import Enum, auto
from typing import NamedTuple

from sqlalchemy import ColumnElement, select

from keyturn.core.events import Event, EventType
from keyturn.core.model import UserId
from keyturn.core.secret import redacted
from keyturn.email import Email
from keyturn.stores.engine import AsyncConnection, Engine
from keyturn.stores.event_log import event_rows, write_events
from keyturn.stores.schema import events, users
from keyturn.stores.user_rows import insert_users, new_id, row_of


class NewUser(NamedTuple):
    """A user who is to be brought in."""

    email: Email
    name: str | None = None
    password_hash: str | None = None
    id: UserId | None = None
    """None: one is made, as at a sign-up."""
    disabled: bool = False

    def __repr__(self) -> str:
        """Show nothing of it."""
        return redacted(self)


class Met(Enum):
    """What a new user met in the database."""

    NOBODY = auto()
    """They are in it now, unless it was only asked."""
    THEMSELVES = auto()
    """They were there already, and are as they were."""
    ADDRESS_OF_ANOTHER = auto()
    ID_OF_ANOTHER = auto()


class _There(NamedTuple):
    id: UserId
    email_key: str
    password_hash: str | None


async def bring_in(engine: Engine, new: Sequence[NewUser], *, only_ask: bool = False) -> Sequence[Met]:
    """Bring in users in one transaction, each with an event; change nothing of those who are there.

    Args:
        new: no two with one address or one id.
        only_ask: write nothing.

    Raises: Unavailable: the database is at fault, and none of these is in it, or after a fault at the commit all may be.
    """
    # The same in each try.
    ids = [user.id or new_id() for user in new]
    by_id = dict(zip(ids, new, strict=True))
    if only_ask:
        async with engine.autocommit() as connection:
            found = await _meet(connection, by_id)
        return [found.get(id_, Met.NOBODY) for id_ in ids]
    while True:
        with suppress(_MetNobody):
            met = await engine.run(lambda connection: _insert(connection, engine, by_id))
            return [met[id_] for id_ in ids]


class _MetNobody(Exception):
    """Somebody who is there was deleted before they were looked at. All is undone, and tried again.

    Why not in this transaction: it would insert out of order, behind what it has inserted already.
    """


async def _insert(connection: AsyncConnection, engine: Engine, new: Mapping[UserId, NewUser]) -> dict[UserId, Met]:
    now = await engine.read_now(connection)
    statement = insert_users(postgres=engine.postgres).on_conflict_do_nothing().returning(users.c.id)
    # In one order, so that two runs can wait for each other only in line.
    rows = [_row(id_, user, now) for id_, user in sorted(new.items(), key=lambda item: item[1].email.key)]
    created = [row[0] for row in await connection.execute(statement, rows)] if rows else []
    await write_events(connection, [_brought_in(now, id_) for id_ in created])
    met = dict.fromkeys(created, Met.NOBODY)
    met |= await _meet(connection, {id_: user for id_, user in new.items() if id_ not in met})
    if len(met) < len(new):
        raise _MetNobody
    return met


async def _meet(connection: AsyncConnection, new: Mapping[UserId, NewUser]) -> dict[UserId, Met]:
    """Say whom each meets; who meets nobody is left out."""
    if not new:
        return {}
    by_key = {
        user.email_key: user
        for user in await _read(connection, users.c.email_key.in_([user.email.key for user in new.values()]))
    }
    by_id = {user.id for user in await _read(connection, users.c.id.in_(list(new)))}
    # Their hash is another: made anew at a login, or never theirs.
    doubtful = [
        there.id
        for user in new.values()
        if (there := by_key.get(user.email.key)) and user.id is None and there.password_hash != user.password_hash
    ]
    imported = await _imported(connection, doubtful)
    met: dict[UserId, Met] = {}
    for id_, user in new.items():
        there = by_key.get(user.email.key)
        if there is None:
            if id_ in by_id:
                met[id_] = Met.ID_OF_ANOTHER
            continue
        same = there.id == user.id if user.id is not None else there.id not in doubtful or there.id in imported
        met[id_] = Met.THEMSELVES if same else Met.ADDRESS_OF_ANOTHER
    return met


async def _read(connection: AsyncConnection, condition: ColumnElement[bool]) -> list[_There]:
    statement = select(users.c.id, users.c.email_key, users.c.password_hash).where(condition)
    return [_There(*row) for row in await connection.execute(statement)]


async def _imported(connection: AsyncConnection, user_ids: Collection[UserId]) -> set[UserId]:
    """Tell who of these was brought in, by the events that are kept."""
    if not user_ids:
        return set()
    [sign] = event_rows([_brought_in(0.0, "")])
    statement = select(events.c.user_id).where(
        events.c.user_id.in_(user_ids), events.c.type == sign.type, events.c.data == sign.data
    )
    return {row[0] for row in await connection.execute(statement)}


def _brought_in(at: float, user_id: UserId) -> Event:
    return Event(EventType.SIGNED_UP, at, user_id, data={"by": "import"})


def _row(id_: UserId, user: NewUser, now: float) -> dict[str, object]:
    row = row_of(id_, user.email, user.name, user.password_hash, now)
    return row | {"disabled_at": now if user.disabled else None}
