"""Transactions through the driver: they commit or leave nothing, and see what the lock's last holder wrote."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from functools import partial

import pytest
from sqlalchemy.exc import SAWarning

from keyturn.core.errors import Unavailable
from keyturn.core.login import Limit
from keyturn.core.model import RevokeReason, UserId
from keyturn.stores.engine import AsyncConnection, Engine, open_engine
from keyturn.stores.lanes import ROLLBACK, SqliteLanes, Statement, Work
from keyturn.stores.location import normalise
from keyturn.stores.migrations import migrate
from keyturn.stores.revoking import lock_user
from keyturn.stores.sql import SqlSessions
from keyturn.stores.throttle import SqlThrottle
from keyturn.testing import sign_in
from tests.services import PostgresServer, wait_until
from tests.stores.support import eventually, open_database, waited_for
from tests.verify.conftest import no_threads

pytestmark = pytest.mark.anyio

LOCK = 7


WHOSE: Statement = ("SELECT pg_backend_pid()", ())
NAMES: Statement = ("SELECT name FROM keyturn_meta ORDER BY name", ())
WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = $1"
TIMEOUT: Statement = ("PRAGMA busy_timeout", ())


def write(name: str) -> Statement:
    """Return a statement that writes a row of this name, which must be new."""
    return f"INSERT INTO keyturn_meta VALUES ('{name}', '')", ()


def only(statement: Statement) -> Work[None]:
    """Return work that is one statement."""
    yield statement


async def names(engine: Engine) -> list[str]:
    """Read the names of the rows that are there, in order."""
    async with engine.lane() as lane:
        return [row[0] for row in await lane.fetch(NAMES)]


async def whose(engine: Engine) -> int:
    """Say which process of PostgreSQL serves the next lane."""
    async with engine.lane() as lane:
        return int((await lane.fetch(WHOSE))[0][0])


def left_to_the_garbage_collector(recwarn: pytest.WarningsRecorder) -> bool:
    """Say whether a connection was, of which SQLAlchemy warns."""
    return any(issubclass(warning.category, SAWarning) for warning in recwarn)


@contextmanager
def another_process_writing(url: str) -> Iterator[None]:
    """Hold the right to write to a file of SQLite; nothing is written."""
    with closing(sqlite3.connect(str(normalise(url).database), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


async def writes_of(engine: Engine, count: int) -> Sequence[Future[None]]:
    """Wait until the thread of SQLite is at the first of so many writes, and return them."""
    lanes = engine._lanes
    assert isinstance(lanes, SqliteLanes)
    await eventually(lambda: len(lanes._writes) == count and lanes._writes[0].running())
    return lanes._writes


async def test_work_that_ends(database_url: str) -> None:
    """It is committed, its statements saw each other, and its result comes back."""

    def work() -> Work[int]:
        yield write("a")
        yield write("b")
        return len((yield NAMES))

    async with open_database(database_url) as engine:
        assert await engine.transact(work, lock=LOCK) == 2
        assert await names(engine) == ["a", "b"]


async def test_system_without_a_thread_for_it(sqlite_database_url: str) -> None:
    """As at a container's limit: it is a fault, and what was refused is not done later, when there are threads again."""
    async with open_database(sqlite_database_url) as engine:
        await engine.close()
        with no_threads():
            for name in ("a", "b"):
                with pytest.raises(Unavailable):
                    await engine.transact(partial(only, write(name)))
            with pytest.raises(Unavailable):
                async with engine.autocommit() as connection:
                    await connection.exec_driver_sql("SELECT 1")
        await engine.transact(lambda: only(write("c")))
        assert await names(engine) == ["c"]


async def test_work_that_raises(database_url: str, recwarn: pytest.WarningsRecorder) -> None:
    """Nothing of it stays, what it raised comes through, and the next one works."""

    def work() -> Work[None]:
        yield write("a")
        raise LookupError

    def good() -> Work[None]:
        yield write("b")

    async with open_database(database_url) as engine:
        with pytest.raises(LookupError):
            await engine.transact(work, lock=LOCK)
        await engine.transact(good, lock=LOCK)
        assert await names(engine) == ["b"]
    assert not left_to_the_garbage_collector(recwarn)


async def test_work_that_rolls_back(database_url: str) -> None:
    """Nothing of it stays, its result comes back, and the connection is used again."""

    def work() -> Work[str]:
        yield write("a")
        yield ROLLBACK
        return "undone"

    async with open_database(database_url) as engine:
        assert await engine.transact(work, lock=LOCK) == "undone"
        assert await names(engine) == []
        if engine.postgres:
            before = await whose(engine)
            await engine.transact(work, lock=LOCK)
            assert await whose(engine) == before


