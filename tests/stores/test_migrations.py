"""The migrations lead to the tables of the schema, on both engines, also when several nodes start at once."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from keyturn.stores.engine import Engine, open_engine
from keyturn.stores.location import normalise
from keyturn.stores.migrations import VERSION_TABLE, current_level, expected_level, migrate
from keyturn.stores.schema import metadata

pytestmark = pytest.mark.anyio


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[Engine]:
    """An engine over an empty database."""
    engine = open_engine(database_url)
    yield engine
    await engine.close()


def differences(connection: Connection) -> list[Any]:
    """What a migration would have to change to reach the schema, types included."""
    options = {"version_table": VERSION_TABLE, "compare_type": True}
    return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))


async def test_level_of_an_empty_database(engine: Engine) -> None:
    """There is none, and then it is the expected one; again changes nothing."""
    assert await current_level(engine) is None
    assert await migrate(engine) == expected_level()
    assert await current_level(engine) == expected_level()
    assert await migrate(engine) == expected_level()


async def test_tables_after_migration(engine: Engine) -> None:
    """They are those of the schema; without the migration they are not (so the comparison can fail)."""
    async with engine.autocommit() as connection:
        assert await connection.run_sync(differences)
    await migrate(engine)
    async with engine.autocommit() as connection:
        assert await connection.run_sync(differences) == []


async def test_room_for_updates_in_place(postgres_url: str) -> None:
    """The sessions' pages are filled to 70 % only."""
    engine = open_engine(postgres_url)
    await migrate(engine)
    async with engine.autocommit() as connection:
        found = await connection.exec_driver_sql("SELECT reloptions FROM pg_class WHERE relname = 'keyturn_sessions'")
        assert found.scalar_one() == ["fillfactor=70"]
    await engine.close()


async def test_several_nodes_at_once(database_url: str) -> None:
    """One of them migrates and the others find it done."""
    assert await asyncio.gather(*(migrate(database_url) for _ in range(5))) == [expected_level()] * 5


async def test_database_of_a_newer_version(engine: Engine) -> None:
    """A level that is not known is refused with what to do."""
    await migrate(engine)
    async with engine.transaction() as connection:
        await connection.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(RuntimeError, match="level 9999, which is unknown: upgrade Keyturn"):
        await migrate(engine)


async def test_new_sqlite_file(sqlite_database_url: str) -> None:
    """Nobody but its owner reads it, nor the files beside it."""
    mask = os.umask(0)
    try:
        engine = open_engine(sqlite_database_url)
        await migrate(engine)
        files = list(Path(str(normalise(sqlite_database_url).database)).parent.glob("keyturn.db*"))
        assert len(files) == 3
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
        await engine.close()
    finally:
        os.umask(mask)
