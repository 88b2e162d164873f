"""A SQLite file that is deleted, moved or replaced while it is open: nothing is lost that was acknowledged, nothing is made
in its place, and what was put there is not spoilt.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, closing
from pathlib import Path

import pytest
from sqlalchemy import URL

from keyturn.core.errors import Unavailable
from keyturn.stores import sqlite
from keyturn.stores.engine import AsyncConnection, Engine, open_engine
from keyturn.stores.feeds import PollingFeed
from keyturn.stores.lanes import Work
from keyturn.stores.migrations import migrate
from keyturn.stores.revocations import MemoryDenylist
from keyturn.stores.revoking import deny_ids
from keyturn.testing import FrozenClock
from tests.stores.support import eventually

pytestmark = pytest.mark.anyio

WRITE = "INSERT OR REPLACE INTO keyturn_meta VALUES ('a', '')"
READ = "SELECT name FROM keyturn_meta"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file is: alone with those beside it."""
    directory = tmp_path / "data"
    directory.mkdir()
    return directory / "keyturn.db"


@pytest.fixture
async def engine(path: Path) -> AsyncGenerator[Engine]:
    """An open database, which has written and read by each of its ways."""
    engine = open_engine(f"sqlite:///{path}")
    await migrate(engine)
    for way in (*READS, *WRITES):
        await way(engine)
    yield engine
    await engine.close()


async def read_by_lane(engine: Engine) -> None:
    """Read as a refresh does."""
    async with engine.lane() as lane:
        await lane.fetch((READ, ()))


async def read_by_pool(engine: Engine) -> None:
    """Read as a list of sessions does."""
    async with engine.autocommit() as connection:
        await connection.exec_driver_sql(READ)


async def write_by_lane(engine: Engine) -> None:
    """Write as a refresh does."""
    async with engine.lane() as lane:
        await lane.change((WRITE, ()))


async def write_in_transaction(engine: Engine) -> None:
    """Write as a login does."""

    def work() -> Work[None]:
        yield "DELETE FROM keyturn_meta", ()

    await engine.transact(work)


async def write_by_pool(engine: Engine) -> None:
    """Write as the end of a session does."""

    async def work(connection: AsyncConnection) -> None:
        await connection.exec_driver_sql("DELETE FROM keyturn_meta")

    await engine.run(work)


Way = Callable[[Engine], Awaitable[None]]
READS: tuple[Way, ...] = (read_by_lane, read_by_pool)
WRITES: tuple[Way, ...] = (write_by_lane, write_in_transaction, write_by_pool)


def delete(path: Path) -> None:
    """Delete the file alone."""
    path.unlink()


def delete_all(path: Path) -> None:
    """Delete the directory."""
    shutil.rmtree(path.parent)


def replace(path: Path) -> None:
    """Put a backup in its place."""
    backup = path.with_name("backup.db")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("VACUUM INTO ?", (str(backup),))
    backup.replace(path)


@pytest.mark.parametrize("away", [delete, delete_all, replace])
@pytest.mark.parametrize("write", WRITES)
async def test_write_after_the_file_has_gone(
    engine: Engine, path: Path, away: Callable[[Path], None], write: Way
) -> None:
    """The very first one is a fault, and everything after it: nothing is acknowledged that would be lost."""
    away(path)
    for way in (write, *READS, *WRITES):
        with pytest.raises(Unavailable):
            await way(engine)


