"""Notice that the database has lost commits, and believe the tokens that are ahead of it for a while.

Owns: until when tokens are believed, and how a failover is seen. Must not hold: what believing means (`core/rotation.py`).

Promoting a PostgreSQL standby, or recovering one to a point in time, starts a new *timeline*. The last one seen is kept
in the database itself; a higher one means that commits may be lost, and healing begins by itself. A restore that keeps
the timeline cannot be told from the database, so there the operator says so (`keyturn heal`).

Until when is kept with how long that was to be: what has longer to go was set by a clock that was ahead, and begins anew.
"""

from __future__ import annotations

from math import inf

from sqlalchemy.exc import DBAPIError

from keyturn.ports import Clock
from keyturn.stores.engine import AsyncConnection, Engine
from keyturn.stores.meta import get_meta, put_meta

HEAL_UNTIL = "heal_until"
HEAL_FOR = "heal_for"
TIMELINE = "timeline"

# The first eight hex digits of a WAL file's name are the timeline. The control file would tell it only after the next
# checkpoint, minutes late.
_TIMELINE = (
    "SELECT CASE WHEN pg_is_in_recovery() THEN NULL "
    "ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int8 END"
)


class Failover:
    """Say whether lost commits are to be believed now.

    Args:
        engine: the database.
        heal_time: seconds for which a failover that was seen is healed.
        clock: stands in for the database's clock.
    """

    def __init__(self, engine: Engine, *, heal_time: float, clock: Clock | None = None) -> None:
        self._engine = engine
        self._heal_time = heal_time
        self._clock = clock
        self._timeline_readable = engine.postgres

    async def check(self) -> None:
        """Look whether there was a failover, or the clock was set back; at start-up and from time to time. Raises: Unavailable."""
        async with self._engine.autocommit() as connection:
            await self.healing(connection)

    async def healing(self, connection: AsyncConnection) -> bool:
        """Say whether tokens that are ahead are to be believed, looked up afresh on a connection in use."""
        await self._look(connection)
        now = await self._engine.read_now(connection, self._clock)
        until, seconds = await _number(connection, HEAL_UNTIL, 0.0), await _number(connection, HEAL_FOR, inf)
        if until > now + seconds:
            until = now + seconds
            await connection.execute(put_meta(connection, HEAL_UNTIL, repr(until)))
        return now < until

    async def _look(self, connection: AsyncConnection) -> None:
        if not self._timeline_readable:
            return
        try:
            timeline = (await connection.exec_driver_sql(_TIMELINE)).scalar_one()
        except DBAPIError as error:
            # Not every service that speaks PostgreSQL tells its timeline: the operator's switch is then the only way.
            if getattr(error.orig, "sqlstate", None) not in {"0A000", "42501", "42883", "55000"}:
                raise
            self._timeline_readable = False
            return
        if timeline is not None:
            await self._compare(connection, str(timeline))

    async def _compare(self, connection: AsyncConnection, timeline: str) -> None:
        seen = (await connection.execute(get_meta(TIMELINE))).scalar_one_or_none()
        if seen != timeline:
            # Healing first, so that a node that dies in between leaves the failover to be seen by the next one. A lower
            # number is another cluster: noted, not healed.
            if seen is not None and int(timeline) > int(seen):
                now = await self._engine.read_now(connection, self._clock)
                if now + self._heal_time > await _number(connection, HEAL_UNTIL, 0.0):
                    await _heal(connection, now, self._heal_time)
            await connection.execute(put_meta(connection, TIMELINE, timeline))


async def start_healing(engine: Engine, seconds: float, *, clock: Clock | None = None) -> float:
    """Believe tokens that are ahead of the database for some seconds from now; 0 ends it. Return until when.

    The operator's switch, after a restore from a backup.

    Raises: Unavailable: the database is at fault.
    """

    async def work(connection: AsyncConnection) -> float:
        return await _heal(connection, await engine.read_now(connection, clock), seconds)

    return await engine.run(work)


async def healing_until(engine: Engine) -> float:
    """Say until when tokens that are ahead are believed, in seconds since the epoch; 0.0 when never."""
    async with engine.autocommit() as connection:
        return await _number(connection, HEAL_UNTIL, 0.0)


async def _heal(connection: AsyncConnection, now: float, seconds: float) -> float:
    """Begin, and return until when; how long comes first, so that nobody takes the new end for one of a clock ahead."""
    await connection.execute(put_meta(connection, HEAL_FOR, repr(seconds)))
    await connection.execute(put_meta(connection, HEAL_UNTIL, repr(now + seconds)))
    return now + seconds


async def _number(connection: AsyncConnection, name: str, default: float) -> float:
    return float((await connection.execute(get_meta(name))).scalar_one_or_none() or default)
