# ruff: noqa: S608 - the statements are put together from the table's own column names, at import
"""Sessions as rows: the statements of the hot path, written out once per database, and the way from row to value.

Owns: reading, swapping and touching a group of sessions, looking for a device. Must not hold: when to do which
(`presenting.py`, `touches.py`, `sql.py`), inserting one (`opening.py`), what a refresh means (`core/rotation.py`).

The statements go to the driver as they are: compiling them anew for each group would cost as much as judging it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

from keyturn.core.model import RevokeReason, Session, SessionId, User, UserId
from keyturn.stores.arrays import unnest
from keyturn.stores.engine import POSTGRES_NOW, SQLITE_NOW, AsyncConnection
from keyturn.stores.lanes import Lane, Statement
from keyturn.stores.schema import sessions as table
from keyturn.stores.schema import users
from keyturn.stores.user_rows import USER_COLUMNS, user_of

COLUMNS = tuple(column.name for column in table.columns)
SESSION_NAMES = ", ".join(COLUMNS)
_USER = len(COLUMNS)
"""Where the user begins in a row of a group."""
_REASON = COLUMNS.index("revoked_reason")
_AMR = COLUMNS.index("amr")
_REMEMBER = COLUMNS.index("remember")
_REASONS: Mapping[str | None, RevokeReason | None] = {None: None, **{reason.value: reason for reason in RevokeReason}}

# What every refresh that is written changes, with its type in PostgreSQL, and what only some change. The times that move
# forward only may be touched meanwhile.
_ADVANCED = {
    "generation": "int8",
    "token_hash": "bytea",
    "previous_hash": "bytea",
    "confirmed_at": "float8",
    "last_seen_at": "float8",
    "last_active_at": "float8",
    "inactivity_expires_at": "float8",
}
_SOMETIMES = {"revoked_at": "float8", "revoked_reason": "text", "device": "text", "ip": "text", "user_agent": "text"}
_TOUCHED = ("last_seen_at", "last_active_at", "inactivity_expires_at")
_touched = itemgetter(*(COLUMNS.index(name) for name in ("id", *_TOUCHED)))
_REST = COLUMNS.index("absolute_expires_at")
"""From here on nothing is changed by a refresh of a browser that comes back from where it was."""


# What a confirm of one moment does to every row alike, with what the moment is in SQL.
_CONFIRMED = {
    "generation": "{s}.generation + 1",
    "previous_hash": "{s}.token_hash",
    "confirmed_at": "m.now",
    "last_seen_at": "{later}({s}.last_seen_at, m.now)",
}


def _later(name: str, s: str = "s", later: str = "GREATEST") -> str:
    return f"{name} = {later}({s}.{name}, v.{name})" if name in _TOUCHED else f"{name} = v.{name}"


_SELECT = f"SELECT {', '.join('s.' + name for name in COLUMNS)}, {USER_COLUMNS}, {{place}}, clock.now"
_JOIN_USER = f"LEFT JOIN {users.name} ON {users.name}.id = s.user_id"
_READ_POSTGRES = (
    f"{_SELECT.format(place='s.ctid')} FROM (SELECT {POSTGRES_NOW} AS now WHERE NOT pg_is_in_recovery()) clock "
    f"LEFT JOIN {table.name} s ON s.id = ANY($1::bytea[]) {_JOIN_USER}"
)
_TOUCH_POSTGRES = (
    f"WITH locked AS (SELECT id FROM {table.name} WHERE id = ANY($1::bytea[]) FOR UPDATE SKIP LOCKED), "
    f"touched AS (UPDATE {table.name} AS s SET {', '.join(map(_later, _TOUCHED))} "
    f"FROM locked JOIN {unnest(('bytea', 'float8', 'float8', 'float8'))} "
    f"AS v(id, {', '.join(_TOUCHED)}) ON v.id = locked.id "
    "WHERE s.id = locked.id AND s.revoked_at IS NULL) "
    f"SELECT id FROM {table.name} WHERE id = ANY($1::bytea[]) AND id NOT IN (SELECT id FROM locked)"
)
_WAIT_POSTGRES = "SET LOCAL lock_timeout = '2s'"
_TOUCH_SQLITE = (
    f"UPDATE {table.name} SET {', '.join(f'{name} = max({name}, ?)' for name in _TOUCHED)} "
    "WHERE id = ? AND revoked_at IS NULL"
)


def on_device(user: str, device: str) -> str:
    """Return a query that has a row if a user has a session, ended or not, on a device; both are said in SQL.

    Why the nearest device is looked for, and then whether it is the one: where one user on one device has most of the
    rows, PostgreSQL takes every row for an answer, and reads the table when there is none. Only the index has this order.
    """
    return (
        f"SELECT 1 FROM (SELECT device_id FROM {table.name} WHERE user_id = {user} AND device_id >= {device} "
        f"ORDER BY device_id LIMIT 1) AS nearest WHERE device_id = {device}"
    )


_DEVICE_POSTGRES = on_device("$1", "$2")
_DEVICE_SQLITE = on_device("?1", "?2")


class _Swap:
    """A compare-and-set over some columns, as the statement of either database.

    Args:
        columns: those whose new value is a parameter for each row, with their types in PostgreSQL.
        alike: those whose new value follows from the row and one moment `m.now`.
    """

    def __init__(self, columns: Mapping[str, str], alike: Mapping[str, str] | None = None) -> None:
        self._columns = columns
        self._alike = alike or {}
        self._of = itemgetter(*(COLUMNS.index(name) for name in columns))
        ends = "revoked_at" in columns
        # An end for inactivity must not overtake the touch that moved the deadline.
        unless_touched = "AND (v.revoked_at IS NULL OR {s}.inactivity_expires_at <= v.inactivity_expires_at) "
        self._condition = (unless_touched if ends else "") + "RETURNING {s}.id"
        # Rows are locked before any is changed. They are looked for where they were read, and not through the index again:
        # with a million of sessions that was a third of this statement. A row that is elsewhere by now counts as moved, also
        # one that moved while we waited for its lock, which is not where our snapshot looks. Whose row it is, is asked all
        # the same, because a place is used again.
        moment = f", (SELECT ${len(columns) + 4}::float8 AS now) AS m " if alike else ""
        statement = (
            f"WITH locked AS (SELECT id, ctid AS place FROM {table.name} WHERE ctid = ANY($2::tid[]) "
            f"{{lock}}) UPDATE {table.name} AS s SET {self._changes('s', 'GREATEST')} "
            f"FROM locked JOIN {unnest(('bytea', 'tid', 'bytea', *columns.values()))} "
            f"AS v(id, place, expected, {', '.join(columns)}) ON v.id = locked.id {moment}"
            f"WHERE s.ctid = locked.place AND s.token_hash = v.expected AND s.revoked_at IS NULL "
            f"{self._condition.format(s='s')}"
        )
        self._at_once = statement.format(lock="FOR UPDATE SKIP LOCKED")
        # In the order of their ids, so that two nodes' groups wait in line and never for each other.
        self._waiting = statement.format(lock="ORDER BY id FOR UPDATE")
        self._sqlite: dict[int, str] = {}

    def postgres(self, swaps: Swaps, *, wait: bool = False) -> Statement:
        """Return the statement for PostgreSQL: an array for each column. Args: wait: for rows that somebody has locked."""
        arrays = map(list, zip(*self._rows(swaps), strict=True))
        return self._waiting if wait else self._at_once, (*arrays, *self._moment(swaps))

    def sqlite(self, swaps: Swaps) -> Statement:
        """Return the statement for SQLite: a list of rows, padded."""
        rows = self._rows(swaps)
        rows += rows[-1:] * _padding(len(rows))
        text = self._sqlite.get(len(rows))
        if text is None:
            text = self._sqlite[len(rows)] = self._sqlite_text(len(rows))
        return text, (*chain.from_iterable(rows), *self._moment(swaps))

    def _changes(self, s: str, later: str) -> str:
        alike = (f"{name} = {value.format(s=s, later=later)}" for name, value in self._alike.items())
        return ", ".join((*(_later(name, s, later) for name in self._columns), *alike))

    def _moment(self, swaps: Swaps) -> Sequence[float]:
        return (_moment_of(swaps),) if self._alike else ()

    def _rows(self, swaps: Swaps) -> list[tuple[Any, ...]]:
        return [(id_, place, read.token_hash, *self._of(session)) for id_, (place, read, session) in swaps.items()]

    def _sqlite_text(self, count: int) -> str:
        # One statement for all rows, so that the thread that waits for the disk asks for the interpreter once and not
        # once a row.
        row = f"({', '.join('?' * (len(self._columns) + 3))})"
        columns = ", ".join(
            f"column{i} AS {name}" for i, name in enumerate(("id", "place", "expected", *self._columns), 1)
        )
        moment = ", (SELECT ? AS now) AS m " if self._alike else ""
        # The plus signs keep the planner from an index of its own over the values, for which it would go through the
        # whole table, up to some hundred thousand sessions that it knows of (SQLite 3.46 to 3.54).
        return (
            f"UPDATE {table.name} SET {self._changes(table.name, 'max')} "
            f"FROM (SELECT {columns} FROM (VALUES {', '.join([row] * count)})) AS v {moment}"
            f"WHERE {table.name}.rowid = v.place AND {table.name}.id = +v.id "
            f"AND {table.name}.token_hash = +v.expected AND {table.name}.revoked_at IS NULL "
            f"{self._condition.format(s=table.name)}"
        )


@lru_cache(maxsize=256)
def _amr(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def session_of(row: Sequence[Any]) -> Session:
    """Turn a row, in the order of the table's columns and perhaps with more behind, into a session."""
    values = list(row[: len(COLUMNS)])
    values[_REASON] = _REASONS[values[_REASON]]
    values[_AMR] = _amr(values[_AMR])
    values[_REMEMBER] = bool(values[_REMEMBER])
    return Session._make(values)


