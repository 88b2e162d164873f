"""A database at fault is `Unavailable`, and never an answer; our own mistakes are not hidden."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, nullcontext
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import psutil
import pytest
from asyncpg.exceptions import InterfaceError
from sqlalchemy.exc import DBAPIError

from keyturn.core.errors import Unavailable, UnsafeSettings
from keyturn.core.events import Event, EventType
from keyturn.core.model import RevokeReason, SessionId, UserId
from keyturn.core.rotation import Outcome
from keyturn.stores.engine import AsyncConnection, Engine, check_durability, faults, open_engine, ping
from keyturn.stores.location import normalise, without_sqlalchemy
from keyturn.stores.migrations import migrate
from keyturn.stores.revocations import Denied
from keyturn.stores.revoking import deny_ids
from keyturn.stores.rights import ping_for_writing
from keyturn.stores.sql import SqlSessions
from keyturn.stores.touches import Touches
from keyturn.stores.users import SqlUsers
from keyturn.testing import FrozenClock, sign_in
from keyturn.testing.contract_base import soon, stored
from keyturn.wire import name_of
from tests.chaos.wire import LoopThread, Wire
from tests.services import PostgresServer, sqlite_url, wait_until
from tests.stores.support import PATIENCE, eventually, open_database, open_empty

pytestmark = pytest.mark.anyio

BACKEND = "SELECT pg_backend_pid()"
_EVENT = Event(EventType.SIGNED_IN, 0.0, UserId("user-1"))


def store_on(engine: Engine, clock: FrozenClock | None = None) -> SqlSessions:
    """Make a store."""
    return SqlSessions(engine, denylist_lifetime=610.0, heal_time=900.0, clock=clock)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[Engine]:
    """A migrated database."""
    engine = open_engine(database_url)
    await migrate(engine)
    yield engine
    await engine.close()


async def test_postgresql_that_is_down(postgres: PostgresServer, postgres_url: str) -> None:
    """Every method says so, with a time to come back; afterwards all goes on, over the same engine."""
    clock = FrozenClock()
    engine = open_engine(postgres_url)
    await migrate(engine)
    store = store_on(engine, clock)
    child = await (await sign_in(store)).child()
    clock.advance(60.0)
    postgres.kill9()
    for call in (
        child.refresh,
        lambda: store.get(child.session_id),
        lambda: store.list_live("user-1"),
        lambda: store.revoke("user-1", RevokeReason.LOGOUT),
        lambda: store.knows_device("user-1", b"x"),
        lambda: store.record(Event(EventType.SIGNED_UP, 0.0)),
        lambda: sign_in(store),
        lambda: ping(engine),
        lambda: check_durability(engine),
        store.failover.check,
    ):
        with pytest.raises(Unavailable) as caught:
            await call()
        assert (caught.value.dependency, caught.value.retry_after) == ("database", 1.0)
    postgres.start()
    for _ in range(20):
        try:
            await ping(engine)
            break
        except Unavailable:
            continue
    assert (await child.refresh()).outcome is Outcome.CONFIRM
    await store.close()
    await engine.close()


async def test_postgresql_that_ends_connections_at_their_beginning(
    postgres: PostgresServer, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that shuts down between the handshake and the first statement is a fault, whatever the driver makes of it."""
    execute = asyncpg.Connection.execute

    async def end(connection: asyncpg.Connection, query: str) -> str:
        pid: int = connection.get_server_pid()  # type: ignore[no-untyped-call]
        postgres.execute(f"SELECT pg_terminate_backend({pid}, 10000)")
        await eventually(connection.is_closed)
        return await execute(connection, query)

    engine = open_engine(postgres_url)
    store = store_on(engine)
    monkeypatch.setattr(asyncpg.Connection, "execute", end)
    for call in (lambda: ping(engine), lambda: store.get(SessionId(bytes(16))), lambda: sign_in(store)):
        with pytest.raises(Unavailable):
            await call()
    await engine.close()


