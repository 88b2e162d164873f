"""Delete what nobody needs any more, in small bites, on one node at a time.

Owns: what is deleted and when. Must not hold: a timer (the server has it), retention times (`core/policy.py`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from sqlalchemy import Column, ColumnElement, Table, delete, select

from keyturn.core.policy import DAY
from keyturn.ports import Clock
from keyturn.stores.engine import AsyncConnection, Engine
from keyturn.stores.meta import get_meta, put_meta
from keyturn.stores.schema import counters, denylist, events, sessions

LEASE = "prune_until"
LEASE_TIME = 60.0
"""Seconds after which a SQLite node that died in the middle of pruning is no longer waited for."""
SESSION_RETENTION = DAY
"""Seconds a session is kept past its absolute end: a client that comes back is told why, not that it is unknown."""
_TRY = "SELECT pg_try_advisory_lock(hashtextextended('keyturn:prune', 0))"
_LEAVE = "SELECT pg_advisory_unlock(hashtextextended('keyturn:prune', 0))"


class SqlUpkeep:
    """Prune the tables of a database.

    Args:
        engine: SQLite or PostgreSQL, migrated.
        event_retention: seconds for which events are kept (`Policy.event_retention`).
        clock: stands in for the database's clock, in tests.
    """

    def __init__(self, engine: Engine, *, event_retention: float, clock: Clock | None = None) -> None:
        self._engine = engine
        self._event_retention = event_retention
        self._clock = clock

    async def prune(self, *, batch: int = 1000) -> int:
        """Delete what has expired and return how many rows; 0 at once while another node prunes.

        Args: batch: rows per transaction at most, so that no refresh waits for long.
        Raises: Unavailable: the database is at fault; what was deleted stays deleted. ValueError: `batch` is below 1.
        """
        if batch < 1:
            raise ValueError("a batch has at least one row")
        async with self._elected() as elected:
            if not elected:
                return 0
            async with self._engine.autocommit() as connection:
                now = await self._engine.read_now(connection, self._clock)
            return sum(
                [
                    await self._empty(
                        sessions, sessions.c.id, sessions.c.absolute_expires_at, now - SESSION_RETENTION, batch
                    ),
                    await self._empty(denylist, denylist.c.id, denylist.c.expires_at, now, batch),
                    await self._empty(counters, counters.c.key_hash, counters.c.expires_at, now, batch),
                    await self._empty(events, events.c.id, events.c.at, now - self._event_retention, batch),
                ]
            )

    async def _empty(
        self, table: Table, key: Column[object], time: ColumnElement[float], before: float, batch: int
    ) -> int:
        """Delete the rows whose time is before the given one, the oldest first.

        Each batch begins where the last one has ended. Why: PostgreSQL keeps what was deleted in the index, until a vacuum
        that may have to wait for a backup's snapshot, and would walk past all of it for each batch.
        """

        async def work(connection: AsyncConnection) -> Sequence[float]:
            if not self._engine.postgres:
                await self._extend_lease(connection)
            # Rows that a refresh or another transaction holds are left for the next time instead of waited for. Chosen
            # once, by a WITH: PostgreSQL may ask a subquery again for each row, and then all are deleted at once.
            chosen = (
                select(key)
                .where(time >= since, time < before)
                .order_by(time)
                .limit(batch)
                .with_for_update(skip_locked=True)
                .cte("chosen")
            )
            statement = delete(table).where(key.in_(select(*chosen.c))).returning(time)
            return (await connection.execute(statement)).scalars().all()

        total, since = 0, 0.0
        while deleted := await self._engine.run(work):
            total += len(deleted)
            if len(deleted) < batch:
                break
            since = max(deleted)
        return total

    @asynccontextmanager
    async def _elected(self) -> AsyncGenerator[bool]:
        """Become the one node that prunes, if there is none."""
        if self._engine.postgres:
            # The lock belongs to this connection: it is free again when the node dies.
            async with self._engine.autocommit() as connection:
                elected = bool((await connection.exec_driver_sql(_TRY)).scalar_one())
                try:
                    yield elected
                finally:
                    if elected:
                        await connection.exec_driver_sql(_LEAVE)
            return
        elected = await self._engine.run(self._take_lease)
        try:
            yield elected
        finally:
            if elected:
                await self._engine.run(lambda connection: self._set_lease(connection, 0.0))

    async def _take_lease(self, connection: AsyncConnection) -> bool:
        now = await self._engine.read_now(connection, self._clock)
        held = (await connection.execute(get_meta(LEASE))).scalar_one_or_none()
        # A lease from further ahead than a lease lasts was written before the clock was set back.
        if held is not None and now < float(held) <= now + LEASE_TIME:
            return False
        await self._set_lease(connection, now + LEASE_TIME)
        return True

    async def _extend_lease(self, connection: AsyncConnection) -> None:
        await self._set_lease(connection, await self._engine.read_now(connection, self._clock) + LEASE_TIME)

    async def _set_lease(self, connection: AsyncConnection, until: float) -> None:
        await connection.execute(put_meta(connection, LEASE, repr(until)))