def values_of(session: Session) -> dict[str, object]:
    """Turn a session into the values of its columns, by name."""
    values = session._asdict()
    values["amr"] = " ".join(session.amr)
    values["revoked_reason"] = None if session.revoked_reason is None else session.revoked_reason.value
    return values


Place = Any
"""Where a row is, until it is changed or its table is rewritten: a `ctid` of PostgreSQL, a `rowid` of SQLite."""


class ReadFromStandby(ConnectionError):
    """The server follows another one. Not a word of it counts, and the way to it is to be left."""


class Read(NamedTuple):
    """A group as read, all of it at one moment."""

    sessions: dict[SessionId, Session]
    """An id without a row has no entry."""
    places: dict[SessionId, Place]
    """Where each session's row was."""
    users: dict[UserId, User]
    """The users of the sessions, as far as this database has them."""
    now: float
    """The database's clock."""


async def read_group(lane: Lane, ids: Collection[SessionId]) -> Read:
    """Read sessions by id, their users and the database's clock, in one statement.

    Args: ids: distinct, at least one.
    Raises: ReadFromStandby: it may lag. A session opened a moment ago would be none, and its browser would lose its cookie.
    """
    rows = await lane.fetch((_READ_POSTGRES, (list(ids),)) if lane.postgres else _read_sqlite(tuple(ids)))
    if not rows:
        raise ReadFromStandby
    found = [row for row in rows if row[0] is not None]
    users = {row[_USER]: user_of(row[_USER:]) for row in found if row[_USER] is not None}
    places = {row[0]: row[-2] for row in found}
    return Read({row[0]: session_of(row) for row in found}, places, users, rows[0][-1])


