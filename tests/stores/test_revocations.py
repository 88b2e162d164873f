"""The denylist: what one node revokes every node refuses, through outages and restarts of everything."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing, asynccontextmanager
from itertools import pairwise
from pathlib import Path
from selectors import DefaultSelector, SelectorKey

import anyio
import psutil
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis.asyncio.client import PubSub
from sqlalchemy import select

from keyturn.core.errors import Unavailable
from keyturn.ports import Denylist
from keyturn.stores.engine import AsyncConnection, Engine
from keyturn.stores.feeds import PollingFeed, PostgresFeed
from keyturn.stores.location import without_sqlalchemy
from keyturn.stores.migrations import migrate
from keyturn.stores.redis import CHANNEL, ENTRIES, RedisFeed, connect, publish
from keyturn.stores.revocations import (
    LONGEST,
    PAYLOAD_LIMIT,
    Denied,
    Heard,
    MemoryDenylist,
    RevocationFeed,
    decode,
    encode,
    open_denylist,
)
from keyturn.stores.revoking import deny_ids
from keyturn.stores.schema import denylist as table
from keyturn.testing import FrozenClock
from tests.services import PostgresServer, RedisServer, frozen
from tests.stores.support import PATIENCE, eventually, open_database

pytestmark = pytest.mark.anyio

LIFETIME = 600.0


async def revoke(engine: Engine, *ids: str, lifetime: float = LIFETIME) -> Collection[Denied]:
    """Revoke ids as another node does: in a committed transaction, with its notice."""

    async def work(connection: AsyncConnection) -> Collection[Denied]:
        now = await engine.read_now(connection)
        return await deny_ids(connection, ids, now, now + lifetime)

    return await engine.run(work)


@asynccontextmanager
async def following(denylist: MemoryDenylist) -> AsyncGenerator[MemoryDenylist]:
    """Start a denylist and close it."""
    try:
        await denylist.start()
        yield denylist
    finally:
        await denylist.close()


@pytest.fixture(params=["sqlite", "polling", "listen"])
async def feed_url(request: pytest.FixtureRequest) -> tuple[str, Callable[..., MemoryDenylist]]:
    """Each way of following the table: its URL, and what makes a node's denylist."""
    kind: str = request.param
    url: str = request.getfixturevalue("sqlite_database_url" if kind == "sqlite" else "postgres_url")
    async with open_database(url):
        pass
    return url, lambda **more: open_denylist(url, listen=kind == "listen", interval=0.02, **more)


# -- the text form


ENTRIES_OF_OURS = st.lists(
    st.builds(Denied, st.from_regex(r"\A[A-Za-z0-9_-]{1,128}\Z"), st.floats(0, 4_000_000_000, allow_subnormal=False)),
    max_size=150,
)


@given(ENTRIES_OF_OURS)
@example([Denied(f"{i:0128}", 4e9 + i / 7) for i in range(200)])
def test_messages_round_trip(entries: list[Denied]) -> None:
    """What is encoded is decoded, to the last digit, in messages that PostgreSQL takes."""
    messages = list(encode(entries))
    assert all(len(message.encode()) <= PAYLOAD_LIMIT for message in messages)
    assert [entry for message in messages for entry in decode(message)] == entries


@given(st.binary() | st.text())
def test_message_of_anything(message: bytes | str) -> None:
    """Whatever arrives on a channel is entries or nothing, never an error."""
    for item, expires_at in decode(message):
        assert item.isascii()
        assert abs(expires_at) < float("inf")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "id",
        "id ",
        "id nan",
        "id inf",
        "id 1e999",
        "a b 3",
        "../x 3",
        "id\x00 3",
        " 3",
        "x" * 129 + " 3",
        "\udc80 3",
    ],
)
def test_line_that_is_garbage(line: str) -> None:
    """A bad line is left out and its neighbours are not."""
    assert decode(f"good 1.5\n{line}\nalso 2.5") == [("good", 1.5), ("also", 2.5)]


# -- the set


async def test_what_a_denylist_holds() -> None:
    """The sessions and tokens that were added, and nothing else."""
    denylist = MemoryDenylist()
    port: Denylist = denylist
    denylist.add([Denied("aa" * 16, time.time() + 60), Denied("token-1", time.time() + 60)])
    assert "aa" * 16 in port
    assert "token-1" in port
    assert "bb" * 16 not in port
    assert "token-2" not in port
    assert "" not in port
    assert None not in port


