"""The access-token signing keys in the database, each sealed.

Owns: reading and replacing the ring. Must not hold: opening a key, planning (`signing.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import delete, insert, select

from keyturn.stores.engine import AsyncConnection, Engine
from keyturn.stores.revocations import LONGEST
from keyturn.stores.revoking import deny_ids
from keyturn.stores.schema import signing_keys
from keyturn.tokens.keyring import named_kid

_LOCK = "LOCK TABLE keyturn_signing_keys IN SHARE ROW EXCLUSIVE MODE"


class SqlSigningKeys:
    """`ports.SigningKeyStore` over SQLite and PostgreSQL."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def load(self) -> Sequence[bytes]:
        """Read every sealed key.

        Raises:
            Unavailable: the database is at fault.
        """
        async with self._engine.autocommit() as connection:
            return await _read(connection)

    async def replace(self, expected: Sequence[bytes], keys: Sequence[bytes], withdrawn: Collection[str] = ()) -> bool:
        """Set the whole ring if it still is `expected`, in any order; False when it is not.

        Args: withdrawn: ids of keys that leaked. They go on the denylist, so that every node and every service that follows
            it refuses what they sign at once, also while it still knows them.

        Why the lock: on an empty table there is no row that two nodes could meet at, and both would make a first key.

        Raises:
            Unavailable: the database is at fault.
            SealedKeyError: one of `keys` is not a sealed key.
        """
        rows = [{"kid": named_kid(sealed), "sealed": sealed} for sealed in keys]

        async def work(connection: AsyncConnection) -> bool:
            if self._engine.postgres:
                await connection.exec_driver_sql(_LOCK)
            if sorted(await _read(connection)) != sorted(expected):
                return False
            await connection.execute(delete(signing_keys))
            if rows:
                await connection.execute(insert(signing_keys), rows)
            if withdrawn:
                now = await self._engine.read_now(connection)
                await deny_ids(connection, sorted(withdrawn), now, now + LONGEST)
            return True

        return await self._engine.run(work)


async def _read(connection: AsyncConnection) -> list[bytes]:
    found = await connection.execute(select(signing_keys.c.sealed).order_by(signing_keys.c.kid))
    return [bytes(sealed) for sealed in found.scalars()]