Swaps = Mapping[SessionId, tuple[Place, Session, Session]]
"""id -> (where the session was read, the session as read, the session as it is to be)."""

_CONFIRM = _Swap({name: kind for name, kind in _ADVANCED.items() if name not in _CONFIRMED}, _CONFIRMED)
_CHANGE = _Swap({**_ADVANCED, **_SOMETIMES})


def _moment_of(swaps: Swaps) -> float:
    """Return when all were confirmed, if all were together."""
    return next(iter(swaps.values()))[2].confirmed_at


def _confirms(read: Session, session: Session, now: float) -> bool:
    """Say whether a session has been confirmed, and nothing else has happened to it."""
    return (
        session.generation == read.generation + 1
        and session.previous_hash == read.token_hash
        and session.confirmed_at == now
        and session.last_seen_at == max(now, read.last_seen_at)
        and session[_REST:] == read[_REST:]
    )


async def swap_group(lane: Lane, swaps: Swaps) -> set[SessionId]:
    """Compare-and-set sessions and commit; return the ids of those that were still where they were read, with the token
    hash that was read, not revoked, and not locked by somebody else. Of the others nothing is known: read them again.

    Args: swaps: at least one.
    """
    # Mostly browsers confirm, and come back from where they were: then nine columns stay out of the statement and its
    # encoding, and five out of the row.
    now = _moment_of(swaps)
    swap = _CONFIRM if all(_confirms(read, session, now) for _, read, session in swaps.values()) else _CHANGE
    # The statement itself says whose swap it was: another process may just have confirmed the very same token, and then
    # the row alone looks as if it had been ours.
    return {row[0] for row in await lane.change(swap.postgres(swaps) if lane.postgres else swap.sqlite(swaps))}


