# ruff: noqa: S608 - the statements are put together from the table's own column names, at import
"""Sessions as rows: the statements of the hot path, written out once per database, and the way from row to value.

Owns: reading a group of sessions, swapping a group, touching a group, inserting one. Must not hold: when to do which
(`presenting.py`, `sql.py`), or what a refresh means (`core/rotation.py`).

The statements go to the driver as they are: compiling them anew for each group would cost as much as judging it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any

from keyturn.core.model import RevokeReason, Session, SessionId
from keyturn.stores.engine import POSTGRES_NOW, SQLITE_NOW, AsyncConnection
from keyturn.stores.schema import sessions as table

COLUMNS = tuple(column.name for column in table.columns)
_REASON = COLUMNS.index("revoked_reason")
_AMR = COLUMNS.index("amr")
_REMEMBER = COLUMNS.index("remember")
_REASONS: Mapping[str | None, RevokeReason | None] = {None: None, **{reason.value: reason for reason in RevokeReason}}

# What a refresh may change, with its type in PostgreSQL. The ones that move forward only may be touched meanwhile.
_SWAPPED = {
    "generation": "int8",
    "token_hash": "bytea",
    "previous_hash": "bytea",
    "confirmed_at": "float8",
    "last_seen_at": "float8",
    "last_active_at": "float8",
    "inactivity_expires_at": "float8",
    "revoked_at": "float8",
    "revoked_reason": "text",
    "device": "text",
    "ip": "text",
    "user_agent": "text",
}
_TOUCHED = ("last_seen_at", "last_active_at", "inactivity_expires_at")
_swapped = itemgetter(*(COLUMNS.index(name) for name in _SWAPPED))
_touched = itemgetter(*(COLUMNS.index(name) for name in ("id", *_TOUCHED)))


def _unnest(types: Iterable[str]) -> str:
    return ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(types, 1))


def _later(name: str) -> str:
    return f"{name} = GREATEST(s.{name}, v.{name})" if name in _TOUCHED else f"{name} = v.{name}"


_READ_POSTGRES = (
    f"SELECT {', '.join('s.' + name for name in COLUMNS)}, clock.now "
    f"FROM (SELECT {POSTGRES_NOW} AS now) clock LEFT JOIN {table.name} s ON s.id = ANY($1::bytea[])"
)
# Rows are locked in the order of their ids before any is changed, so that two nodes' groups wait in line and never for
# each other. An end for inactivity must not overtake the touch that moved the deadline, hence the last condition.
_SWAP_POSTGRES = (
    f"WITH locked AS (SELECT id FROM {table.name} WHERE id = ANY($1::bytea[]) ORDER BY id FOR UPDATE) "
    f"UPDATE {table.name} AS s SET {', '.join(map(_later, _SWAPPED))} "
    f"FROM locked JOIN unnest({_unnest(('bytea', 'bytea', *_SWAPPED.values()))}) "
    f"AS v(id, expected, {', '.join(_SWAPPED)}) ON v.id = locked.id "
    "WHERE s.id = locked.id AND s.token_hash = v.expected AND s.revoked_at IS NULL "
    "AND (v.revoked_at IS NULL OR s.inactivity_expires_at <= v.inactivity_expires_at) RETURNING s.id"
)
_TOUCH_POSTGRES = (
    f"WITH locked AS (SELECT id FROM {table.name} WHERE id = ANY($1::bytea[]) ORDER BY id FOR UPDATE) "
    f"UPDATE {table.name} AS s SET {', '.join(map(_later, _TOUCHED))} "
    f"FROM locked JOIN unnest({_unnest(('bytea', 'float8', 'float8', 'float8'))}) "
    f"AS v(id, {', '.join(_TOUCHED)}) ON v.id = locked.id "
    "WHERE s.id = locked.id AND s.revoked_at IS NULL"
)
_SWAP_SQLITE = (
    f"UPDATE {table.name} SET "
    + ", ".join(f"{name} = max({name}, ?)" if name in _TOUCHED else f"{name} = ?" for name in _SWAPPED)
    + " WHERE id = ? AND token_hash = ? AND revoked_at IS NULL"
)
_TOUCH_SQLITE = (
    f"UPDATE {table.name} SET {', '.join(f'{name} = max({name}, ?)' for name in _TOUCHED)} "
    "WHERE id = ? AND revoked_at IS NULL"
)


@lru_cache(maxsize=256)
def _amr(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def session_of(row: Sequence[Any]) -> Session:
    """Turn a row, in the order of the table's columns and perhaps with more behind, into a session."""
    return Session._make(
        (
            *row[:_REASON],
            _REASONS[row[_REASON]],
            *row[_REASON + 1 : _AMR],
            _amr(row[_AMR]),
            *row[_AMR + 1 : _REMEMBER],
            bool(row[_REMEMBER]),
        )
    )


