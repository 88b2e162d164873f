"""Tables that a restore, a replication or a hand has left in part."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

import pytest

from keyturn.core.errors import UnsafeSettings
from keyturn.stores.migrations import migrate
from keyturn.stores.whole import check_whole, missing_indexes
from tests.services import PostgresServer, find_program
from tests.stores.support import open_database

pytestmark = [pytest.mark.anyio, pytest.mark.services]

_OWN = "CREATE UNIQUE INDEX own ON keyturn_users (email_key)"
_DROPPED = "DROP INDEX keyturn_users_email"
_PUBLISHED = "CREATE PUBLICATION own FOR ALL TABLES"


async def found_in(url: str) -> str:
    """Return what is refused; nothing when all is well."""
    async with open_database(url) as engine:
        try:
            await check_whole(engine)
        except UnsafeSettings as refused:
            return "\n".join(refused.problems)
    return ""


@pytest.mark.parametrize(
    ("done", "found"),
    [
        (["ALTER TABLE keyturn_sessions SET UNLOGGED"], "database_not_durable: keyturn_sessions is UNLOGGED"),
        (
            ["ALTER TABLE keyturn_sessions DROP CONSTRAINT keyturn_sessions_pkey", _DROPPED],
            "database_incomplete: no index keeps keyturn_sessions (id), keyturn_users (email_key) unique",
        ),
        (
            ["DROP TABLE keyturn_denylist", "ALTER TABLE keyturn_users RENAME TO old_users"],
            "database_incomplete: keyturn_denylist, keyturn_users is missing: was it renamed, or a backup restored in part?",
        ),
        (
            ["INSERT INTO keyturn_events (id, at, type, data) VALUES (7, 0, '', '')"],
            "database_incomplete: the ids of keyturn_events lag behind its rows",
        ),
        (
            [
                "ALTER TABLE keyturn_events ALTER id DROP DEFAULT, ALTER id ADD GENERATED ALWAYS AS IDENTITY",
                "INSERT INTO keyturn_events (id, at, type, data) OVERRIDING SYSTEM VALUE VALUES (7, 0, '', '')",
            ],
            "database_incomplete: the ids of keyturn_events lag behind its rows",
        ),
        (
            [_PUBLISHED, "ALTER TABLE keyturn_users REPLICA IDENTITY NOTHING"],
            "database_incomplete: keyturn_users is published without a replica identity",
        ),
        (
            [_PUBLISHED, "ALTER TABLE keyturn_users REPLICA IDENTITY USING INDEX keyturn_users_email", _OWN, _DROPPED],
            "database_incomplete: keyturn_users is published without a replica identity",
        ),
        ([_PUBLISHED, "ALTER TABLE keyturn_users REPLICA IDENTITY USING INDEX keyturn_users_email"], ""),
        ([_PUBLISHED, "ALTER TABLE keyturn_users REPLICA IDENTITY FULL"], ""),
        ([f"{_PUBLISHED} WITH (publish = 'insert')", "ALTER TABLE keyturn_users REPLICA IDENTITY NOTHING"], ""),
        ([_OWN, _DROPPED], ""),
        (["ALTER TABLE keyturn_events ALTER id DROP DEFAULT", "DROP SEQUENCE keyturn_events_id_seq"], ""),
    ],
    ids=[
        "unlogged",
        "no keys",
        "no table",
        "a sequence",
        "an identity",
        "published, with no replica identity",
        "published, whose replica identity was dropped",
        "published by another index",
        "published whole",
        "published as far as rows are new",
        "an index by another name",
        "ids of somebody else",
    ],
)
async def test_what_a_hand_has_changed(
    postgres: PostgresServer, postgres_url: str, done: Sequence[str], found: str
) -> None:
    """What harms is refused and named; an index that does the same by another name is the operator's affair."""
    assert await found_in(postgres_url) == ""  # before there is any table
    await migrate(postgres_url)
    assert await found_in(postgres_url) == ""
    for statement in done:
        postgres.execute(statement, postgres_url.rpartition("/")[2])
    told = await found_in(postgres_url)
    assert told.startswith(found)
    assert bool(told) == bool(found)


async def test_statement_that_is_told_for_the_ids(postgres: PostgresServer, postgres_url: str) -> None:
    """It mends what it was told for."""
    database = postgres_url.rpartition("/")[2]
    await migrate(postgres_url)
    postgres.execute("INSERT INTO keyturn_events (id, at, type, data) VALUES (7, 0, '', '')", database)
    postgres.execute((await found_in(postgres_url)).partition(": say ")[2], database)
    assert await found_in(postgres_url) == ""


@pytest.mark.parametrize("before", ["COPY public.keyturn_users", "ADD CONSTRAINT", "CREATE UNIQUE INDEX"])
async def test_restore_that_was_interrupted(postgres: PostgresServer, postgres_url: str, before: str) -> None:
    """However far it came: the level is among the first that it writes, the keys are the last."""
    database = postgres_url.rpartition("/")[2]
    await migrate(postgres_url)
    server = ["-h", "127.0.0.1", "-p", str(postgres.port), "-U", postgres.user]
    dumped = subprocess.run(
        [str(find_program("pg_dump")), *server, database], capture_output=True, text=True, check=True
    ).stdout
    postgres.empty_database(database)
    part = dumped.partition(before)[0].rpartition(";")[0] + ";"
    restore = [str(find_program("psql")), "-q", *server, "-d", database]
    subprocess.run(restore, input=part, capture_output=True, text=True, check=True)
    assert "keyturn_users (email_key)" in await found_in(postgres_url)


async def test_index_that_is_not_valid(postgres: PostgresServer, postgres_url: str) -> None:
    """CREATE INDEX CONCURRENTLY leaves one when it fails: it counts as missing."""
    await migrate(postgres_url)
    postgres.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'keyturn_sessions_device'::regclass",
        postgres_url.rpartition("/")[2],
    )
    async with open_database(postgres_url) as engine:
        assert await missing_indexes(engine) == ["keyturn_sessions_device"]
        await check_whole(engine)


async def test_indexes_that_are_missing(database_url: str) -> None:
    """They are named; nobody is kept from starting, for all is only slower. SQLite has nothing worse."""
    await migrate(database_url)
    async with open_database(database_url) as engine:
        assert await missing_indexes(engine) == []
        async with engine.autocommit() as connection:
            for name in ("keyturn_sessions_device", "keyturn_events_at"):
                await connection.exec_driver_sql(f"DROP INDEX {name}")
        assert await missing_indexes(engine) == ["keyturn_events_at", "keyturn_sessions_device"]
        await check_whole(engine)
