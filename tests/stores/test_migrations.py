"""The migrations lead to the tables of the schema, on both engines, also when several nodes start at once."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import stat
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from os import urandom
from pathlib import Path
from threading import Barrier
from typing import Any

import anyio
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData

from keyturn.core.errors import Unavailable
from keyturn.core.model import RevokeReason
from keyturn.core.rotation import Outcome
from keyturn.stores import migrations
from keyturn.stores.engine import Engine, open_engine
from keyturn.stores.location import normalise
from keyturn.stores.migrations import (
    VERSION_TABLE,
    current_level,
    expected_level,
    has_reached,
    migrate,
    why_not_migrated,
)
from keyturn.stores.schema import metadata
from keyturn.stores.sql import SqlSessions
from keyturn.testing import sign_in
from keyturn.testing.sessions import DEVICE_ID
from tests.services import PostgresServer, sqlite_url
from tests.stores.support import open_database, open_empty, waited_for

pytestmark = pytest.mark.anyio

DECISION = Path(__file__).parents[2] / "docs" / "decisions" / "0026-ended-sessions.md"
GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "operating.md"
_INDEXES_POSTGRES = "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> $1"
_INDEXES_SQLITE = "SELECT sql FROM sqlite_master WHERE type = 'index' AND tbl_name <> ? AND sql IS NOT NULL"


@pytest.fixture
async def engine(empty_database_url: str) -> AsyncIterator[Engine]:
    """An engine over an empty database."""
    engine = open_empty(empty_database_url)
    yield engine
    await engine.close()


def differences(connection: Connection) -> list[Any]:
    """What a migration would have to change to reach the schema, types included."""
    options = {"version_table": VERSION_TABLE, "compare_type": True}
    return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))


async def indexes(engine: Engine) -> set[str]:
    """The indexes as the database tells them: the comparison of tables does not look at their conditions."""
    async with engine.autocommit() as connection:
        asked = _INDEXES_POSTGRES if engine.postgres else _INDEXES_SQLITE
        return set((await connection.exec_driver_sql(asked, (VERSION_TABLE,))).scalars())


async def indexes_of_the_schema(engine: Engine) -> set[str]:
    """Make the tables anew, without a migration, and return their indexes."""
    async with engine.sqlalchemy.begin() as connection:
        await connection.run_sync(metadata.drop_all)
        await connection.run_sync(metadata.create_all)
    return await indexes(engine)


async def bring_to(engine: Engine, level: str) -> None:
    """Do the steps up to a level."""

    def work(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", "keyturn.stores:migrations")
        config.attributes["connection"] = connection
        command.upgrade(config, level)

    async with engine.transaction() as connection:
        await connection.run_sync(work)


async def test_level_of_an_empty_database(engine: Engine) -> None:
    """There is none, and then it is the expected one; again changes nothing."""
    assert await current_level(engine) is None
    assert await migrate(engine) == expected_level()
    assert await current_level(engine) == expected_level()
    assert await migrate(engine) == expected_level()


async def test_level_that_is_the_expected_one(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has to be done, so nothing of Alembic is loaded: it takes as long as a sixth of the start of a command."""
    await migrate(engine)
    monkeypatch.setitem(sys.modules, "alembic", None)
    assert await why_not_migrated(engine) is None
    assert await has_reached(engine)
    assert await migrate(engine) == expected_level()


def test_files_of_the_levels() -> None:
    """Each is named after the level that it leads to, and they follow each other."""
    config = Config()
    config.set_main_option("script_location", "keyturn.stores:migrations")
    steps = [(step.revision, Path(step.path).name) for step in ScriptDirectory.from_config(config).walk_revisions()]
    assert steps[0][0] == expected_level()
    assert steps == sorted(((level, f"level_{level}.py") for level, _ in steps), reverse=True)


