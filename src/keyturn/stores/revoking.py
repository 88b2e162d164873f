"""End sessions inside somebody's transaction: the row, its denylist entry, its event and the notice to all nodes.

Owns: what belongs to every revocation, wherever it comes from. Must not hold: when a session must end (`core/`), the
feed that nodes follow and what is written to it (`revocations.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from json import dumps
from typing import NamedTuple

from sqlalchemy import ARRAY, ColumnElement, LargeBinary, Select, and_, any_, case, func, literal, select, update

from keyturn.core.events import Event, EventType
from keyturn.core.model import RevokeReason, SessionId, UserId
from keyturn.stores.engine import AsyncConnection
from keyturn.stores.event_log import write_events
from keyturn.stores.lanes import Statement
from keyturn.stores.revocations import CHANNEL, Denied, encode
from keyturn.stores.schema import sessions


class Revoked(NamedTuple):
    """What a revocation did. Hand `denied` to `tell_denied` after the commit."""

    session_ids: Sequence[SessionId]
    """The sessions that ended for the reason that was given."""
    denied: Sequence[Denied]


NOTHING = Revoked((), ())
FORGOTTEN = 10_000
"""Sessions of a user whose devices a change of the password forgets, the newest ones: half a second of work on two cores."""
OnRevoked = Callable[[Sequence[Denied]], object]
"""Hears of this node's own revocations after their commit, at once, without the way through the feed."""
_log = logging.getLogger(__name__)


# The entries come sorted and are inserted in that order, so that two transactions can wait for each other only in line.
_LATER = "ON CONFLICT (id) DO UPDATE SET created_at = excluded.created_at, expires_at = {later}"


def denying(first: int, condition: str) -> str:
    """Return two queries for PostgreSQL's WITH: `denied` writes entries, and reading `told` has the commit notify.

    Args: first: the number of the first parameter, in the order of `denial`.
    """
    return (
        "denied AS (INSERT INTO keyturn_denylist AS held (id, created_at, expires_at)"  # noqa: S608 - no input in it
        f" SELECT id, ${first + 1}::float8, ${first + 2}::float8 FROM unnest(${first}::text[]) AS id WHERE {condition} "
        + _LATER.format(later="GREATEST(excluded.expires_at, held.expires_at)")
        + f"), told AS MATERIALIZED (SELECT pg_notify(${first + 3}::text, notice)"  # noqa: S608 - as above
        f" FROM unnest(${first + 4}::text[]) AS notice WHERE {condition})"
    )


_DENY_POSTGRES = f"WITH {denying(1, 'true')} SELECT count(*) FROM told"  # noqa: S608 - as above
_DENY_SQLITE = (
    "INSERT INTO keyturn_denylist AS held (id, created_at, expires_at)"  # noqa: S608 - no input in it
    " SELECT value, ?, ? FROM json_each(?) WHERE true "  # without a condition SQLite takes ON for that of a join
    + _LATER.format(later="max(excluded.expires_at, held.expires_at)")
)


def user_lock(user_id: UserId) -> int:
    """Return the number of the user's lock, for `Engine.transact`; see `lock_user`. Raises: TypeError: the id is no text."""
    try:
        named = b"keyturn:" + user_id.encode("utf-8", "surrogatepass")
    except AttributeError:
        raise TypeError(f"a user id is a text, not {type(user_id).__name__}: str(...) makes one of a key") from None
    return int.from_bytes(sha256(named).digest()[:8], "big") >> 1


async def lock_user(connection: AsyncConnection, user_id: UserId) -> None:
    """Hold the user's lock until the end of the transaction: logins and revocations of one user take turns.

    Why: a login that reads the sessions before a log-out-everywhere and writes after it would survive it. On SQLite the
    transaction itself is that lock. Logins that take the user's row instead (`opening.open_at_once`) need no turn: what changes
    the user takes that row as well, and what only ends sessions may come before them.
    """
    lock = user_lock(user_id)  # also where it is not needed: an id that is no text finds no session, and says nothing
    if _is_postgres(connection):
        await connection.exec_driver_sql("SELECT pg_advisory_xact_lock($1)", (lock,))


UNREVOKED = and_(sessions.c.revoked_at.is_(None), sessions.c.revoked_reason.is_(None))
"""The condition on sessions that nobody has ended, for which there is an index by user.

Why the reason too, though it is null whenever the time is: the partial index is on it. Were it on the time, for which the
hot path asks as well, PostgreSQL might go through the whole index for one session, where it believes that few are live.
"""


def unrevoked(user_id: UserId) -> ColumnElement[bool]:
    """Return the condition on a user's sessions that nobody has ended."""
    return and_(sessions.c.user_id == user_id, UNREVOKED)


