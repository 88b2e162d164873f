"""The few facts that all nodes share, each by its name: a row of `keyturn_meta`.

Owns: how one is read and set. Must not hold: which facts there are (`failover.py`, `pruning.py`, `rights.py`).
"""

from __future__ import annotations

from sqlalchemy import Insert, Select, select
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from keyturn.stores.engine import AsyncConnection
from keyturn.stores.schema import meta


def get_meta(name: str) -> Select[str]:
    """Build the statement that reads a fact; without a row it was never set."""
    return select(meta.c.value).where(meta.c.name == name)


def put_meta(connection: AsyncConnection, name: str, value: str) -> Insert:
    """Build the statement that sets a fact, in the dialect of the connection that will execute it."""
    kind = postgres_insert if connection.dialect.name == "postgresql" else sqlite_insert
    statement = kind(meta).values(name=name, value=value)
    return statement.on_conflict_do_update(index_elements=[meta.c.name], set_={"value": value})