async def test_tables_after_migration(engine: Engine) -> None:
    """They are those of the schema; without the migration they are not (so the comparison can fail)."""
    async with engine.autocommit() as connection:
        assert await connection.run_sync(differences)
    await migrate(engine)
    async with engine.autocommit() as connection:
        assert await connection.run_sync(differences) == []


async def test_indexes_after_migration(engine: Engine) -> None:
    """They are those of the schema, their conditions included."""
    await migrate(engine)
    assert await indexes(engine) == await indexes_of_the_schema(engine)


async def test_database_of_the_first_level(engine: Engine) -> None:
    """What was in it is there afterwards: sessions go on, those that have ended are ended, devices are known."""
    await bring_to(engine, "0001")
    store = SqlSessions(engine, denylist_lifetime=610.0, heal_time=900.0)
    ended, browser = await sign_in(store, device_id=b"device-number-02"), await sign_in(store)
    await store.revoke("user-1", RevokeReason.LOGOUT, only=ended.session_id)
    assert await migrate(engine) == expected_level()
    async with engine.autocommit() as connection:
        assert await connection.run_sync(differences) == []
    assert [session.id for session in (await store.list_live("user-1")).sessions] == [browser.session_id]
    assert (await ended.refresh()).outcome is Outcome.ENDED
    assert (await browser.refresh()).outcome is Outcome.ROTATE
    known = [await store.knows_device("user-1", device) for device in (b"device-number-02", DEVICE_ID, urandom(16))]
    assert known == [True, True, False]
    assert await store.revoke("user-1", RevokeReason.LOGOUT) == [browser.session_id]
    await store.close()


async def test_indexes_that_the_operator_has_made(empty_postgres_url: str) -> None:
    """They may be made beforehand, as is written for operators, and are then taken as they are."""
    statements = DECISION.read_text().split("```sql\n")[1].split("```")[0].split(";\n")[:-1]
    assert len(statements) == 2
    async with open_database(empty_postgres_url) as engine:
        await bring_to(engine, "0001")
        async with engine.autocommit() as connection:
            for statement in statements:
                await connection.exec_driver_sql(statement)
        await migrate(engine)
        assert await indexes(engine) == await indexes_of_the_schema(engine)


async def test_migrations_of_the_application(engine: Engine) -> None:
    """With what is written for them they leave our tables alone, which they would drop otherwise."""
    await migrate(engine)
    written = re.search(r"`include_name=(lambda [^`]*)`", GUIDE.read_text())
    assert written is not None
    include_name = eval(written[1])

    def planned(connection: Connection, options: dict[str, Any]) -> list[Any]:
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), MetaData()))

    async with engine.autocommit() as connection:
        assert await connection.run_sync(planned, {})
        assert await connection.run_sync(planned, {"include_name": include_name}) == []


@pytest.mark.waits
async def test_statements_of_a_migration_may_take_longer(postgres: PostgresServer, empty_postgres_url: str) -> None:
    """Neither the bound that a node has for its statements holds, nor those of the database, also while it waits its turn."""
    name = str(normalise(empty_postgres_url).database)
    async with open_database(empty_postgres_url) as other:
        async with other.transaction() as turn:
            await turn.exec_driver_sql(migrations._LOCK)  # pyright: ignore[reportPrivateUsage]
            known = "SELECT name FROM pg_settings WHERE name IN ('statement_timeout', 'lock_timeout', 'transaction_timeout')"
            for setting in postgres.execute(known).split():  # an older PostgreSQL has two of them
                postgres.execute(f"ALTER DATABASE {name} SET {setting} = '1s'")
            engine = open_engine(empty_postgres_url, command_timeout=1.0)
            migrating = asyncio.create_task(migrate(engine))
            await waited_for(other)
            await asyncio.sleep(1.5)
        assert await migrating == expected_level()
        await engine.close()


