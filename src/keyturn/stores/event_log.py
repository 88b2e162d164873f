"""The event log in the database: what happened, for investigations.

Owns: writing events. Must not hold: which events are kept (`core/events.py`), when they are deleted (`pruning.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from json import JSONEncoder
from typing import NamedTuple

from sqlalchemy import insert

from keyturn.core.events import Event
from keyturn.core.model import SessionId
from keyturn.stores.engine import AsyncConnection
from keyturn.stores.schema import events as table

_HASH_LENGTH = 16
_INSERT = insert(table)
_encode = JSONEncoder(separators=(",", ":")).encode


class EventRow(NamedTuple):
    """A row of the event log."""

    at: float
    type: str
    user_id: str | None
    session_hash: str | None
    data: str


def session_hash(session_id: SessionId) -> str:
    """Name a session for the log: the same name each time, from which the session cannot be told.

    Why: whoever reads logs must not be able to name a session to an endpoint.
    Spec: OWASP ASVS 5.0 16.2.5.
    """
    return sha256(session_id).digest()[:_HASH_LENGTH].hex()


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
            None if event.session_id is None else session_hash(event.session_id),
            _encode(dict(event.data)),
        )
        for event in events
        if event.kept
    ]