def values_of(session: Session) -> dict[str, object]:
    """Turn a session into the values of its columns, by name."""
    values = session._asdict()
    values["amr"] = " ".join(session.amr)
    values["revoked_reason"] = None if session.revoked_reason is None else session.revoked_reason.value
    return values


async def read_group(connection: AsyncConnection, ids: Collection[SessionId]) -> tuple[dict[SessionId, Session], float]:
    """Read sessions by id, and the database's clock, in one round trip. An id without a row has no entry.

    Args: ids: distinct, at least one.
    """
    if connection.dialect.name == "postgresql":
        found = await connection.exec_driver_sql(_READ_POSTGRES, (list(ids),))
    else:
        found = await connection.exec_driver_sql(*_read_sqlite(tuple(ids)))
    rows = found.all()
    now: float = rows[0][-1]
    return {row[0]: session_of(row) for row in rows if row[0] is not None}, now


async def swap_group(connection: AsyncConnection, swaps: Mapping[SessionId, tuple[bytes, Session]]) -> set[SessionId]:
    """Compare-and-set sessions; return the ids of those that still had their expected token hash and were not revoked.

    On SQLite the caller holds a transaction in which the sessions were read, so all of them have.

    Args: swaps: id -> (expected token hash, the session as it is to be); at least one.
    """
    if connection.dialect.name != "postgresql":
        await connection.exec_driver_sql(
            _SWAP_SQLITE, [(*_swapped(session), id_, expected) for id_, (expected, session) in swaps.items()]
        )
        return set(swaps)
    rows = [(id_, expected, *_swapped(session)) for id_, (expected, session) in swaps.items()]
    found = await connection.exec_driver_sql(_SWAP_POSTGRES, tuple(map(list, zip(*rows, strict=True))))
    return {row[0] for row in found}


async def touch_group(connection: AsyncConnection, sessions: Iterable[Session]) -> None:
    """Move last-seen, last-active and the inactivity deadline forward, never back, of sessions that are not revoked."""
    rows = [_touched(session) for session in sessions]
    if not rows:
        return
    if connection.dialect.name == "postgresql":
        await connection.exec_driver_sql(_TOUCH_POSTGRES, tuple(map(list, zip(*rows, strict=True))))
    else:
        await connection.exec_driver_sql(_TOUCH_SQLITE, [(*row[1:], row[0]) for row in rows])


def _read_sqlite(ids: tuple[SessionId, ...]) -> tuple[str, tuple[SessionId, ...]]:
    # Padded to a power of two, so that there are few statements and SQLite's cache has them all.
    padding = (1 << (len(ids) - 1).bit_length()) - len(ids)
    return _read_sqlite_text(len(ids) + padding), ids + ids[-1:] * padding


@lru_cache
def _read_sqlite_text(count: int) -> str:
    return (
        f"SELECT {', '.join('s.' + name for name in COLUMNS)}, clock.now "
        f"FROM (SELECT {SQLITE_NOW} AS now) clock LEFT JOIN {table.name} s ON s.id IN ({', '.join('?' * count)})"
    )