async def test_database_at_the_level_waits_for_nobody(empty_postgres_url: str) -> None:
    """As nearly every start of a node finds it, also while another migration has the lock."""
    await migrate(empty_postgres_url)
    async with open_database(empty_postgres_url) as engine, engine.transaction() as other:
        await other.exec_driver_sql(migrations._LOCK)
        for database in (engine, empty_postgres_url):
            with anyio.fail_after(10):
                assert await migrate(database) == expected_level()


async def test_table_that_somebody_holds(empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step gives up, so that nobody waits behind it for long; it has changed nothing and can be tried again."""
    monkeypatch.setattr(migrations, "_LOCK_TIMEOUT", "100ms")
    async with open_database(empty_postgres_url) as engine:
        await bring_to(engine, "0001")
        async with engine.transaction() as reading:
            await reading.exec_driver_sql("SELECT count(*) FROM keyturn_sessions")
            with pytest.raises(Unavailable) as raised:
                await migrate(empty_postgres_url)
        monkeypatch.undo()
        assert getattr(getattr(raised.value.__cause__, "orig", None), "sqlstate", None) == "55P03"
        assert await current_level(engine) == "0001"
        assert await migrate(engine) == expected_level()


async def test_room_for_updates_in_place(empty_postgres_url: str) -> None:
    """The sessions' pages are filled to 70 % only."""
    engine = open_engine(empty_postgres_url)
    await migrate(engine)
    async with engine.autocommit() as connection:
        found = await connection.exec_driver_sql("SELECT reloptions FROM pg_class WHERE relname = 'keyturn_sessions'")
        assert found.scalar_one() == ["fillfactor=70"]
    await engine.close()


async def test_several_nodes_at_once(empty_database_url: str) -> None:
    """One of them migrates and the others find it done."""
    assert await asyncio.gather(*(migrate(empty_database_url) for _ in range(5))) == [expected_level()] * 5


def test_nodes_of_several_threads_at_once(tmp_path: Path) -> None:
    """Threads with an event loop each, as Django and Flask have them, migrate a database each: none meets another's migration."""
    threads = 4
    begin = Barrier(threads)

    def start(number: int) -> str:
        begin.wait()
        return asyncio.run(migrate(f"sqlite:///{tmp_path / f'{number}.db'}"))

    with ThreadPoolExecutor(threads) as pool:
        assert list(pool.map(start, range(threads))) == [expected_level()] * threads


@pytest.mark.parametrize("level", [None, "0001"])
async def test_migration_that_is_killed(empty_database_url: str, level: str | None) -> None:
    """After whichever statement: nothing of it has happened, and the next one ends as if there had been none before."""
    async with open_database(empty_database_url) as engine:
        if level is not None:
            await bring_to(engine, level)
    command = [sys.executable, "-m", "tests.stores.killed_migrations", empty_database_url]
    killer = await asyncio.create_subprocess_exec(*command, stdout=PIPE)
    said, _ = await killer.communicate()
    *killed, last = map(int, said.split())
    assert (killed, last) == ([-signal.SIGKILL] * len(killed), 0)
    assert len(killed) >= (3 if level else 20)
    async with open_database(empty_database_url) as engine:
        assert await current_level(engine) == expected_level()
        async with engine.autocommit() as connection:
            assert await connection.run_sync(differences) == []
        assert await indexes(engine) == await indexes_of_the_schema(engine)


async def test_database_of_a_newer_version(engine: Engine) -> None:
    """A level that is not known is refused with what to do."""
    await migrate(engine)
    async with engine.transaction() as connection:
        await connection.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(RuntimeError, match="level 9999, which is unknown: upgrade Keyturn"):
        await migrate(engine)


async def test_new_sqlite_file(tmp_path: Path) -> None:
    """Nobody but its owner reads it, nor the files beside it."""
    mask = os.umask(0)
    try:
        engine = open_engine(sqlite_url(tmp_path))
        await migrate(engine)
        files = list(tmp_path.glob("keyturn.db*"))
        assert len(files) == 3
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
        await engine.close()
    finally:
        os.umask(mask)