async def test_entries_leave_when_they_expire() -> None:
    """The set is bounded: what has expired goes, later expiry wins, and earlier never shortens."""
    now = 1000.0
    denylist = MemoryDenylist(clock=lambda: now)
    denylist.add(
        [
            Denied("a", 1010.0),
            Denied("b", 1010.0),
            Denied("b", 1020.0),
            Denied("c", 1030.0),
            Denied("c", 1010.0),
            Denied("old", 999.0),
        ]
    )
    assert len(denylist) == 3
    now = 1010.0
    denylist.add(())
    assert [item for item, _ in denylist.known()] == ["b", "c"]
    now = 1030.0
    denylist.add(())
    assert len(denylist) == 0
    assert not denylist._queue


async def test_who_hears_of_what_is_learned() -> None:
    """Each id is told once, be it extended or said again by another feed."""
    learned: list[str] = []
    denylist = MemoryDenylist(on_learned=learned.extend, clock=FrozenClock(1000.0))
    for expires_at in (1100.0, 1200.0, 1150.0):
        denylist.add([Denied("one", expires_at)])
    denylist.add([Denied("one", 1300.0), Denied("two", 1100.0)])
    assert learned == ["one", "two"]


async def test_entry_for_ever() -> None:
    """An entry lasts a day at most, whoever sent it."""
    now = 1000.0
    denylist = MemoryDenylist(clock=lambda: now)
    denylist.add([Denied("a", 9e15)])
    now += LONGEST
    denylist.add(())
    assert "a" not in denylist


async def test_authority_comes_first() -> None:
    """What the other feeds are filled up with from the denylist is there before they begin, however long it takes."""
    known_then: list[Collection[Denied]] = []

    async def authority() -> AsyncGenerator[Heard]:
        for _ in range(10):
            await asyncio.sleep(0)
        yield Heard([Denied("revoked", time.time() + LIFETIME)])
        await asyncio.Event().wait()

    async def other() -> AsyncGenerator[Heard]:
        known_then.append(denylist.known())
        yield Heard()
        await asyncio.Event().wait()

    denylist = MemoryDenylist(authority, other)
    async with following(denylist):
        await eventually(lambda: bool(known_then))
    assert [item for item, _ in known_then[0]] == ["revoked"]


def test_feed_that_was_away_for_long() -> None:
    """It is looked for every few seconds, however long it has been away; by a loop whose time passes when nothing happens."""
    tried_at: list[float] = []
    loop = asyncio.SelectorEventLoop(Idle())
    loop.time = lambda: loop._selector.passed  # type: ignore[attr-defined, method-assign]

    async def feed() -> AsyncGenerator[Heard]:
        tried_at.append(loop.time())
        if loop.time() < 3600.0:
            raise OSError("away")
        yield Heard([Denied("meanwhile", time.time() + LIFETIME)])
        await asyncio.Event().wait()

    async def follow() -> None:
        async with following(MemoryDenylist(feed, start_timeout=7200.0)) as denylist:
            assert "meanwhile" in denylist

    try:
        loop.run_until_complete(follow())
    finally:
        loop.close()
    assert max(later - sooner for sooner, later in pairwise(tried_at)) <= 5.0


class Idle(DefaultSelector):
    """Waits for nothing: the time that it should have waited has passed."""

    passed = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        """Say what is there already."""
        self.passed += timeout or 0.0
        return super().select(0)


async def test_single_process() -> None:
    """Without a feed the denylist is that of one process: current once started."""
    denylist = MemoryDenylist()
    assert not denylist.is_current()
    await denylist.start()
    assert denylist.is_current()
    await denylist.close()
    assert not denylist.is_current()


def test_url_of_another_kind() -> None:
    """An unknown URL is refused without its password being repeated."""
    with pytest.raises(ValueError, match="mysql") as raised:
        open_denylist("mysql://user:secret@host/db")
    assert "secret" not in str(raised.value)


def test_what_a_verifying_service_loads() -> None:
    """The denylist needs neither SQLAlchemy nor a driver to be imported."""
    program = (
        "import sys, keyturn.stores.revocations; print([m for m in ('sqlalchemy', 'asyncpg', 'redis', 'aiosqlite')"
    )
    done = subprocess.run([sys.executable, "-c", f"{program} if m in sys.modules])"], capture_output=True, check=True)
    assert done.stdout == b"[]\n"


