"""The access-token signing keys in the database, each sealed.

Owns: reading and replacing the ring. Must not hold: opening a key, planning (`signing.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, insert, select

from keyturn.ports import Clock, PlanKeys
from keyturn.stores.engine import AsyncConnection, Engine
from keyturn.stores.revocations import LONGEST
from keyturn.stores.revoking import deny_ids
from keyturn.stores.schema import signing_keys
from keyturn.tokens.sealed_key import named_kid

_LOCK = "LOCK TABLE keyturn_signing_keys IN SHARE ROW EXCLUSIVE MODE"


class SqlSigningKeys:
    """`ports.SigningKeyStore` over SQLite and PostgreSQL.

    Args:
        clock: stands in for the database's, in tests.
    """

    def __init__(self, engine: Engine, clock: Clock | None = None) -> None:
        self._engine = engine
        self._clock = clock

    async def load(self) -> tuple[Sequence[bytes], float]:
        """Read every sealed key, and the database's clock.

        Raises:
            Unavailable: the database is at fault.
        """
        async with self._engine.autocommit() as connection:
            return await _read(connection), await self._engine.read_now(connection, self._clock)

    async def change(self, plan: PlanKeys) -> None:
        """Set the whole ring to what is planned from what is read under a lock. Keys that leaked go on the denylist, so that
        every node and every service that follows it refuses what they sign at once, also while it still knows them.

        Why the lock: on an empty table there is no row that two nodes could meet at, and both would make a first key. And
        the clock is read under it, so that nobody writes by a time that has long passed.

        Raises:
            Unavailable: the database is at fault.
            SealedKeyError: one of the keys is not a sealed key. And what `plan` raises.
        """

        async def work(connection: AsyncConnection) -> None:
            if self._engine.postgres:
                await connection.exec_driver_sql(_LOCK)
            found = await _read(connection)
            now = await self._engine.read_now(connection, self._clock)
            keys, leaked = plan(found, now)
            rows = [{"kid": named_kid(sealed), "sealed": sealed} for sealed in keys]
            if sorted(keys) != sorted(found):
                await connection.execute(delete(signing_keys))
                if rows:
                    await connection.execute(insert(signing_keys), rows)
            if leaked:
                await deny_ids(connection, sorted(leaked), now, now + LONGEST)

        await self._engine.run(work)


async def _read(connection: AsyncConnection) -> list[bytes]:
    found = await connection.execute(select(signing_keys.c.sealed).order_by(signing_keys.c.kid))
    return [bytes(sealed) for sealed in found.scalars()]