async def test_connection_that_does_not_begin(
    postgres: PostgresServer, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends, whoever keeps the error: a server that is slow to answer would run out of connections."""

    async def hang(connection: asyncpg.Connection, query: str) -> str:
        raise TimeoutError

    engine = open_engine(postgres_url)
    alive = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{normalise(postgres_url).database}'"
    async with engine.autocommit():
        monkeypatch.setattr(asyncpg.Connection, "execute", hang)
        with pytest.raises(Unavailable) as kept:
            await ping(engine)
        await asyncio.to_thread(wait_until, lambda: postgres.execute(alive, "postgres") == "1", 30, "its end")
    assert kept.traceback
    await engine.close()


async def test_fault_in_a_group(postgres: PostgresServer, postgres_url: str) -> None:
    """Each caller gets an error object of its own."""
    engine = open_engine(postgres_url)
    await migrate(engine)
    store = store_on(engine)
    holders = [await sign_in(store, f"user-{number}") for number in range(5)]
    postgres.kill9()
    errors = await asyncio.gather(*(holder.refresh() for holder in holders), return_exceptions=True)
    assert {type(error) for error in errors} == {Unavailable}
    assert len({id(error) for error in errors}) == 5
    await engine.close()


async def test_transaction_of_a_node_that_is_frozen(postgres_url: str) -> None:
    """What a node has locked and does not let go of holds the others up for a moment, and not until somebody notices."""
    frozen, other = open_engine(postgres_url, command_timeout=60.0), open_engine(postgres_url)
    await migrate(other)
    store = store_on(other)
    session_id = (await sign_in(store)).session_id
    async with frozen.sqlalchemy.connect() as connection:
        patience = await connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout")
        assert patience.scalar_one() == "30s"
        # Of one whose network is gone the server hears nothing: after a minute it is given up.
        probing = "SELECT setting FROM pg_settings WHERE name LIKE 'tcp_keepalives%' ORDER BY name"
        assert list((await connection.exec_driver_sql(probing)).scalars()) == ["3", "30", "10"]
        await connection.exec_driver_sql("SELECT FROM keyturn_sessions FOR UPDATE")
        # It is as if that time had passed, but for a moment.
        await connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 100")
        assert await store.revoke("user-1", RevokeReason.LOGOUT) == [session_id]
        with pytest.raises(Unavailable), faults():
            await connection.exec_driver_sql("SELECT 1")
    await ping(frozen)
    for engine in (frozen, other):
        await engine.close()


async def test_end_while_the_database_hangs(postgres: PostgresServer, postgres_url: str) -> None:
    """Connections that nobody uses end without a word from the other side: a node that is told to end has no minutes for it."""
    thread = LoopThread()
    wire = Wire(thread, postgres.port)
    engine = open_engine(postgres_url.replace(str(postgres.port), str(wire.port)))
    try:
        async with engine.autocommit(), engine.autocommit(), engine.autocommit(), engine.lane():
            pass
        wire.hold()
        with anyio.fail_after(PATIENCE):
            await engine.close()
    finally:
        thread.close()


@pytest.mark.parametrize(
    "call", [lambda store, _: store.record(Event(EventType.SIGNED_UP, 0.0)), lambda _, engine: ping_for_writing(engine)]
)
async def test_postgresql_that_takes_no_writes(
    postgres: PostgresServer, postgres_url: str, call: Callable[[SqlSessions, Engine], Awaitable[None]]
) -> None:
    """Connections to a server that has become read-only are not used again: the next ones may lead to the new primary."""
    engine = open_engine(postgres_url)
    await migrate(engine)
    store = store_on(engine)
    name = str(normalise(postgres_url).database)
    postgres.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    await engine.close()
    async with engine.autocommit(), engine.autocommit(), engine.autocommit():
        pass  # three connections, all to the wrong place
    with pytest.raises(Unavailable):
        await call(store, engine)
    postgres.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    await call(store, engine)
    await store.close()
    await engine.close()


async def backend_of_a_lane(engine: Engine) -> int:
    """Say which process of PostgreSQL serves the next lane."""
    async with engine.lane() as lane:
        return int((await lane.fetch((BACKEND, ())))[0][0])


async def backend_of_the_pool(engine: Engine) -> int:
    """Say which process of PostgreSQL serves what the pool lends next."""
    async with engine.autocommit() as connection:
        return int((await connection.exec_driver_sql(BACKEND)).scalar_one())


@pytest.mark.parametrize("first", [backend_of_a_lane, backend_of_the_pool])
async def test_connections_that_died_without_a_word(
    postgres: PostgresServer, postgres_url: str, first: Callable[[Engine], Awaitable[int]]
) -> None:
    """One that times out is enough to know it of the others, however they are used: each would take as long."""
    engine = open_engine(postgres_url, pool_size=8, command_timeout=2.0)
    async with engine.lane(), engine.lane(), engine.lane(), engine.lane():
        pass  # two stay with the lanes, and two are the pool's
    database = normalise(postgres_url).database
    pids = postgres.execute(f"SELECT pid FROM pg_stat_activity WHERE datname = '{database}'").split()
    dead = {int(pid): psutil.Process(int(pid)) for pid in pids}
    assert len(dead) == 4
    for backend in dead.values():
        backend.suspend()
    try:
        with pytest.raises(Unavailable):
            await first(engine)
        async with AsyncExitStack() as lent:
            for _ in dead:  # as many at once, or the pool would lend those that it has closed already
                connection = await lent.enter_async_context(engine.autocommit())
                assert (await connection.exec_driver_sql(BACKEND)).scalar_one() not in dead
        if first is backend_of_a_lane:
            assert await backend_of_a_lane(engine) not in dead
    finally:
        for backend in dead.values():
            backend.resume()
        await engine.close()


async def test_idle_connections_that_the_server_has_ended(postgres: PostgresServer, postgres_url: str) -> None:
    """Nobody is lent one, however it is used: where `idle_session_timeout` ends them, each pause would cost somebody a 503."""
    engine = open_engine(postgres_url, pool_size=8)
    async with engine.autocommit() as one, engine.autocommit() as two:
        lent = [await connection.get_raw_connection() for connection in (one, two)]
        drivers: list[Any] = [each.driver_connection for each in lent]
    database = normalise(postgres_url).database
    postgres.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'")
    await eventually(lambda: all(driver.is_closed() for driver in drivers))
    async with engine.autocommit() as one, engine.transaction() as two:
        for connection in (one, two):
            await connection.exec_driver_sql(BACKEND)
    await engine.close()


@pytest.fixture
def few(postgres: PostgresServer, postgres_url: str) -> Iterator[str]:
    """A URL with a role that has three connections at most; gone once the test is over."""
    postgres.execute("CREATE ROLE keyturn_few LOGIN CONNECTION LIMIT 3")
    yield postgres_url.replace(f"{postgres.user}@", "keyturn_few@")
    postgres.execute("DROP ROLE keyturn_few")


@pytest.mark.parametrize("backend", [backend_of_a_lane, backend_of_the_pool])
async def test_connections_that_are_left_when_there_are_no_more(
    postgres: PostgresServer, few: str, backend: Callable[[Engine], Awaitable[int]], caplog: pytest.LogCaptureFixture
) -> None:
    """What is open serves, where PostgreSQL gives no connection in the place of one that has ended. The pool logs as little as SQLAlchemy's."""
    caplog.set_level(logging.INFO)
    engine = open_engine(few, pool_size=8)
    async with engine.autocommit() as one, engine.autocommit() as two, engine.autocommit() as three:
        lent = [await connection.get_raw_connection() for connection in (one, two, three)]
        drivers: list[Any] = [each.driver_connection for each in lent]
    postgres.execute("ALTER ROLE keyturn_few CONNECTION LIMIT 2")
    ended = await backend(engine)
    postgres.execute(f"SELECT pg_terminate_backend({ended})")
    await eventually(lambda: any(driver.is_closed() for driver in drivers))
    assert ended not in [await backend(engine) for _ in range(4)]
    await engine.close()
    assert "Pool" not in caplog.text


async def test_connections_that_the_lanes_keep_when_there_are_no_more(few: str) -> None:
    """They serve all else as well, as many at once as there are: beside three idle ones `/readyz` and sign-in were 503 for good."""
    engine = open_engine(few)
    async with engine.lane(), engine.lane(), engine.lane():
        pass
    async with engine.autocommit() as one, engine.transaction() as two, engine.autocommit() as three:
        lent = {(await each.exec_driver_sql(BACKEND)).scalar_one() for each in (one, two, three)}
        assert len(lent) == 3
        with pytest.raises(Unavailable):
            await ping(engine)
    assert await backend_of_a_lane(engine) in lent
    await engine.close()


async def test_sqlite_directory_that_is_missing(tmp_path: Path) -> None:
    """A file that cannot be opened is a fault, and leaves no thread that would speak to the event loop after its end."""
    engine = open_engine(f"sqlite:///{tmp_path}/nowhere/keyturn.db")
    before = set(threading.enumerate())
    for _ in range(20):
        with pytest.raises(Unavailable):
            await ping(engine)
        assert set(threading.enumerate()) <= before
    await engine.close()


async def test_sqlite_file_that_is_something_else(tmp_path: Path) -> None:
    """A file that is not a database is a fault."""
    path = tmp_path / "keyturn.db"
    path.write_bytes(b"not a database" * 100)
    engine = open_engine(f"sqlite:///{path}")
    with pytest.raises(Unavailable):
        await ping(engine)
    await engine.close()


async def test_sqlite_that_another_process_holds(sqlite_database_url: str) -> None:
    """A writer who does not let go is waited for a bounded time and then a fault; readers are not held up."""
    engine = open_engine(sqlite_database_url, command_timeout=0.05)
    await migrate(engine)
    store = store_on(engine)
    holder = await sign_in(store)
    other = sqlite3.connect(str(normalise(sqlite_database_url).database), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable):
        await sign_in(store)
    assert (await holder.refresh()).outcome is Outcome.ROTATE
    other.execute("ROLLBACK")
    await sign_in(store)
    other.close()
    await engine.close()


async def test_pool_without_a_free_connection(sqlite_database_url: str) -> None:
    """Waiting for a connection is bounded, and then a fault. The pool is the same for both; SQLite connects in any time."""
    engine = open_empty(sqlite_database_url, pool_size=1, connect_timeout=0.05)
    async with engine.autocommit():
        with pytest.raises(Unavailable), anyio.fail_after(PATIENCE / 2):
            await ping(engine)
    await engine.close()


async def test_mistake_of_ours(engine: Engine) -> None:
    """A statement that is wrong stays an error of its own kind."""
    with pytest.raises(DBAPIError, match="SELEKT"):
        async with engine.autocommit() as connection:
            await connection.exec_driver_sql("SELEKT 1")


@pytest.mark.parametrize("given", ["\x00", 1], ids=["a letter that is none", "no text"])
async def test_mistake_of_ours_in_a_value(postgres_url: str, given: object) -> None:
    """What PostgreSQL or its driver can make nothing of is no fault of either, whoever sent it."""
    async with open_database(postgres_url) as engine:
        with pytest.raises(DBAPIError):
            async with engine.autocommit() as connection:
                await connection.exec_driver_sql("SELECT $1::text", (given,))


async def test_mistake_of_ours_in_what_the_driver_is_given(engine: Engine) -> None:
    """Parameters that no statement has are refused by the driver, over a connection that is as good as before."""
    with pytest.raises((InterfaceError, sqlite3.ProgrammingError)):
        async with engine.lane() as lane:
            await lane.fetch(("SELECT 1", (1,)))


@pytest.mark.parametrize("context", ["在RAISE的第1行的PL/pgSQL函数own()", 'SQL関数"own"の行番号 1'])
def test_function_of_a_server_that_speaks_another_language(context: str) -> None:
    """What a trigger of somebody refuses is a fault, whatever `lc_messages` says: letters of Chinese and Japanese stand beside the name."""
    with pytest.raises(Unavailable), faults():
        raise asyncpg.exceptions.PostgresError.new({"C": "22000", "M": "no", "W": context})  # type: ignore[no-untyped-call]


def _trigger(body: str) -> list[str]:
    """Make a trigger of PL/pgSQL."""
    return [
        f"CREATE FUNCTION own() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$",
        "CREATE TRIGGER own BEFORE INSERT ON keyturn_events FOR EACH ROW EXECUTE FUNCTION own()",
    ]


_ADDED = {
    "a column": ("23502", ["ALTER TABLE keyturn_events ADD COLUMN own text NOT NULL"]),
    "a check": ("23514", ["ALTER TABLE keyturn_events ADD CHECK (user_id IS NULL)"]),
    "a check that quotes": ("22P02", ["ALTER TABLE keyturn_events ADD CHECK (data::int > 0)"]),
    "a foreign key": (
        "23503",
        [
            "CREATE TABLE own (id text PRIMARY KEY)",
            "ALTER TABLE keyturn_events ADD FOREIGN KEY (user_id) REFERENCES own",
        ],
    ),
    "a trigger that refuses": ("P0001", _trigger("RAISE EXCEPTION 'no %', NEW;")),
    "a trigger with a code of its own": ("AB123", _trigger("RAISE EXCEPTION 'no %', NEW USING ERRCODE = 'AB123';")),
    "a trigger at a bound": ("54000", _trigger("RAISE EXCEPTION 'no' USING ERRCODE = '54000';")),
    "a trigger without an end": ("2F005", _trigger("")),
    "a trigger without its function": ("42883", _trigger("PERFORM nowhere(NEW); RETURN NEW;")),
    "a trigger without an operator": ("42883", _trigger("PERFORM NEW + 1; RETURN NEW;")),
    "a trigger that cannot be read": ("42601", _trigger("EXECUTE 'SELECT 1 ' || NEW.data; RETURN NEW;")),
    "a trigger that finds two": ("21000", _trigger("PERFORM (SELECT i FROM generate_series(1, 2) AS i); RETURN NEW;")),
    "a trigger that counts wrong": ("22003", _trigger("PERFORM 100000::int2; RETURN NEW;")),
    "a view in its place": (
        "44000",
        [
            "ALTER TABLE keyturn_events RENAME TO own",
            "CREATE VIEW keyturn_events AS SELECT * FROM own WHERE user_id IS NULL WITH CHECK OPTION",
        ],
    ),
    "a type that is shorter": ("22001", ["ALTER TABLE keyturn_events ALTER type TYPE varchar(3)"]),
    "a type that is another": ("42804", ["ALTER TABLE keyturn_events ALTER data TYPE jsonb USING data::jsonb"]),
    "a column that is computed": (
        "428C9",
        [
            "ALTER TABLE keyturn_events DROP data",
            "ALTER TABLE keyturn_events ADD data text GENERATED ALWAYS AS ('') STORED",
        ],
    ),
    "ids of a sequence that was left behind": (
        "23505",
        ["INSERT INTO keyturn_events (id, at, type, data) SELECT i, 0, '', '' FROM generate_series(1, 9) AS i"],
    ),
}


@pytest.mark.parametrize(("code", "added"), _ADDED.values(), ids=_ADDED)
async def test_what_somebody_has_added_to_the_tables(postgres_url: str, code: str, added: Sequence[str]) -> None:
    """A row that is refused for it is a fault of the database: the text of the error, which quotes the row, is in no log."""
    engine = open_engine(postgres_url)
    await migrate(engine)
    async with engine.autocommit() as connection:
        for statement in added:
            await connection.exec_driver_sql(statement)
    with pytest.raises(Unavailable) as raised:
        await store_on(engine).record(_EVENT)
    assert name_of(raised.value).split()[1] == code
    await engine.close()


@pytest.mark.parametrize("doing", ["RAISE(ABORT, 'no')", "nowhere(NEW.data)"])
async def test_trigger_that_somebody_has_added_to_sqlite(sqlite_database_url: str, doing: str) -> None:
    """The same for SQLite; a function may be there over the application's own connections alone."""
    engine = open_engine(sqlite_database_url)
    await migrate(engine)
    async with engine.autocommit() as connection:
        await connection.exec_driver_sql(
            f"CREATE TRIGGER own BEFORE INSERT ON keyturn_events BEGIN SELECT {doing}; END"
        )
    with pytest.raises(Unavailable):
        await store_on(engine).record(_EVENT)
    await engine.close()


async def test_index_that_somebody_has_dropped(engine: Engine) -> None:
    """Without it nobody can be kept from an address that is taken: nobody signs up."""
    async with engine.autocommit() as connection:
        await connection.exec_driver_sql("DROP INDEX keyturn_users_email")
    with pytest.raises(Unavailable):
        await SqlUsers(engine, denylist_lifetime=610.0).create("ada@example.com", None, "hash")


async def test_column_that_gets_another_type(postgres_url: str) -> None:
    """What was prepared before is prepared anew, and nobody notices: neither in a transaction nor outside one."""
    engine = open_engine(postgres_url)
    await migrate(engine)
    users = SqlUsers(engine, denylist_lifetime=610.0)
    for number, kind in enumerate(("text", "varchar", "text")):
        async with engine.autocommit() as connection:
            await connection.exec_driver_sql(f"ALTER TABLE keyturn_users ALTER id TYPE {kind}")
        user = await users.create(f"person{number}@example.com", None, "hash")
        assert user is not None
        assert await users.get(user.id) == user
    await engine.close()


async def test_deadlock(postgres_url: str) -> None:
    """Two transactions in each other's way both come through, by trying again."""
    engine = open_engine(postgres_url)
    await migrate(engine)
    async with engine.transaction() as connection:
        await connection.exec_driver_sql("INSERT INTO keyturn_meta VALUES ('a', ''), ('b', '')")
    both = asyncio.Barrier(2)
    tries = 0

    async def update(first: str, second: str) -> None:
        async def work(connection: AsyncConnection) -> None:
            nonlocal tries
            tries += 1
            run = connection.exec_driver_sql
            await run("UPDATE keyturn_meta SET value = value || $1 WHERE name = $1", (first,))
            if tries <= 2:
                await both.wait()
            await run("UPDATE keyturn_meta SET value = value || $1 WHERE name = $1", (second,))

        await engine.run(work)

    await asyncio.gather(update("a", "b"), update("b", "a"))
    async with engine.autocommit() as connection:
        found = await connection.exec_driver_sql("SELECT value FROM keyturn_meta ORDER BY name")
        assert list(found.scalars()) == ["aa", "bb"]
    assert tries > 2
    await engine.close()


async def test_transaction_that_raises(engine: Engine) -> None:
    """Nothing of it stays, and the next one works."""

    async def work(connection: AsyncConnection) -> None:
        await deny_ids(connection, ["a"], 0.0, 1.0)
        raise LookupError

    with pytest.raises(LookupError):
        await engine.run(work)
    async with engine.transaction() as connection:
        assert (await connection.exec_driver_sql("SELECT count(*) FROM keyturn_denylist")).scalar_one() == 0


@pytest.mark.parametrize("scope", ["ROLE keyturn", "DATABASE {database}"])
async def test_synchronous_commit_off(postgres: PostgresServer, postgres_url: str, scope: str) -> None:
    """It is refused, wherever it was set."""
    database = str(normalise(postgres_url).database)
    engine = open_engine(postgres_url)
    await check_durability(engine)
    await engine.close()
    target = scope.format(database=database)
    postgres.execute(f"ALTER {target} SET synchronous_commit = off")
    try:
        with pytest.raises(UnsafeSettings, match="synchronous_commit=off"):
            await check_durability(engine)
    finally:
        postgres.execute(f"ALTER {target} RESET synchronous_commit")
        await engine.close()


@pytest.mark.parametrize(("later", "ours"), [("off", "on"), ("remote_write", "remote_write"), ("local", "local")])
async def test_synchronous_commit_that_is_changed_later(
    postgres: PostgresServer, postgres_url: str, later: str, ours: str
) -> None:
    """A node that runs goes on writing what it acknowledges; whatever else is chosen holds for its new connections."""
    postgres.execute(f"ALTER DATABASE {postgres_url.rpartition('/')[2]} SET synchronous_commit = {later}")
    engine = open_engine(postgres_url)
    async with engine.autocommit() as connection:
        kept = await connection.exec_driver_sql("SELECT current_setting('synchronous_commit')")
        assert kept.scalar_one() == ours
    await engine.close()


@pytest.mark.parametrize(("encoding", "refused"), [("LATIN1", True), ("SQL_ASCII", False)])
async def test_database_of_another_encoding(postgres: PostgresServer, encoding: str, refused: bool) -> None:
    """One that has no letters for a name is refused at the start, and not the person."""
    name = f"encoded_{encoding.lower()}"
    postgres.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}'")
    engine = open_engine(postgres.url(name))
    try:
        with pytest.raises(UnsafeSettings, match=f"database_encoding: .*{encoding}") if refused else nullcontext():
            await check_durability(engine)
    finally:
        await engine.close()
        postgres.drop_database(name)