@pytest.mark.parametrize("away", [delete, delete_all, replace])
@pytest.mark.parametrize("read", READS)
async def test_read_after_the_file_has_gone(
    engine: Engine, path: Path, away: Callable[[Path], None], read: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a fault a second later: what was read then was true a moment ago."""
    clock = FrozenClock()
    monkeypatch.setattr(sqlite, "monotonic", clock)
    await write_by_lane(engine)
    away(path)
    await read(engine)
    clock.advance(1.0)
    for way in (read, *READS, *WRITES):
        with pytest.raises(Unavailable):
            await way(engine)


async def test_file_that_comes_back(engine: Engine, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where it was only moved, everything goes on once it is back; both are said, and once."""
    away = path.with_name("away.db")
    path.rename(away)
    for _ in range(2):
        with pytest.raises(Unavailable):
            await write_by_lane(engine)
    away.rename(path)
    for way in (*WRITES, *READS):
        await way(engine)
    told = [record.getMessage().removeprefix(f"{path} ") for record in caplog.records if record.name == sqlite.__name__]
    assert [text.partition(":")[0] for text in told] == ["was deleted, moved or replaced", "is back in its place"]


async def test_connection_to_a_file_that_has_gone(path: Path) -> None:
    """A connection that is opened then makes no file."""
    engine = open_engine(f"sqlite:///{path}")
    await migrate(engine)
    async with engine.autocommit():
        delete_all(path)
        path.parent.mkdir()
        for way in (*READS, *WRITES):
            with pytest.raises(Unavailable):
                await way(engine)
    await engine.close()
    assert not list(path.parent.iterdir())


async def test_backup_that_was_put_in_place_too_early(engine: Engine, path: Path) -> None:
    """It stays as it is: it is not read through the write-ahead log that is beside it still, which is of the file before."""
    async with engine.autocommit():
        replace(path)
        before = path.read_bytes()
        assert path.with_name("keyturn.db-wal").stat().st_size
        async with aclosing(PollingFeed(f"sqlite:///{path}")()) as feed:
            await anext(feed)
        for way in (read_by_pool, *WRITES):
            with pytest.raises(Unavailable):
                await way(engine)
    await engine.close()
    assert path.read_bytes() == before


async def test_start_after_the_file_was_replaced(engine: Engine, path: Path) -> None:
    """An engine that was closed takes the file that is there when it is used again."""
    await engine.close()
    replace(path)
    for way in (*WRITES, *READS):
        await way(engine)


@pytest.mark.parametrize("name", ["a b.db", "what?.db", "a#b.db", "100%.db", "a%20b.db", "a&mode=ro.db", "ä.db"])
@pytest.mark.parametrize("spelling", ["{}", "file:{}?uri=true"])
async def test_file_by_a_name_with_a_meaning(path: Path, name: str, spelling: str) -> None:
    """Whatever means something in a URI is the file's own name all the same."""
    named = path.with_name(name)
    written = URL.create("sqlite", database=str(named)).render_as_string()
    if "uri" in spelling:
        inner = named.as_uri().removeprefix("file://")
        written = URL.create("sqlite", database=f"file:{inner}", query={"uri": "true"}).render_as_string()
    engine = open_engine(written)
    await migrate(engine)
    for way in (*WRITES, *READS):
        await way(engine)
    assert named in named.parent.iterdir()
    assert {file.name.removeprefix(name) for file in named.parent.iterdir()} == {"", "-wal", "-shm"}
    denylist = MemoryDenylist(PollingFeed(written))
    await denylist.start()
    assert denylist.is_current()
    await denylist.close()
    await engine.close()


async def test_process_that_goes_elsewhere(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name without a directory means the file where the process was when it was named."""
    monkeypatch.chdir(path.parent)
    engine, feed = open_engine("sqlite:///keyturn.db"), PollingFeed("sqlite:///keyturn.db")
    await migrate(engine)
    monkeypatch.chdir(os.sep)
    for way in (*WRITES, *READS):
        await way(engine)
    async with aclosing(feed()) as heard:
        assert (await anext(heard)).now is not None
    await engine.close()


async def deny(engine: Engine, revoked: str) -> None:
    """Put an id on the denylist."""

    async def work(connection: AsyncConnection) -> None:
        now = await engine.read_now(connection)
        await deny_ids(connection, [revoked], now, now + 60.0)

    await engine.run(work)


@pytest.mark.parametrize("away", [delete, delete_all])
async def test_feed_of_a_file_that_has_gone(engine: Engine, path: Path, away: Callable[[Path], None]) -> None:
    """It is not followed any more, and says so; with the file that comes then it goes on."""
    denylist = MemoryDenylist(PollingFeed(f"sqlite:///{path}", interval=0.01))
    await denylist.start()
    try:
        away(path)
        await eventually(lambda: not denylist.is_current())
        assert not path.exists()
        await engine.close()
        shutil.rmtree(path.parent, ignore_errors=True)
        path.parent.mkdir()
        await migrate(engine)
        await deny(engine, "later")
        await eventually(lambda: "later" in denylist)
        assert denylist.is_current()
    finally:
        await denylist.close()


async def test_feed_of_a_file_that_was_replaced(engine: Engine, path: Path) -> None:
    """The backup that was put in its place is followed from then on, and not what nobody writes to any more."""
    backup = open_engine(f"sqlite:///{path.with_name('backup.db')}")
    await migrate(backup)
    await deny(backup, "later")
    await backup.close()
    denylist = MemoryDenylist(PollingFeed(f"sqlite:///{path}", interval=0.01))
    await denylist.start()
    try:
        await engine.close()
        for beside in path.parent.glob(f"{path.name}-*"):
            beside.unlink()
        path.with_name("backup.db").replace(path)
        await eventually(lambda: "later" in denylist)
    finally:
        await denylist.close()
