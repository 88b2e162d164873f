"""The event log in the database: what happened, for investigations.

Owns: writing events. Must not hold: which events are kept (`core/events.py`), when they are deleted (`pruning.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from json import JSONEncoder
from typing import NamedTuple

from sqlalchemy import insert

from keyturn.core.events import Event
from keyturn.stores.engine import AsyncConnection
from keyturn.stores.lanes import Work
from keyturn.stores.schema import events as table

_INSERT = insert(table)
_encode = JSONEncoder(separators=(",", ":")).encode


class EventRow(NamedTuple):
    """A row of the event log."""

    at: float
    type: str
    user_id: str | None
    session_hash: str | None
    data: str


EVENT_NAMES = ", ".join(EventRow._fields)
EVENT_TYPES = ("float8", "text", "text", "text", "text")
"""Of these columns, in PostgreSQL."""
_INSERT_SQLITE = f"INSERT INTO {table.name} ({EVENT_NAMES}) VALUES (?, ?, ?, ?, ?)"  # noqa: S608 - no input in it


def recording(events: Iterable[Event]) -> Work[None]:
    """Do as `write_events`, in SQLite, in a visit to the thread that writes."""
    for row in event_rows(events):
        yield _INSERT_SQLITE, row


async def write_events(connection: AsyncConnection, events: Iterable[Event]) -> None:
    """Insert the kept events among these, in the transaction of what they tell of."""
    rows = [row._asdict() for row in event_rows(events)]
    if rows:
        await connection.execute(_INSERT, rows)


def event_rows(events: Iterable[Event]) -> list[EventRow]:
    """Turn the kept events among these into rows."""
    return [
        EventRow(
            event.at,
            event.type.value,
            event.user_id,
            event.session_hash,
            _encode(dict(event.data)),
        )
        for event in events
        if event.kept
    ]