# -- following the table


async def test_late_joiner_knows_everything(feed_url: tuple[str, Callable[..., MemoryDenylist]]) -> None:
    """A node that starts after a revocation denies it from its first request; what has expired is not loaded."""
    url, make = feed_url
    async with open_database(url) as engine:
        await revoke(engine, "early", "token-1")
        await revoke(engine, "over", lifetime=-1.0)
        async with following(make()) as denylist:
            assert denylist.is_current()
            assert "early" in denylist
            assert "token-1" in denylist
            assert "over" not in denylist


async def test_entry_that_is_over(database_url: str) -> None:
    """It is not read: whoever starts need not take in all that pruning has not come to yet."""
    feeds: list[RevocationFeed] = [PollingFeed(database_url)]
    if database_url.startswith("postgresql"):
        feeds.append(PostgresFeed(database_url))
    async with open_database(database_url) as engine:
        async with engine.transaction() as connection:
            now = await engine.read_now(connection)
            await deny_ids(connection, ["over"], now - 60.0, now - 1.0)
            await deny_ids(connection, ["alive"], now - 60.0, now + 600.0)
        for feed in feeds:
            async with aclosing(feed()) as batches:
                assert [item for item, _ in (await anext(batches)).entries] == ["alive"]


async def test_revocation_reaches_the_other_nodes(feed_url: tuple[str, Callable[..., MemoryDenylist]]) -> None:
    """What one node commits arrives at two others, many at once too."""
    url, make = feed_url
    ids = [f"{number:032x}" for number in range(500)]
    async with open_database(url) as engine, following(make()) as one, following(make()) as other:
        await revoke(engine, "first")
        await eventually(lambda: "first" in one and "first" in other)
        await revoke(engine, *ids)
        await eventually(lambda: all(each in one and each in other for each in ids))


async def test_revocation_that_is_rolled_back(feed_url: tuple[str, Callable[..., MemoryDenylist]]) -> None:
    """What was not committed denies nobody."""
    url, make = feed_url
    async with open_database(url) as engine, following(make()) as denylist:

        async def fail(connection: AsyncConnection) -> None:
            await deny_ids(connection, ["undone"], 0.0, time.time() + LIFETIME)
            raise KeyError

        with pytest.raises(KeyError):
            await engine.run(fail)
        await revoke(engine, "done")
        await eventually(lambda: "done" in denylist)
        assert "undone" not in denylist


async def test_revoked_again(database_url: str) -> None:
    """The later end counts, whichever came first; and it is new, so that whoever asks for that hears of it."""
    found: list[tuple[float, float]] = []
    async with open_database(database_url) as engine, engine.transaction() as connection:
        for now, expires_at in ((100.0, 700.0), (200.0, 500.0), (300.0, 900.0)):
            assert await deny_ids(connection, ["twice", "twice"], now, expires_at) == [("twice", expires_at)]
            columns = (table.c.created_at, table.c.expires_at)
            found += [tuple(row) for row in await connection.execute(select(*columns))]
    assert found == [(100.0, 700.0), (200.0, 700.0), (300.0, 900.0)]


async def test_start_twice_and_again_after_close(feed_url: tuple[str, Callable[..., MemoryDenylist]]) -> None:
    """Starting twice follows once; a closed denylist keeps what it knows and can be started again."""
    url, make = feed_url
    async with open_database(url) as engine:
        denylist = make()
        await denylist.start()
        await denylist.start()
        assert len(denylist._tasks) == 1
        await revoke(engine, "first")
        await eventually(lambda: "first" in denylist)
        await denylist.close()
        assert "first" in denylist
        await revoke(engine, "second")
        async with following(denylist):
            assert "second" in denylist


async def test_database_that_is_not_there(tmp_path: object) -> None:
    """A node that cannot load says so, and makes no empty file to take for a database."""
    path = f"{tmp_path}/missing.db"
    denylist = MemoryDenylist(PollingFeed(f"sqlite:///{path}"), start_timeout=0.3)
    try:
        with pytest.raises(Unavailable) as raised:
            await denylist.start()
        assert raised.value.dependency == "denylist"
        assert not denylist.is_current()
        assert not await anyio.Path(path).exists()
        async with open_database(f"sqlite:///{path}") as engine:
            await migrate(engine)
            await revoke(engine, "early")
            await eventually(lambda: "early" in denylist)
            assert denylist.is_current()
    finally:
        await denylist.close()


