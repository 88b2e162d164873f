"""The contract of a session store, over SQLite and PostgreSQL, with and without groups."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence

import pytest
from sqlalchemy import select

from keyturn.stores.engine import Engine, open_engine
from keyturn.stores.failover import start_healing
from keyturn.stores.migrations import migrate
from keyturn.stores.schema import denylist, events
from keyturn.stores.sql import SqlSessions
from keyturn.testing import FrozenClock, StoreContract
from keyturn.testing.contract_base import ContractBase
from keyturn.testing.presenting_contract import PresentingContract

pytestmark = pytest.mark.anyio


class SqlNodes(ContractBase):
    """The hooks, over the database of the test."""

    group_size = 256

    @pytest.fixture(autouse=True)
    async def _database(self, database_url: str) -> AsyncIterator[None]:
        await migrate(database_url)
        self.url = database_url
        self.engines: list[Engine] = []
        self.stores: list[SqlSessions] = []
        yield
        for store in self.stores:
            await store.close()
        for engine in self.engines:
            await engine.close()

    async def make_store(self, clock: FrozenClock) -> SqlSessions:
        """Make a node: a pool of its own over the same database."""
        engine = open_engine(self.url)
        store = SqlSessions(
            engine, denylist_lifetime=610.0, heal_time=900.0, clock=clock, group_size=self.group_size, touch_period=0.05
        )
        self.engines.append(engine)
        self.stores.append(store)
        return store

    async def kept_events(self) -> Sequence[str]:
        async with self.engines[0].autocommit() as connection:
            return list((await connection.execute(select(events.c.type).order_by(events.c.id))).scalars())

    async def denied(self) -> Collection[str]:
        async with self.engines[0].autocommit() as connection:
            return list((await connection.execute(select(denylist.c.id))).scalars())

    async def start_healing(self, seconds: float, clock: FrozenClock) -> None:
        await start_healing(self.engines[0], seconds, clock=clock)


class TestInGroups(SqlNodes, StoreContract):
    """As it runs."""


class TestOneByOne(SqlNodes, PresentingContract):
    """With groups switched off, as the benchmark's baseline."""

    group_size = 1


class TestInSmallGroups(SqlNodes, PresentingContract):
    """With more callers than a group takes."""

    group_size = 4
