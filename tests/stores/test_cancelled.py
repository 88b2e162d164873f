"""Callers who are cancelled at every point where they wait: nothing of theirs is left behind, no connection and no lock."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from contextlib import AsyncExitStack, suppress
from functools import partial
from itertools import count
from typing import Any

import psutil
import pytest

from keyturn.stores.engine import AsyncConnection, Engine, check_durability, open_engine
from keyturn.stores.failover import start_healing
from keyturn.stores.lanes import Statement, Work
from keyturn.stores.migrations import migrate
from keyturn.stores.rights import ping_for_writing
from tests.stores.support import PATIENCE, eventually

pytestmark = pytest.mark.anyio

POOL = 4
WRITE = "INSERT INTO keyturn_meta VALUES ('a', '') ON CONFLICT (name) DO UPDATE SET value = ''"
WHOSE: Statement = ("SELECT pg_backend_pid()", ())
OTHERS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
BUSY = f"{OTHERS} AND state <> 'idle'"


class Cancelled:
    """Awaits something, and cancels the task that does when it waits for the n-th time.

    Args: answered: only as what it waits for is there, which is then lost on the way.
    """

    def __init__(self, work: Awaitable[object], at: int, *, answered: bool) -> None:
        self._work = work
        self._at = at
        self._answered = answered
        self.waits = 0

    def __await__(self) -> Generator[Any, Any, None]:
        task = asyncio.current_task()
        assert task is not None
        steps = self._work.__await__()
        step: Callable[[], Any] = partial(next, steps)
        while True:
            try:
                waited = step()
            except StopIteration:
                return
            self.waits += 1
            if self.waits == self._at:
                if self._answered and waited is not None:
                    waited.add_done_callback(lambda _: task.cancel())
                else:
                    asyncio.get_running_loop().call_soon(task.cancel)
            try:
                yield waited
                step = partial(next, steps)
            except BaseException as error:  # noqa: BLE001 - it goes on where it would have gone
                step = partial(steps.throw, error)


async def everywhere(work: Callable[[], Awaitable[object]]) -> AsyncGenerator[None]:
    """Do the same again and again, cancelled each time where it waits next; come back after each."""
    for answered in (False, True):
        for at in count(1):
            caller = Cancelled(work(), at, answered=answered)

            async def call(caller: Cancelled = caller) -> None:
                await caller

            with suppress(asyncio.CancelledError):
                await asyncio.create_task(call())
            yield
            if caller.waits < at:
                break


@pytest.fixture
def without_collector() -> Iterator[None]:
    """Leave what is lost where it is: the garbage collector may come at any time, or late."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    gc.collect()


@pytest.fixture
async def engine(database_url: str) -> AsyncGenerator[Engine]:
    """A migrated database with a few connections."""
    engine = open_engine(database_url, pool_size=POOL, connect_timeout=PATIENCE, command_timeout=PATIENCE)
    await migrate(engine)
    yield engine
    await engine.close()


async def whole(engine: Engine) -> None:
    """See that every connection can be had, each by one, that nothing is under way on any, and that it can be written."""
    async with asyncio.timeout(PATIENCE):
        if engine.postgres:
            async with AsyncExitStack() as stack:
                lanes = [await stack.enter_async_context(engine.lane()) for _ in range(POOL)]
                assert len({(await lane.fetch(WHOSE))[0][0] for lane in lanes}) == POOL
                while (await lanes[0].fetch((BUSY, ())))[0][0]:
                    pass
        await engine.transact(only_write)
        await engine.run(write)


def only_write() -> Work[None]:
    """Write, and nothing else."""
    yield WRITE, ()


async def write(connection: AsyncConnection) -> None:
    """Do the same through SQLAlchemy."""
    await connection.exec_driver_sql(WRITE)


async def lane(engine: Engine) -> None:
    """Read and write on a lane."""
    async with engine.lane() as lane:
        await lane.fetch(("SELECT 1", ()))
        await lane.change((WRITE, ()))


async def read(engine: Engine) -> None:
    """Read on a connection of SQLAlchemy."""
    async with engine.autocommit() as connection:
        for _ in range(2):
            await connection.exec_driver_sql("SELECT 1")


async def transact(engine: Engine) -> None:
    """Write in a transaction of the driver, under a lock."""
    await engine.transact(only_write, lock=7)


async def run(engine: Engine) -> None:
    """Write in a transaction of SQLAlchemy."""
    await engine.run(write)


async def probe(engine: Engine) -> None:
    """Ask for a sign of life, of SQLite one that is written."""
    if engine.sqlite is not None:
        engine.sqlite.refused = True
    await ping_for_writing(engine)


async def heal(engine: Engine) -> None:
    """Be the operator who says that lost commits are not to be believed."""
    await start_healing(engine, 0.0)


OPENING = [read, run, probe, heal, check_durability]
"""What a caller does who opens a connection and may leave it while it is being opened."""


@pytest.mark.parametrize("doing", [lane, transact, *OPENING])
@pytest.mark.usefixtures("without_collector")
async def test_caller_who_is_cancelled(engine: Engine, doing: Callable[[Engine], Awaitable[None]]) -> None:
    """Whoever comes next has the whole pool, and nobody's lock in the way."""
    await whole(engine)
    async for _ in everywhere(lambda: doing(engine)):
        await whole(engine)


async def all_closed(engine: Engine) -> None:
    """Wait until nobody has a connection to the database; of SQLite, until this process has closed the file."""
    other = open_engine(engine.sqlalchemy.url.render_as_string(hide_password=False), pool_size=1)

    def closed() -> bool:
        return str(engine.file) not in {file.path for file in psutil.Process().open_files()}

    if engine.postgres:
        async with asyncio.timeout(PATIENCE), other.autocommit() as connection:
            while (await connection.exec_driver_sql(OTHERS)).scalar_one():
                pass
        await other.close()
    else:
        await eventually(closed)


# Of SQLite, what a cancelled statement was in the middle of keeps its connection open until the garbage collector comes.
@pytest.mark.parametrize("database_url", [pytest.param("postgresql", marks=pytest.mark.services)], indirect=True)
@pytest.mark.parametrize("doing", OPENING)
@pytest.mark.usefixtures("without_collector")
async def test_caller_who_is_cancelled_before_the_end(
    engine: Engine, doing: Callable[[Engine], Awaitable[None]]
) -> None:
    """No connection stays open: nobody would close it any more."""
    async for _ in everywhere(lambda: doing(engine)):
        await engine.close()
        await all_closed(engine)


@pytest.mark.usefixtures("without_collector")
async def test_connection_that_is_lent_at_the_end(engine: Engine) -> None:
    """It can be used on, and is closed when it is given back."""
    async with engine.autocommit() as connection:
        await engine.close()
        assert (await connection.exec_driver_sql("SELECT 1")).scalar_one() == 1
    await all_closed(engine)