async def test_statement_that_fails(database_url: str) -> None:
    """Nothing of the transaction stays, and a mistake of ours is no fault of the database."""

    def work() -> Work[None]:
        yield write("a")
        yield "SELEKT 1", ()

    async with open_database(database_url) as engine:
        with pytest.raises(Exception, match="SELEKT") as raised:
            await engine.transact(work)
        assert not isinstance(raised.value, Unavailable)
        assert await names(engine) == []


async def test_disk_that_is_full(sqlite_database_url: str) -> None:
    """It is a fault of the database, also where SQLite has rolled back by itself; nothing of the transaction stays."""
    full: Statement = ("PRAGMA max_page_count = 1", ())
    large: Statement = (f"INSERT INTO keyturn_meta VALUES ('b', '{'x' * 100_000}')", ())

    def work() -> Work[None]:
        yield full
        yield write("a")
        yield large

    async def again(connection: AsyncConnection) -> None:
        for statement, _ in work():
            await connection.exec_driver_sql(statement)

    async with open_database(sqlite_database_url) as engine:
        with pytest.raises(Unavailable):
            await engine.transact(work)
        with pytest.raises(Unavailable):
            await engine.run(again)
        assert await names(engine) == []
        await engine.transact(lambda: only(write("c")))
        assert await names(engine) == ["c"]


async def test_sqlite_read_during_a_write(sqlite_database_url: str) -> None:
    """It sees what was committed and waits for nobody, also when whoever asked for the write has gone away."""
    async with open_database(sqlite_database_url) as engine, open_database(sqlite_database_url) as other:
        await engine.transact(lambda: only(write("a")))
        assert await names(engine) == ["a"]
        async with other.transaction() as connection:
            await connection.exec_driver_sql(write("b")[0])
            waiting = asyncio.create_task(engine.transact(lambda: only(write("c"))))
            [written] = await writes_of(engine, 1)
            assert await names(engine) == ["a"]
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert await names(engine) == ["a"]
            # Had a read waited for it, the write would have waited in vain meanwhile.
            assert written.running()
        # The cancelled write was at work already, so it comes to its end, and this one after it.
        await engine.transact(lambda: only(write("d")))
        assert await names(engine) == await names(other) == ["a", "b", "c", "d"]
        await other.transact(lambda: only(write("e")))
        assert await names(engine) == ["a", "b", "c", "d", "e"]


async def change(engine: Engine, name: str) -> None:
    """Write a row by a statement alone."""
    async with engine.lane() as lane:
        await lane.change(write(name))


async def transact(engine: Engine, name: str) -> None:
    """Write a row in a transaction."""
    await engine.transact(lambda: only(write(name)))


@pytest.mark.parametrize("doing", [change, transact])
async def test_sqlite_beside_another_process(
    sqlite_database_url: str, doing: Callable[[Engine, str], Awaitable[None]]
) -> None:
    """A write waits for another one; a read hardly ever may, because it holds up the event loop."""
    async with open_database(sqlite_database_url) as engine:
        with another_process_writing(sqlite_database_url):
            waiting = asyncio.ensure_future(doing(engine, "a"))
            [written] = await writes_of(engine, 1)
            # Long after a read would have given up.
            await asyncio.sleep(0.3)
            assert written.running()
        await waiting
        assert await names(engine) == ["a"]
        async with engine.lane() as lane:
            assert await lane.fetch(TIMEOUT) == [(50,)]


@pytest.mark.parametrize("doing", [change, transact])
async def test_sqlite_beside_a_process_that_does_not_end(
    sqlite_database_url: str, doing: Callable[[Engine, str], Awaitable[None]]
) -> None:
    """A write gives up, and has left nothing; the next one is as patient as any."""
    async with open_database(sqlite_database_url) as engine:
        await engine.transact(lambda: only(write("a")))
    engine = open_engine(sqlite_database_url, command_timeout=0.2)
    with another_process_writing(sqlite_database_url), pytest.raises(Unavailable):
        await doing(engine, "b")
    await doing(engine, "c")
    assert await names(engine) == ["a", "c"]
    async with engine.lane() as lane:
        assert await lane.fetch(TIMEOUT) == [(50,)]
    await engine.close()


@pytest.fixture
async def snapshots(postgres_url: str) -> AsyncIterator[Engine]:
    """A migrated database where transactions keep their snapshot, unless they say otherwise."""
    engine = open_engine(postgres_url)
    await migrate(engine)
    async with engine.autocommit() as connection:
        database = normalise(postgres_url).database
        setting = f"ALTER DATABASE {database} SET default_transaction_isolation = 'repeatable read'"
        await connection.exec_driver_sql(setting)
    await engine.close()
    yield engine
    await engine.close()