async def swap_in_transaction(connection: AsyncConnection, swaps: Swaps, *, wait: bool) -> set[SessionId]:
    """Do as `swap_group` in the caller's transaction; also for sessions that end.

    Args: wait: a while for what somebody has locked. Raises: DBAPIError: it is locked still (SQLSTATE 55P03).
    """
    postgres = connection.dialect.name == "postgresql"
    if wait and postgres:
        await connection.exec_driver_sql(_WAIT_POSTGRES)
    text, parameters = _CHANGE.postgres(swaps, wait=wait) if postgres else _CHANGE.sqlite(swaps)
    return {row[0] for row in await connection.exec_driver_sql(text, tuple(parameters))}


async def has_device(lane: Lane, user_id: UserId, device_id: bytes) -> bool:
    """Say whether a user has a session, ended or not, on a device."""
    return bool(await lane.fetch((_DEVICE_POSTGRES if lane.postgres else _DEVICE_SQLITE, (user_id, device_id))))


async def touch_group(connection: AsyncConnection, sessions: Iterable[Session]) -> set[SessionId]:
    """Move last-seen, last-active and the inactivity deadline forward, never back, of sessions that are not revoked.

    Args: sessions: at least one. Returns: the ids of those that somebody else has locked, which are as they were.
    """
    rows = [_touched(session) for session in sessions]
    if connection.dialect.name == "postgresql":
        held = await connection.exec_driver_sql(_TOUCH_POSTGRES, tuple(map(list, zip(*rows, strict=True))))
        return {SessionId(bytes(row[0])) for row in held}
    await connection.exec_driver_sql(_TOUCH_SQLITE, [(*row[1:], row[0]) for row in rows])
    return set()


def _padding(count: int) -> int:
    """Say how many repetitions make a number of three binary digits and zeros.

    Why: up to the largest group there are 28 of those, so that SQLite's cache has all statements, and no more than a quarter is repeated.
    """
    return -count % (1 << max(0, (count - 1).bit_length() - 3))


def _read_sqlite(ids: tuple[SessionId, ...]) -> Statement:
    padding = _padding(len(ids))
    return _read_sqlite_text(len(ids) + padding), ids + ids[-1:] * padding


@lru_cache
def _read_sqlite_text(count: int) -> str:
    # The index is named, as the planner goes through the whole table while it believes that there are few sessions.
    return (
        f"{_SELECT.format(place='s.rowid')} FROM (SELECT {SQLITE_NOW} AS now) clock "
        f"LEFT JOIN {table.name} s INDEXED BY sqlite_autoindex_{table.name}_1 "
        f"ON s.id IN ({', '.join('?' * count)}) {_JOIN_USER}"
    )