@pytest.mark.parametrize("spelling", ["{}", "file:{}?uri=true", "{}:%25", "{}%23"])
async def test_sqlite_file_by_any_name(tmp_path: Path, spelling: str) -> None:
    """It is followed as well where SQLite itself would name it so, or where its name has to be written with care."""
    url = f"sqlite:///{spelling.format(tmp_path / 'keyturn.db')}"
    async with open_database(url) as engine:
        await migrate(engine)
        await revoke(engine, "early")
        for known in (url, without_sqlalchemy(url)):
            async with following(MemoryDenylist(PollingFeed(known), start_timeout=PATIENCE / 6)) as denylist:
                assert "early" in denylist


async def test_row_that_overtook_another(feed_url: tuple[str, Callable[..., MemoryDenylist]]) -> None:
    """A row stamped before one that is already known, but committed after it, is not missed between two questions."""
    url, make = feed_url
    async with open_database(url) as engine, following(make()) as denylist:
        await revoke(engine, "newest")
        await eventually(lambda: "newest" in denylist)

        async def work(connection: AsyncConnection) -> None:
            now = await engine.read_now(connection)
            await deny_ids(connection, ["overtaken"], now - 5, now + LIFETIME)

        await engine.run(work)
        await eventually(lambda: "overtaken" in denylist)


async def test_row_that_was_committed_late(sqlite_database_url: str) -> None:
    """A row stamped long before it was committed is found when the whole table is read again."""
    async with open_database(sqlite_database_url) as engine:
        feed = PollingFeed(sqlite_database_url, interval=0.01, overlap=1.0, reread=0.2)
        await revoke(engine, "recent")
        async with following(MemoryDenylist(feed)) as denylist:
            async with engine.transaction() as connection:
                now = await engine.read_now(connection)
                await deny_ids(connection, ["late"], now - 300, now + LIFETIME)
            await eventually(lambda: "late" in denylist)


async def test_row_after_the_clock_was_set_back(sqlite_database_url: str) -> None:
    """It is not missed between two questions, though it seems much older than one that was stamped before."""
    async with open_database(sqlite_database_url) as engine:
        async with engine.transaction() as connection:
            now = await engine.read_now(connection)
            await deny_ids(connection, ["ahead"], now + 600, now + LIFETIME)
        feed = PollingFeed(sqlite_database_url, interval=0.01, reread=10 * PATIENCE)
        async with following(MemoryDenylist(feed)) as denylist:
            await eventually(lambda: "ahead" in denylist)
            await revoke(engine, "right")
            await eventually(lambda: "right" in denylist)


async def test_notice_that_never_came(postgres_url: str) -> None:
    """A row without a notice is found by the slow reading: NOTIFY is the fast way, not the only one."""
    async with open_database(postgres_url) as engine:
        feed = PostgresFeed(postgres_url, heartbeat=0.05, reread=0.2)
        async with following(MemoryDenylist(feed)) as denylist, engine.transaction() as connection:
            now = await engine.read_now(connection)
            await connection.exec_driver_sql(
                "INSERT INTO keyturn_denylist (id, created_at, expires_at) VALUES ('silent', $1, $2)", (now, now + 60)
            )
            await connection.commit()
            await eventually(lambda: "silent" in denylist)


async def test_revocations_without_listening(postgres_url: str) -> None:
    """Whoever wants no LISTEN finds a row by asking, long before the slow reading, also without a notice."""
    asking = open_denylist(postgres_url, listen=False, interval=0.02)
    async with open_database(postgres_url) as engine, following(asking) as denylist:
        async with engine.autocommit() as connection:
            now = await engine.read_now(connection)
            await connection.exec_driver_sql(
                "INSERT INTO keyturn_denylist (id, created_at, expires_at) VALUES ('silent', $1, $2)", (now, now + 60)
            )
        await eventually(lambda: "silent" in denylist)