async def test_lock_in_a_database_with_another_isolation(snapshots: Engine) -> None:
    """Who waited for the lock sees what its last holder wrote, also where snapshots are kept for a whole transaction."""
    engine = snapshots

    def work() -> Work[list[str]]:
        return [row[0] for row in (yield NAMES)]

    async with engine.transaction() as connection:
        await connection.exec_driver_sql("SELECT pg_advisory_xact_lock($1)", (LOCK,))
        waiting = asyncio.create_task(engine.transact(work, lock=LOCK))
        async with engine.lane() as lane, asyncio.timeout(30):
            while not (await lane.fetch((WAITING, (LOCK,))))[0][0]:
                assert not waiting.done()
        await connection.exec_driver_sql(write("a")[0])
    assert "a" in await waiting


async def test_revocation_in_a_database_with_another_isolation(snapshots: Engine) -> None:
    """It ends what the one before it under the user's lock has written: a login that has just come in does not survive it."""
    store = SqlSessions(snapshots, denylist_lifetime=610.0, heal_time=900.0)
    holder = await sign_in(store, "somebody")
    async with snapshots.transaction() as connection:
        await lock_user(connection, UserId("user-1"))
        revoking = asyncio.create_task(store.revoke("user-1", RevokeReason.LOGOUT))
        await waited_for(snapshots)
        await connection.exec_driver_sql("UPDATE keyturn_sessions SET user_id = 'user-1'")
    assert await revoking == [holder.session_id]
    await store.close()


async def test_statement_in_a_database_with_another_isolation(snapshots: Engine) -> None:
    """One that has waited for a row goes on with what was written there, instead of being told to try again."""
    throttle, limit = SqlThrottle(snapshots), Limit(("address",), 9, 900.0)
    assert await throttle.take([limit]) is None
    async with snapshots.transaction() as connection:
        await connection.exec_driver_sql("UPDATE keyturn_counters SET amount = 5")
        giving = asyncio.create_task(throttle.give_back([limit]))
        await waited_for(snapshots)
    await giving
    async with snapshots.lane() as lane:
        assert await lane.fetch(("SELECT amount FROM keyturn_counters", ())) == [(4,)]


async def test_connections_that_are_kept(
    postgres: PostgresServer, postgres_url: str, recwarn: pytest.WarningsRecorder
) -> None:
    """A lane keeps its connection out of the pool, up to a number; one that died is not lent; all end with the engine."""
    engine = open_engine(postgres_url, pool_size=4)
    async with engine.lane() as first, engine.lane() as second:
        backends = {int((await lane.fetch(WHOSE))[0][0]) for lane in (first, second)}
    assert len(backends) == 2
    kept = await whose(engine)
    assert kept in backends
    assert await whose(engine) == kept
    # The other one is the pool's, and so are the two that were never opened.
    async with engine.autocommit(), engine.autocommit(), engine.autocommit():
        postgres.execute(f"SELECT pg_terminate_backend({kept}, 10000)", "postgres")
        with suppress(Unavailable):  # the driver may not have noticed yet
            await whose(engine)
    assert await whose(engine) != kept
    async with engine.lane() as lent:
        await engine.close()
        assert await lent.fetch(WHOSE)
    alive = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{normalise(postgres_url).database}'"
    await asyncio.to_thread(wait_until, lambda: postgres.execute(alive, "postgres") == "0", 30, "the end of all")
    assert not left_to_the_garbage_collector(recwarn)


async def test_read_beside_a_write_that_was_given_up(sqlite_database_url: str) -> None:
    """A write that is cancelled in the queue ends no other: whoever reads meanwhile waits for neither of them."""
    async with open_database(sqlite_database_url) as engine:
        await engine.transact(lambda: only(write("a")))
        with another_process_writing(sqlite_database_url):
            at_work: list[Future[None]] = []
            for count, name in enumerate(("b", "c"), 1):
                given_up = asyncio.create_task(engine.transact(partial(only, write(name))))
                at_work.append((await writes_of(engine, count))[0])
                given_up.cancel()
                with suppress(asyncio.CancelledError):
                    await given_up
            # A read that waited for the first write would hold up the event loop until that one had waited in vain.
            assert await names(engine) == ["a"]
            assert at_work[0] is at_work[1]
            assert at_work[0].running()
        await engine.transact(lambda: only(write("d")))
        assert await names(engine) == ["a", "b", "d"]
