"""Transactions whose callers are cancelled, as some servers do when a client goes: all or nothing, and no lock stays."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import count

import pytest

from keyturn.stores.engine import AsyncConnection
from tests.stores.support import PATIENCE, open_database

pytestmark = pytest.mark.anyio

CALLERS = 40


async def test_callers_who_are_cancelled(database_url: str) -> None:
    """Wherever it strikes, both rows come to stand there, and the next one writes without waiting for a lock."""
    numbers = count()

    async def write_two(connection: AsyncConnection) -> None:
        for _ in range(2):
            await connection.exec_driver_sql(f"INSERT INTO keyturn_meta VALUES ('{next(numbers)}', '')")

    async with open_database(database_url) as engine:
        for number in range(CALLERS):
            caller = asyncio.ensure_future(engine.run(write_two))
            await asyncio.sleep(number * 0.0001)
            caller.cancel()
            with suppress(asyncio.CancelledError):
                await caller
        async with asyncio.timeout(PATIENCE):
            await engine.run(write_two)
        async with engine.autocommit() as connection:
            rows = await connection.exec_driver_sql("SELECT count(*) FROM keyturn_meta WHERE name < 'a'")
            written = rows.scalar_one()
    assert written == 2 * (CALLERS + 1)