async def test_garbage_on_the_channel(postgres: PostgresServer, postgres_url: str) -> None:
    """A notice that is not ours is passed over, and the connection stays."""
    async with open_database(postgres_url) as engine, following(open_denylist(postgres_url)) as denylist:
        database = postgres_url.rpartition("/")[2]
        postgres.execute("SELECT pg_notify('keyturn_denylist', 'garbage' || chr(10) || '../.. nan')", database)
        postgres.execute("SELECT pg_notify('keyturn_denylist', '')", database)
        await revoke(engine, "good")
        await eventually(lambda: "good" in denylist)
        assert denylist.is_current()
        assert len(denylist) == 1


async def test_postgresql_ends_the_connection(postgres: PostgresServer, postgres_url: str) -> None:
    """A connection that an administrator ends is made anew, and what was revoked in between is there."""
    async with open_database(postgres_url) as engine, following(open_denylist(postgres_url)) as denylist:
        for round_ in range(3):
            postgres.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'keyturn denylist'"
            )
            await revoke(engine, f"round-{round_}")
            await eventually(lambda each=f"round-{round_}": each in denylist)  # type: ignore[misc]
        await eventually(denylist.is_current)


@pytest.mark.waits
async def test_role_whose_idle_connections_end(postgres: PostgresServer, postgres_url: str) -> None:
    """The one that listens has nothing to say until its heartbeat: a node would be not ready, again and again."""
    for name in postgres.execute("SELECT name FROM pg_settings WHERE name = 'idle_session_timeout'").split():
        postgres.execute(f"ALTER DATABASE {postgres_url.rpartition('/')[2]} SET {name} = '1s'")
    async with open_database(postgres_url), aclosing(PostgresFeed(postgres_url, heartbeat=2.0)()) as batches:
        for _ in range(2):
            assert (await anext(batches)).now is not None


async def test_postgresql_ends_the_connection_without_a_heartbeat(postgres: PostgresServer, postgres_url: str) -> None:
    """The end is noticed when it comes, not only when the next sign of life is due."""
    feed = PostgresFeed(postgres_url, heartbeat=3600.0)
    async with open_database(postgres_url) as engine, following(MemoryDenylist(feed)) as denylist:
        await asyncio.to_thread(
            postgres.execute,
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'keyturn denylist'",
        )
        await revoke(engine, "later")
        await eventually(lambda: "later" in denylist)


@pytest.mark.parametrize("listen", [True, False])
async def test_postgresql_that_hangs(postgres: PostgresServer, postgres_url: str, listen: bool) -> None:
    """A database that keeps the connection and says nothing is found out by the heartbeat, or by the next question."""
    async with open_database(postgres_url):
        pass
    feed: RevocationFeed = PostgresFeed(postgres_url, heartbeat=0.1, patience=0.3)
    if not listen:
        feed = PollingFeed(postgres_url, interval=0.02, patience=0.3)
    async with following(MemoryDenylist(feed)) as denylist:
        assert postgres._process is not None
        with frozen(psutil.Process(postgres._process.pid).children()):
            await eventually(lambda: not denylist.is_current())
        await eventually(denylist.is_current)


@pytest.mark.parametrize("listen", [True, False])
async def test_postgresql_killed(postgres: PostgresServer, postgres_url: str, listen: bool) -> None:
    """Kill -9 of the database: what is known stays denied, the fault shows, and after the restart all goes on."""
    async with open_database(postgres_url) as engine:
        async with following(open_denylist(postgres_url, listen=listen, interval=0.02)) as denylist:
            await revoke(engine, "before")
            await eventually(lambda: "before" in denylist)
            postgres.kill9()
            await eventually(lambda: not denylist.is_current())
            assert "before" in denylist
            postgres.start()
            await revoke_when_back(engine, "after")
            await eventually(lambda: "after" in denylist)
            await eventually(denylist.is_current)
        # Every node restarted too: what was acknowledged before the kill is still denied.
        async with following(open_denylist(postgres_url, listen=listen)) as restarted:
            assert "before" in restarted
            assert "after" in restarted


async def revoke_when_back(engine: Engine, item: str) -> None:
    """Revoke as soon as the database takes it: pooled connections died with it."""
    with anyio.fail_after(30):
        while True:
            try:
                await revoke(engine, item)
            except Unavailable:
                await anyio.sleep(0.01)
            else:
                return


# -- a clock that is wrong


