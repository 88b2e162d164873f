"""A role of PostgreSQL that may not do all that a node does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from keyturn.core.errors import UnsafeSettings
from keyturn.stores.engine import open_engine
from keyturn.stores.migrations import migrate
from keyturn.stores.rights import check_rights
from keyturn.stores.schema import metadata
from tests.services import PostgresServer

pytestmark = [pytest.mark.anyio, pytest.mark.services]


@pytest.fixture
def role(postgres: PostgresServer) -> Iterator[str]:
    """A role that owns nothing and was granted nothing; gone once the database is."""
    postgres.execute("CREATE ROLE keyturn_server LOGIN")
    yield "keyturn_server"
    postgres.execute("DROP ROLE keyturn_server")


async def test_rights_that_are_missing(postgres: PostgresServer, role: str, postgres_url: str) -> None:
    """Each is named, that on the sequence of the events as well; with all of them nothing is wrong."""
    owner = open_engine(postgres_url)
    server = open_engine(postgres_url.replace(f"{postgres.user}@", f"{role}@"))

    async def grant(statement: str) -> None:
        async with owner.autocommit() as connection:
            await connection.exec_driver_sql(f"GRANT {statement} TO {role}")

    async def lacks() -> str:
        with pytest.raises(UnsafeSettings) as raised:
            await check_rights(server)
        return str(raised.value)

    assert await lacks() == "database_forbidden: this role lacks CREATE on schema public"
    postgres.execute(f"ALTER ROLE {role} SET search_path TO nowhere")
    await server.close()
    assert await lacks() == "database_forbidden: this role lacks a schema that its search_path names"
    postgres.execute(f"ALTER ROLE {role} RESET search_path")
    await server.close()
    await check_rights(owner)  # before there is any table
    await migrate(owner)
    await check_rights(owner)
    tables = "ON ALL TABLES IN SCHEMA public"
    await grant(f"SELECT {tables}")
    writing = [f"{right} on {table}" for right in ("INSERT", "UPDATE", "DELETE") for table in metadata.tables]
    missing = ", ".join(sorted([*writing, "USAGE on keyturn_events_id_seq"]))
    assert await lacks() == f"database_forbidden: this role lacks {missing}"
    await grant(f"INSERT, UPDATE, DELETE {tables}")
    assert await lacks() == "database_forbidden: this role lacks USAGE on keyturn_events_id_seq"
    await grant("USAGE ON ALL SEQUENCES IN SCHEMA public")
    await check_rights(server)
    for engine in (owner, server):
        await engine.close()