async def test_sqlite_settings(sqlite_database_url: str) -> None:
    """Every connection has the write-ahead log, full synchronisation and foreign keys."""
    engine = open_empty(sqlite_database_url)
    await check_durability(engine)
    async with engine.autocommit() as first, engine.autocommit() as second:
        for connection in (first, second):
            for pragma, expected in (("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1)):
                assert (await connection.exec_driver_sql(f"PRAGMA {pragma}")).scalar_one() == expected
    await engine.close()


async def test_sqlite_that_may_only_be_read(tmp_path: Path) -> None:
    """It is refused, and one that may be written is left as it was."""
    engine = open_empty(sqlite_url(tmp_path))
    await check_durability(engine)
    async with engine.autocommit() as connection:
        assert (await connection.exec_driver_sql("SELECT count(*) FROM sqlite_schema")).scalar_one() == 0
    await engine.close()
    engine = open_engine(f"sqlite:///file:{tmp_path / 'keyturn.db'}?mode=ro&uri=true")
    with pytest.raises(UnsafeSettings, match="database_read_only: "):
        await check_durability(engine)
    await engine.close()


async def test_database_clock(engine: Engine) -> None:
    """It moves, inside one transaction too, and both ways of reading it agree."""
    async with engine.transaction() as connection:
        first = await engine.read_now(connection)
        readings = [await engine.read_now(connection) for _ in range(100)]
        assert readings == sorted(readings)
        assert readings[-1] > first
    _, now = await store_on(engine).get(SessionId(bytes(16)))
    assert first < now < first + 60.0


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgres://u:p@h/d", "postgresql+asyncpg://u:p@h/d"),
        ("postgresql://h/d", "postgresql+asyncpg://h/d"),
        ("postgresql+psycopg://h/d?sslmode=require", "postgresql+asyncpg://h/d?ssl=require"),
        ("postgresql://h/d?connect_timeout=10&application_name=x&channel_binding=prefer", "postgresql+asyncpg://h/d"),
        ("postgresql://h/d?sslmode=require&channel_binding=disable", "postgresql+asyncpg://h/d?ssl=require"),
        ("postgresql://h/d?host=a:1&host=b:2", "postgresql+asyncpg://h/d?host=a%2Cb&port=1%2C2"),
        ("sqlite:///a.db", "sqlite+aiosqlite:///a.db"),
        ("sqlite+aiosqlite:////var/a.db", "sqlite+aiosqlite:////var/a.db"),
    ],
)
async def test_url(url: str, expected: str) -> None:
    """The usual spellings are understood."""
    assert normalise(url).render_as_string(hide_password=False) == expected


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file::memory:?uri=true",
        "sqlite:///file:secret?mode=memory&uri=true",
        "mysql://h/d",
        "postgresql://secret@one:1,two:secret/d",
        "postgresql://secret@one,two:70000/d",
        "postgresql://secret@one,/d",
        "postgresql://secret@one,two/d?port=1,2,3",
        "secret-that-is-no-url",
        "",
    ],
)
async def test_url_that_is_not_supported(url: str) -> None:
    """It is refused, and not repeated: a password may be in it."""
    with pytest.raises(ValueError, match=r"SQLite|supported|malformed") as caught:
        open_engine(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("postgresql://user:p@ss:secret@h/d", "percent-encoded"),
        ("postgresql://h:99999/d", "port"),
        ("sqlite://secret.db", "three slashes"),
        ("sqlite://secret/keyturn.db", "three slashes"),
        ("sqlite://user:secret@/keyturn.db", "three slashes"),
        ("postgresql://h/d?sslmode=secret", "sslmode"),
        ("postgresql://h/d?sslmode=require&sslmode=secret", "sslmode"),
        ("postgresql://h/d?ssl=secret", "ssl"),
        ("postgresql://h/d?sslmode=require&channel_binding=require", "sslmode=verify-full.* PGSSLROOTCERT"),
        ("postgresql://h/d?channel_binding=secret", "channel_binding"),
        ("postgresql://h/d?sslrootcert=/secret", "PGSSLROOTCERT"),
        ("postgresql://h/d?options=secret", "options"),
        ("postgresql://h/d?service=secret", "service"),
        ("sqlite:////var/lib/what?.db", "'.db' is not supported; .*%3F"),
        ("sqlite:////var/lib/keyturn.db?immutable=secret", "immutable"),
        ("sqlite:///file:/var/lib/keyturn.db?uri=true&nolock=secret", "nolock"),
    ],
)
async def test_url_with_a_part_that_cannot_be_heeded(url: str, named: str) -> None:
    """The part is named, and neither its value nor a cause that quotes it is told."""
    with pytest.raises(ValueError, match=named) as caught:
        open_engine(url)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