async def test_clock_that_jumps_ahead_and_back(feed_url: tuple[str, Callable[..., MemoryDenylist]]) -> None:
    """A node or a service whose clock says for a while that everything is over forgets nothing, and learns meanwhile."""
    url, make = feed_url
    clock = FrozenClock(time.time())
    async with open_database(url) as engine, following(make(clock=clock)) as denylist:
        await revoke(engine, "before")
        await eventually(lambda: "before" in denylist)
        clock.advance(2 * LONGEST)
        await revoke(engine, "meanwhile")
        await eventually(lambda: "meanwhile" in denylist)
        async with following(make(clock=clock)) as started:
            for each in (denylist, started):
                assert "before" in each
                assert "meanwhile" in each
            clock.advance(-2 * LONGEST)
            await revoke(engine, "after")
            await eventually(lambda: "after" in denylist and "after" in started)
            for each in (denylist, started):
                assert "before" in each
                assert "meanwhile" in each


async def test_redis_and_a_clock_that_jumps_ahead_and_back(redis_url: str) -> None:
    """So does a service with Redis alone."""
    clock = FrozenClock(time.time())
    async with connect(redis_url) as redis, following(open_denylist(redis_url, clock=clock)) as denylist:

        async def revoke_there(item: str) -> None:
            await publish(redis, [Denied(item, time.time() + LIFETIME)], time.time())
            await eventually(lambda: item in denylist)

        await revoke_there("before")
        clock.advance(2 * LONGEST)
        await revoke_there("meanwhile")
        async with following(open_denylist(redis_url, clock=clock)) as started:
            for each in (denylist, started):
                assert "before" in each
                assert "meanwhile" in each
            clock.advance(-2 * LONGEST)
            await revoke_there("after")
            for each in (denylist, started):
                assert "before" in each
                assert "meanwhile" in each


@pytest.mark.parametrize("kind", ["sqlite", "polling", "listen", "redis"])
async def test_feed_tells_the_time(request: pytest.FixtureRequest, kind: str) -> None:
    """Of where the entries are kept: with what is alive, be it nothing, and again now and then."""
    if kind == "redis":
        feed: RevocationFeed = RedisFeed(request.getfixturevalue("redis_url"), heartbeat=0.5, reread=0.02)
    else:
        url: str = request.getfixturevalue("sqlite_database_url" if kind == "sqlite" else "postgres_url")
        async with open_database(url):
            pass
        feed = PostgresFeed(url, heartbeat=0.02) if kind == "listen" else PollingFeed(url, interval=0.02)
    before = time.time()
    told: list[float] = []
    async with aclosing(feed()) as heard:
        async for each in heard:
            if each.now is not None:
                told.append(each.now)
            if len(told) == 3:
                break
    # SQLite tells the time in thousandths.
    assert before - 0.001 <= told[0] < told[1] < told[2] <= time.time()


async def test_entries_leave_by_both_clocks() -> None:
    """Where the clock is ahead they leave by the authority's. Where it is behind they stay for as long as tokens count there."""
    told: asyncio.Queue[Heard] = asyncio.Queue()

    async def feed() -> AsyncGenerator[Heard]:
        while True:
            yield await told.get()

    async def tell(now: float | None, *entries: Denied) -> None:
        told.put_nowait(Heard(entries, now))
        # What comes after it is taken when it has been.
        told.put_nowait(Heard([Denied(f"{now}", 9e9)]))
        await eventually(lambda: f"{now}" in ahead and told.empty())

    clock = FrozenClock(5000.0)
    told.put_nowait(Heard((), 1000.0))
    async with following(MemoryDenylist(feed, clock=clock)) as ahead:
        await tell(1001.0, Denied("a", 1010.0), Denied("b", 1020.0))
        await tell(1010.0)
        assert "a" not in ahead
        assert "b" in ahead
        clock.now = 1015.0
        await tell(5000.0)
        assert "b" in ahead
        clock.now = 1020.0
        await tell(None)
        assert "b" not in ahead


# -- Redis


@pytest.mark.parametrize("scheme", ["redis", "valkey"])
async def test_service_with_redis_alone(redis_url: str, scheme: str) -> None:
    """A service that has only Redis knows what was published before it came, and hears what comes; what is over is gone."""
    async with connect(redis_url) as redis:
        await publish(redis, [Denied("early", time.time() + 60), Denied("over", time.time() - 120)], time.time())
        async with following(open_denylist(redis_url.replace("redis", scheme, 1))) as denylist:
            assert denylist.is_current()
            assert "early" in denylist
            assert "over" not in denylist
            await publish(redis, [Denied("live", time.time() + 60)], time.time())
            await eventually(lambda: "live" in denylist)
        assert await redis.zrange(ENTRIES, 0, -1) == [b"early", b"live"]
        assert 0 < await redis.ttl(ENTRIES) <= LONGEST + 60


