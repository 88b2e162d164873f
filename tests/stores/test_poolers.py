"""A connection pooler between a node and PostgreSQL: one in transaction mode is refused, and any other is none of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing

import anyio
import asyncpg
import pytest

from keyturn.core.errors import UnsafeSettings
from keyturn.stores.engine import open_engine, ping
from keyturn.stores.feeds import PostgresFeed
from keyturn.stores.poolers import connect
from tests.pooler import Pooler, pooling
from tests.services import PostgresServer
from tests.stores.support import PATIENCE, open_database
from tests.stores.test_revocations import revoke

pytestmark = [pytest.mark.anyio, pytest.mark.services]

SETTING = "SELECT current_setting('idle_in_transaction_session_timeout')"


@pytest.fixture
def transactions(postgres: PostgresServer) -> Iterator[Pooler]:
    """A pooler in transaction mode."""
    with pooling(postgres, "transaction") as pooler:
        yield pooler


async def test_transaction_mode_is_refused_and_nothing_of_ours_stays_behind(
    transactions: Pooler, postgres_url: str
) -> None:
    """The backend goes on to somebody else: it has none of our settings, and no statement that we prepared."""
    url = transactions.url(postgres_url)
    engine = open_engine(url)
    for _ in range(2):
        with pytest.raises(UnsafeSettings, match="database_pooled: ") as raised:
            await ping(engine)
        assert raised.value.problems[0].count("session mode") == 1
    await engine.close()
    somebody = await connect(url, name="somebody else")
    assert [tuple(row) for row in await somebody.fetch(SETTING)] == [("0",)]
    assert await somebody.fetch("SELECT FROM pg_prepared_statements WHERE name <> ''") == []
    somebody.terminate()  # type: ignore[no-untyped-call]


async def test_transaction_mode_with_a_backend_for_each_transaction(
    postgres: PostgresServer, postgres_url: str
) -> None:
    """It is refused as well, though no two connections ever have the same backend."""
    with pooling(postgres, "transactions") as pooler:
        engine = open_engine(pooler.url(postgres_url))
        with pytest.raises(UnsafeSettings, match="database_pooled: "):
            await ping(engine)
        await engine.close()


async def test_session_mode_is_as_good_as_none(postgres: PostgresServer, postgres_url: str) -> None:
    """Every connection is set up, the second as the first, and each keeps what it has."""
    with pooling(postgres, "session") as pooler:
        engine = open_engine(pooler.url(postgres_url))
        async with engine.lane() as first, engine.lane() as second, engine.autocommit() as third:
            for lane in (first, second):
                assert [tuple(row) for row in await lane.fetch((SETTING, ()))] == [("5s",)]
            assert (await third.exec_driver_sql(SETTING)).scalar_one() == "5s"
        await engine.close()


@pytest.mark.waits
async def test_session_mode_without_another_backend_is_not_refused(postgres: PostgresServer, postgres_url: str) -> None:
    """Where nothing can be compared, nothing is claimed: `keyturn migrate` needs one backend."""
    with pooling(postgres, "session", limit=1) as pooler:
        engine = open_engine(pooler.url(postgres_url))
        await ping(engine)
        await engine.close()


async def test_direct_connections_begin_with_one_message(
    postgres: PostgresServer, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What finds a pooler out costs a direct connection nothing: it is part of what sets the connection up."""
    sent: list[str] = []
    execute = asyncpg.Connection.execute

    async def tell(connection: asyncpg.Connection, query: str) -> str:
        sent.append(query)
        return await execute(connection, query)

    monkeypatch.setattr(asyncpg.Connection, "execute", tell)
    async with open_database(postgres_url) as engine, engine.lane():
        # SQLAlchemy has looked at the server with the first one.
        sent.clear()
        async with engine.lane() as second:
            assert [query[: query.index("(")] for query in sent] == ["SELECT set_config"]
            assert [tuple(row) for row in await second.fetch((SETTING, ()))] == [("5s",)]


async def test_feed_behind_transaction_mode_hears_all_the_same(transactions: Pooler, postgres_url: str) -> None:
    """A verifying service may be given such a URL: notifications are lost there, so the table is polled."""
    async with open_database(postgres_url) as engine, aclosing(PostgresFeed(transactions.url(postgres_url))()) as feed:
        assert not (await anext(feed)).entries
        await revoke(engine, "gone")
        # Long before the whole table is read again.
        with anyio.fail_after(PATIENCE):
            async for heard in feed:
                if "gone" in [item for item, _ in heard.entries]:
                    break


async def test_feed_behind_session_mode_listens(postgres: PostgresServer, postgres_url: str) -> None:
    """Each transaction's notification brings what it names; a poll would find the first revocation again with the second."""
    with pooling(postgres, "session") as pooler:
        feed = PostgresFeed(pooler.url(postgres_url), heartbeat=PATIENCE)()
        async with open_database(postgres_url) as engine, aclosing(feed) as batches:
            assert not (await anext(batches)).entries
            with anyio.fail_after(PATIENCE / 2):
                for gone in ("first", "second"):
                    await revoke(engine, gone)
                    assert [item for item, _ in (await anext(batches)).entries] == [gone]
