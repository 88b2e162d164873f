"""Transactions whose callers are cancelled, as some servers do when a client goes, or that do not get their turn."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import count
from typing import Any

import pytest

from keyturn.core.errors import Unavailable
from keyturn.stores import engine as engine_module
from keyturn.stores.engine import ATTEMPTS, AsyncConnection, Engine, open_engine, until_won
from keyturn.testing import FrozenClock
from tests.stores.support import PATIENCE, open_database, open_empty

pytestmark = pytest.mark.anyio

CALLERS = 40


async def test_lock_that_is_not_let_go(sqlite_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has waited for another process in vain does not wait for it four times more; who was refused at once tries again."""
    clock = FrozenClock()
    monkeypatch.setattr(engine_module, "monotonic", clock)
    async with open_database(sqlite_database_url), open_database(sqlite_database_url) as other:
        engine = open_engine(sqlite_database_url, command_timeout=0.01)
        async with other.transaction():
            for waited, tries in ((10.0, 1), (0.01, ATTEMPTS)):
                tried = 0

                async def once(waited: float = waited) -> None:
                    nonlocal tried
                    tried += 1
                    try:
                        async with engine.transaction():
                            pass
                    finally:
                        clock.advance(waited)

                with pytest.raises(Unavailable):
                    await until_won(once)
                assert tried == tries
        await engine.close()


@pytest.mark.parametrize("doing", [Engine.run, Engine.transact])
async def test_turn_that_does_not_come(
    sqlite_database_url: str, doing: Callable[[Engine, Any], Awaitable[None]]
) -> None:
    """Who waits in vain for others of this process to have written is told so, as who waits for another process is."""
    engine = open_empty(sqlite_database_url, command_timeout=0.05)
    async with engine.transaction(), asyncio.timeout(PATIENCE):
        with pytest.raises(Unavailable):
            await doing(engine, None)
    await engine.close()


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
        # PostgreSQL has several at once: one whose caller has gone may not have come to its end yet.
        await engine.close()
        async with engine.autocommit() as connection:
            rows = await connection.exec_driver_sql("SELECT count(*) FROM keyturn_meta WHERE name < 'a'")
            written = rows.scalar_one()
    assert written == 2 * (CALLERS + 1)