async def test_node_with_a_database_announces(redis_url: str, database_url: str) -> None:
    """What a node with a database revokes reaches a service with Redis alone; what it had missed, too."""
    async with open_database(database_url) as engine:
        await revoke(engine, "early")
        async with following(open_denylist(redis_url)) as service:
            assert "early" not in service
            async with following(open_denylist(database_url, redis_url=redis_url, interval=0.02)) as node:
                await eventually(lambda: "early" in service)
                node.add(await revoke(engine, "live"))
                assert "live" in node
                await eventually(lambda: "live" in service)


async def test_revocation_that_nobody_announces(redis_url: str, database_url: str) -> None:
    """As of a command, of a node without Redis or of one that died: a node that reads it in the database does."""
    async with (
        open_database(database_url) as engine,
        following(open_denylist(database_url, redis_url=redis_url, interval=0.02)) as first,
        following(open_denylist(database_url, redis_url=redis_url, interval=0.02)) as second,
        connect(redis_url) as redis,
        redis.pubsub() as channel,
    ):
        async with following(open_denylist(redis_url)) as service:
            await channel.subscribe(CHANNEL)
            while (await redis.pubsub_numsub(CHANNEL))[0][1] < 4:  # noqa: ASYNC110 - Redis counts them
                await anyio.sleep(0.01)
            await anyio.sleep(0.2)
            # One of each kind: of a command, and of a node that announces it.
            first.add(await revoke(engine, "announced"))
            await revoke(engine, "quiet")
            await eventually(lambda: "quiet" in second and "announced" in second)
            await eventually(lambda: "quiet" in service and "announced" in service, 15.0)
        await anyio.sleep(3.1)
        told = [message async for message in _so_far(channel)]
        # Not by each as it reads it: the others have heard of it by then.
        assert 1 <= sum("quiet" in text for text in told) <= 2
        assert 1 <= sum("announced" in text for text in told) <= 2


def test_node_that_was_closed_with_something_to_announce(redis_url: str, sqlite_database_url: str) -> None:
    """Started again on another event loop, it announces what it reads as before."""
    node = open_denylist(sqlite_database_url, redis_url=redis_url, interval=0.02)

    async def live(item: str, *, to_the_end: bool) -> None:
        async with (
            open_database(sqlite_database_url) as engine,
            following(open_denylist(redis_url)) as service,
            following(node),
            connect(redis_url) as redis,
        ):
            while (await redis.pubsub_numsub(CHANNEL))[0][1] < 2:  # noqa: ASYNC110 - Redis counts them
                await anyio.sleep(0.01)
            await anyio.sleep(0.2)
            await revoke(engine, item)
            await eventually(lambda: item in node)
            if to_the_end:
                await eventually(lambda: item in service, 15.0)

    asyncio.run(live("early", to_the_end=False))
    asyncio.run(live("late", to_the_end=True))


async def _so_far(channel: PubSub) -> AsyncGenerator[str]:
    while (message := await channel.get_message(timeout=0.1)) is not None:
        if message["type"] == "message":
            yield message["data"].decode()


async def test_redis_killed(redis_server: RedisServer, redis_url: str) -> None:
    """Kill -9 of Redis: what is known stays denied, the fault shows, and after the restart all goes on."""
    async with following(open_denylist(redis_url)) as denylist:
        async with connect(redis_url) as redis:
            await publish(redis, [Denied("before", time.time() + 60)], time.time())
        await eventually(lambda: "before" in denylist)
        redis_server.kill9()
        await eventually(lambda: not denylist.is_current())
        assert "before" in denylist
        redis_server.start()
        await eventually(denylist.is_current)
        async with connect(redis_url) as redis:
            await publish(redis, [Denied("after", time.time() + 60)], time.time())
        await eventually(lambda: "after" in denylist)
        async with following(open_denylist(redis_url)) as restarted:
            assert "before" in restarted
            assert "after" in restarted