async def test_url_that_asks_for_certificates_nobody_has(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver looks in one file: where there is none the URL is refused, and with one it reaches the driver."""
    url, known = f"postgresql://h/d?sslmode={mode}", tmp_path / ".postgresql" / "root.crt"
    monkeypatch.setenv("HOME", str(tmp_path))
    for named in ("", str(tmp_path / "nowhere")):
        monkeypatch.setenv("PGSSLROOTCERT", named)
        with pytest.raises(ValueError, match=rf"sslmode={mode} .* PGSSLROOTCERT"):
            normalise(url)
    known.parent.mkdir()
    known.touch()
    for named in ("", str(known)):
        monkeypatch.setenv("PGSSLROOTCERT", named)
        assert normalise(url).query == {"ssl": mode}


async def test_channel_binding_that_the_environment_demands(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused as in a URL, for PostgreSQL alone; what demands nothing is taken."""
    monkeypatch.setenv("PGCHANNELBINDING", "require")
    with pytest.raises(ValueError, match=r"PGCHANNELBINDING cannot be had.* sslmode=verify-full"):
        normalise("postgresql://h/d?sslmode=require")
    normalise("sqlite:///a.db")
    for harmless in ("disable", "prefer", ""):
        monkeypatch.setenv("PGCHANNELBINDING", harmless)
        normalise("postgresql://h/d?sslmode=require")


async def test_certificates_that_the_environment_demands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong with it is said as of a URL, which goes before it."""
    monkeypatch.setenv("PGSSLROOTCERT", str(tmp_path / "nowhere"))
    for mode, wrong in (("verfy", "must be one of"), ("verify-full", "finds no certificates")):
        monkeypatch.setenv("PGSSLMODE", mode)
        with pytest.raises(ValueError, match=f"PGSSLMODE.* {wrong}"):
            normalise("postgresql://h/d")
        normalise("postgresql://h/d?sslmode=require")
    for harmless in ("require", ""):
        monkeypatch.setenv("PGSSLMODE", harmless)
        normalise("postgresql://h/d")


async def test_url_for_the_driver_alone() -> None:
    """It keeps the password, the name of each parameter is one that the driver has, and several hosts are one of them."""
    url = "postgres://u:p%40ss@/d?host=a:1&host=b:2&sslmode=require&connect_timeout=1&prepared_statement_cache_size=0"
    assert without_sqlalchemy(url) == "postgresql+asyncpg://u:p%40ss@/d?host=a%2Cb&port=1%2C2&ssl=require"
    assert without_sqlalchemy("sqlite:////var/a b.db") == "sqlite+aiosqlite:////var/a b.db"


async def test_denial_that_is_repeated(engine: Engine) -> None:
    """The later expiry stays."""
    async with engine.transaction() as connection:
        await deny_ids(connection, ["a", "b"], 1.0, 50.0)
        await deny_ids(connection, ["a", "a"], 2.0, 60.0)
        await deny_ids(connection, ["b"], 2.0, 40.0)
        assert await deny_ids(connection, [], 2.0, 40.0) == []
        found = await connection.exec_driver_sql("SELECT id, expires_at FROM keyturn_denylist ORDER BY id")
        assert [tuple(row) for row in found] == [("a", 60.0), ("b", 50.0)]


async def test_on_revoked(engine: Engine) -> None:
    """This process hears of its own revocations after the commit; an error in it is no answer."""
    heard: list[Denied] = []

    def hear(denied: Sequence[Denied]) -> None:
        heard.extend(denied)
        raise LookupError("an application's mistake")

    clock = FrozenClock()
    store = SqlSessions(engine, denylist_lifetime=610.0, heal_time=900.0, clock=clock, on_revoked=hear)
    holders = [await sign_in(store) for _ in range(2)]
    ended = await store.revoke("user-1", RevokeReason.LOGOUT)
    assert {entry.id for entry in heard} == {holder.session_id.hex() for holder in holders}
    assert {entry.expires_at for entry in heard} == {clock.now + 610.0}
    assert len(ended) == 2
    store = SqlSessions(engine, denylist_lifetime=610.0, heal_time=900.0, clock=clock, on_revoked=heard.extend)
    dead = await sign_in(store, remember=False)
    clock.advance(86400.0)
    assert (await dead.refresh()).reason is RevokeReason.ABSOLUTE
    assert heard[-1] == Denied(dead.session_id.hex(), clock.now + 610.0)


async def test_touches_at_the_end(database_url: str) -> None:
    """What waits is written when the store closes."""
    clock = FrozenClock()
    engine = open_engine(database_url)
    await migrate(engine)
    store = SqlSessions(engine, denylist_lifetime=610.0, heal_time=900.0, clock=clock, touch_period=3600.0)
    holder = await sign_in(store)
    clock.advance(120.0)
    await holder.refresh()
    before, _ = await store.get(holder.session_id)
    await store.close()
    after, _ = await store.get(holder.session_id)
    assert before is not None
    assert after is not None
    assert before.last_seen_at == clock.now - 120.0
    assert after.last_seen_at == clock.now
    await engine.close()


async def test_touches_after_the_end(engine: Engine) -> None:
    """Whoever starts a node again has them written in time, and not with its next end: other nodes go by what is written."""
    store, touches = store_on(engine), Touches(engine, period=0.01)
    holder = await sign_in(store)
    before = await stored(holder)
    touches.add(before._replace(last_seen_at=before.last_seen_at + 1.0))
    await touches.close()
    expected = before._replace(last_seen_at=before.last_seen_at + 2.0)
    touches.add(expected)
    with anyio.fail_after(PATIENCE):
        while (await store.get(holder.session_id))[0] != expected:  # noqa: ASYNC110 - it comes by the database
            await anyio.sleep(0.01)
    await touches.close()
    await store.close()


async def test_touch_that_comes_while_an_older_one_is_written(engine: Engine) -> None:
    """It is not taken for written with that one."""
    store = store_on(engine)
    holder = await sign_in(store)
    before = await stored(holder)
    touches = Touches(engine, period=3600.0)
    touches.add(before._replace(last_seen_at=before.last_seen_at + 1.0))
    async with engine.transaction() as connection:
        if engine.postgres:
            await connection.exec_driver_sql("LOCK TABLE keyturn_sessions IN EXCLUSIVE MODE")
        writing = asyncio.create_task(touches.flush())
        await asyncio.sleep(0)  # it has begun, and waits for us
        touches.add(before._replace(last_seen_at=before.last_seen_at + 2.0))
    await writing
    await touches.close()
    after, _ = await store.get(holder.session_id)
    assert after is not None
    assert after.last_seen_at == before.last_seen_at + 2.0
    await store.close()


async def test_touch_of_a_session_that_has_ended_meanwhile(engine: Engine) -> None:
    """It stays as it has ended."""
    store, touches = store_on(engine), Touches(engine, period=3600.0)
    holder = await sign_in(store)
    before = await stored(holder)
    touches.add(before._replace(last_seen_at=before.last_seen_at + 1.0))
    await store.revoke("user-1", RevokeReason.LOGOUT)
    ended, _ = await store.get(holder.session_id)
    await touches.close()
    assert (await store.get(holder.session_id))[0] == ended
    await store.close()


async def test_more_touches_than_are_kept(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is forgotten; all others are written, in as many statements as that takes."""
    monkeypatch.setattr("keyturn.stores.touches._LIMIT", 3)
    monkeypatch.setattr("keyturn.stores.touches._BATCH", 2)
    store, touches = store_on(engine), Touches(engine, period=3600.0)
    ids = [(await sign_in(store, f"user-{number}")).session_id for number in range(4)]

    async def seen() -> list[float]:
        read = [(await store.get(id_))[0] for id_ in ids]
        return [session.last_seen_at for session in read if session is not None]

    before = await seen()
    for id_ in ids:
        session, _ = await store.get(id_)
        assert session is not None
        touches.add(session._replace(last_seen_at=session.last_seen_at + 1.0))
    await touches.flush()
    assert await seen() == [before[0], *(at + 1.0 for at in before[1:])]
    await touches.close()
    await store.close()


async def test_touches_while_the_database_is_away(
    postgres: PostgresServer, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """They are kept, and written when it is back."""
    clock = FrozenClock()
    engine = open_engine(postgres_url)
    await migrate(engine)
    store = SqlSessions(engine, denylist_lifetime=610.0, heal_time=900.0, clock=clock, touch_period=0.05)
    holder = await sign_in(store)
    clock.advance(120.0)
    await holder.refresh()
    postgres.kill9()
    await eventually(lambda: "last-seen times were not written" in caplog.text)
    postgres.start()

    async def written() -> bool:
        try:
            session, _ = await store.get(holder.session_id)
        except Unavailable:
            return False
        return session is not None and session.last_seen_at == clock.now

    await soon(written)
    await store.close()
    await engine.close()


async def test_permissions_are_left_alone(tmp_path: Path) -> None:
    """An existing SQLite file keeps the mode its owner gave it."""
    path = tmp_path / "keyturn.db"
    path.touch(mode=0o640)
    path.chmod(0o640)
    await migrate(f"sqlite:///{path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