async def revoke_sessions(
    connection: AsyncConnection,
    user_id: UserId,
    reason: RevokeReason,
    now: float,
    *,
    denylist_lifetime: float,
    only: SessionId | None = None,
    keep: SessionId | None = None,
) -> Revoked:
    """End a user's sessions, `only` one or all but `keep`, in the caller's transaction, which has the lock of `lock_user`.

    A session past its inactivity deadline ends too, with that as its reason, and is not returned: what would move the
    deadline may be on its way to the database, and the session must not survive this.

    After a change of the password their devices are unknown, but for that of the session that is kept.

    Args:
        now: the database's clock, seconds, read under that lock.
        denylist_lifetime: seconds until the last access token of a session is dead.
    """
    if reason is RevokeReason.PASSWORD_CHANGED:
        await _forget_devices(connection, user_id, only, keep)
    chosen = [unrevoked(user_id), sessions.c.absolute_expires_at > now]
    if only is not None:
        chosen.append(sessions.c.id == only)
    if keep is not None:
        chosen.append(sessions.c.id != keep)
    actual = case((sessions.c.inactivity_expires_at <= now, RevokeReason.INACTIVITY.value), else_=literal(reason.value))
    statement = (
        update(sessions)
        .where(*([_locked(*chosen)] if _is_postgres(connection) else chosen))
        .values(revoked_at=now, revoked_reason=actual)
        .returning(sessions.c.id, sessions.c.revoked_reason)
    )
    ended = [(SessionId(bytes(row[0])), RevokeReason(row[1])) for row in await connection.execute(statement)]
    if not ended:
        return NOTHING
    denied = await deny(connection, [id_ for id_, _ in ended], now, denylist_lifetime)
    told = (Event(EventType.SESSION_ENDED, now, user_id, id_, {"reason": why.value}) for id_, why in ended)
    await write_events(connection, told)
    return Revoked([id_ for id_, why in ended if why is reason], denied)


async def _forget_devices(
    connection: AsyncConnection, user_id: UserId, only: SessionId | None, keep: SessionId | None
) -> None:
    """Give each session, ended ones too, a device of its own, which nobody has.

    Why: a known device has a limit of guesses for itself, and whoever knew the old password could sign in on a thousand.
    Of a user with more sessions than `FORGOTTEN` the older ones keep theirs: a change that takes too long would be none.
    """
    # What was forgotten before is left alone.
    chosen = [sessions.c.user_id == user_id, sessions.c.device_id != sessions.c.id]
    if only is not None:
        chosen.append(sessions.c.id == only)
    kept = select(sessions.c.device_id).where(sessions.c.id == keep).scalar_subquery()
    # Those that end are locked next, so they are among these: all in the order of their ids.
    newest = sessions.c.revoked_at.is_not(None), sessions.c.created_at.desc()
    taken = select(sessions.c.id).where(*chosen).order_by(*newest).limit(FORGOTTEN)
    # Of SQLite the user is asked again: by the ids alone it may go through the table.
    rows = [_locked(_among(taken))] if _is_postgres(connection) else [*chosen, sessions.c.id.in_(taken)]
    others = (*rows, sessions.c.device_id.is_distinct_from(kept))
    await connection.execute(update(sessions).where(*others).values(device_id=sessions.c.id))


def _is_postgres(connection: AsyncConnection) -> bool:
    return connection.dialect.name == "postgresql"


def _locked(*chosen: ColumnElement[bool]) -> ColumnElement[bool]:
    """Return the condition on rows of these conditions with which PostgreSQL locks them first, in the order of their ids.

    In that order as everywhere: two transactions can wait for each other only in line. It stands alone: what is locked meets the
    conditions, and PostgreSQL is to look for nothing but the ids.
    """
    return _among(select(sessions.c.id).where(*chosen).order_by(sessions.c.id).with_for_update())


def _among(ids: Select[bytes]) -> ColumnElement[bool]:
    """Return the condition, for PostgreSQL, that a session is one of these.

    Why an array: where it expects one row, as of a user among many who have one each, PostgreSQL goes through all that a
    subquery has found again for each. A change of the password of a user with ten thousand sessions took too long.
    """
    return sessions.c.id == any_(func.array(ids.scalar_subquery(), type_=ARRAY(LargeBinary)))


async def deny(
    connection: AsyncConnection, session_ids: Iterable[SessionId], now: float, denylist_lifetime: float
) -> Sequence[Denied]:
    """Put sessions on the denylist and tell all nodes when the transaction commits; return the entries."""
    return await deny_ids(connection, [id_.hex() for id_ in session_ids], now, now + denylist_lifetime)


async def deny_ids(connection: AsyncConnection, ids: Sequence[str], now: float, expires_at: float) -> Sequence[Denied]:
    """Put ids (sessions' in hex, or those of signing keys) on the denylist; the later expiry wins."""
    postgres = _is_postgres(connection)
    statement, entries = denial(ids, now, expires_at, postgres=postgres)
    if entries:
        await connection.exec_driver_sql(statement[0], tuple(statement[1]))
    return entries


def denial(ids: Iterable[str], now: float, expires_at: float, *, postgres: bool) -> tuple[Statement, Sequence[Denied]]:
    """Return the statement that does what `deny_ids` does, and the entries."""
    entries = [Denied(id_, expires_at) for id_ in sorted(set(ids))]
    names = [entry.id for entry in entries]
    if postgres:
        return (_DENY_POSTGRES, (names, now, expires_at, CHANNEL, list(encode(entries)))), entries
    return (_DENY_SQLITE, (now, expires_at, dumps(names))), entries


def tell_denied(on_revoked: OnRevoked | None, denied: Sequence[Denied]) -> None:
    """Hand over what a commit has put on the denylist. What the other side raises is logged."""
    if denied and on_revoked is not None:
        try:
            on_revoked(denied)
        except Exception:  # noqa: BLE001 - committed, and the feed tells it too: the answer must not become an error
            _log.exception("on_revoked failed")