async def test_redis_that_forgot(redis_server: RedisServer, redis_url: str, sqlite_database_url: str) -> None:
    """A Redis that comes back empty is filled again by a node that has the database."""
    async with open_database(sqlite_database_url) as engine:
        await revoke(engine, "kept")
        async with following(open_denylist(sqlite_database_url, redis_url=redis_url)) as node:
            redis_server.kill9()
            # What is revoked while Redis is away is announced when it is back.
            node.add(await revoke(engine, "meanwhile"))
            assert node.is_current()
            redis_server.start()
            redis_server.flush()
            async with following(open_denylist(redis_url)) as service:
                await eventually(lambda: "kept" in service and "meanwhile" in service)


@pytest.mark.parametrize("rest", [-30.0, 30.0], ids=["over", "not yet over"])
async def test_redis_with_an_end_that_is_too_early(redis_url: str, sqlite_database_url: str, rest: float) -> None:
    """A node that has the database puts it right, before a service with Redis alone goes by it."""
    async with open_database(sqlite_database_url) as engine, connect(redis_url) as redis:
        [entry] = await revoke(engine, "revoked")
        await redis.zadd(ENTRIES, {"revoked": time.time() + rest})
        async with following(open_denylist(sqlite_database_url, redis_url=redis_url)):
            with anyio.fail_after(PATIENCE):
                while await redis.zscore(ENTRIES, "revoked") != entry.expires_at:  # noqa: ASYNC110 - the node does it
                    await anyio.sleep(0.01)


async def test_redis_in_the_hands_of_an_attacker(redis_url: str, sqlite_database_url: str) -> None:
    """Garbage is passed over, and no message or deletion takes back a revocation."""
    async with open_database(sqlite_database_url) as engine:
        await revoke(engine, "revoked")
        async with (
            following(open_denylist(sqlite_database_url, redis_url=redis_url)) as node,
            following(open_denylist(redis_url)) as service,
            connect(redis_url) as redis,
        ):
            await eventually(lambda: "revoked" in service)
            await redis.delete(ENTRIES)
            for message in (
                b"",
                b"\xff\xfe",
                b"revoked 0",
                b"revoked -1e9",
                b"revoked nan",
                b"DEL revoked",
                b"x" * 10**6,
            ):
                await redis.publish(CHANNEL, message)
            await redis.publish(CHANNEL, b"denied 4000000000")
            await eventually(lambda: "denied" in service and "denied" in node)
            assert "revoked" in node
            assert "revoked" in service
            assert node.is_current()


async def test_redis_with_another_type_under_the_key(redis_url: str) -> None:
    """A key that is no sorted set is a fault that shows, not an empty list."""
    async with connect(redis_url) as redis:
        await redis.set(ENTRIES, "nonsense")
        denylist = MemoryDenylist(RedisFeed(redis_url), start_timeout=0.5)
        try:
            with pytest.raises(Unavailable):
                await denylist.start()
            assert not denylist.is_current()
            with pytest.raises(Unavailable):
                await publish(redis, [Denied("x", time.time() + 60)], time.time())
        finally:
            await denylist.close()


async def test_entries_of_redis_that_are_over(redis_url: str) -> None:
    """They stay a minute longer, for nodes whose clocks are behind, and then they go."""
    async with connect(redis_url) as redis:
        for now, kept in ((1060.0, [b"first", b"second"]), (1061.0, [b"second"])):
            await publish(redis, [Denied("first", 1000.5), Denied("second", 2000.0)], now)
            assert await redis.zrange(ENTRIES, 0, -1) == kept


@pytest.mark.waits
async def test_redis_in_silence(redis_url: str) -> None:
    """A connection over which nothing comes is tried again and again, and stays as long as Redis answers."""
    async with aclosing(RedisFeed(redis_url, heartbeat=1.0)()) as batches:
        for _ in range(4):
            assert not (await anext(batches)).entries


async def test_redis_that_hangs(redis_server: RedisServer, redis_url: str) -> None:
    """A Redis that takes connections and says nothing is found out by the heartbeat."""
    feed = RedisFeed(redis_url, heartbeat=0.1)
    async with following(MemoryDenylist(feed)) as denylist:
        assert redis_server._process is not None
        subprocess.run(["kill", "-STOP", str(redis_server._process.pid)], check=True)
        try:
            await eventually(lambda: not denylist.is_current())
        finally:
            subprocess.run(["kill", "-CONT", str(redis_server._process.pid)], check=True)
        await eventually(denylist.is_current)
