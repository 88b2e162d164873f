"""A role of PostgreSQL that may not do all that a node does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from keyturn.core.errors import Unavailable, UnsafeSettings
from keyturn.stores.engine import open_engine
from keyturn.stores.feeds import PollingFeed, PostgresFeed
from keyturn.stores.migrations import migrate
from keyturn.stores.rights import check_rights, ping_for_writing
from keyturn.stores.schema import metadata
from keyturn.stores.sql import SqlSessions
from keyturn.testing import FrozenClock, sign_in
from tests.services import PostgresServer

pytestmark = [pytest.mark.anyio, pytest.mark.services]


@pytest.fixture
def role(postgres: PostgresServer) -> Iterator[str]:
    """A role that owns nothing and was granted nothing; gone once the database is."""
    postgres.execute("CREATE ROLE keyturn_server LOGIN")
    yield "keyturn_server"
    postgres.execute("DROP ROLE keyturn_server")


async def test_rights_that_are_missing(postgres: PostgresServer, role: str, empty_postgres_url: str) -> None:
    """Each is named, that on the sequence of the events as well; with all of them nothing is wrong."""
    owner = open_engine(empty_postgres_url)
    server = open_engine(empty_postgres_url.replace(f"{postgres.user}@", f"{role}@"))

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


@pytest.mark.parametrize(
    "policy", ["", "CREATE POLICY everything ON {table} USING (true)"], ids=["no policy", "a policy"]
)
async def test_row_security(postgres: PostgresServer, role: str, empty_postgres_url: str, policy: str) -> None:
    """A session that is hidden is a fault and not one that has gone; the start names each table, and no feed takes it for empty."""
    server_url, database = (
        empty_postgres_url.replace(f"{postgres.user}@", f"{role}@"),
        empty_postgres_url.rpartition("/")[2],
    )
    await migrate(empty_postgres_url)
    for target in ("ALL TABLES", "ALL SEQUENCES"):
        postgres.execute(f"GRANT ALL ON {target} IN SCHEMA public TO {role}", database)
    server = open_engine(server_url)
    store = SqlSessions(server, denylist_lifetime=610.0, heal_time=900.0, clock=FrozenClock())
    holder = await sign_in(store)
    for table in metadata.tables:
        postgres.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY; {policy.format(table=table)}", database)
    for asking in (holder.refresh(), store.get(holder.session_id), ping_for_writing(server)):
        with pytest.raises(Unavailable):
            await asking
    with pytest.raises(UnsafeSettings) as raised:
        await check_rights(server)
    hidden = ", ".join(f"BYPASSRLS for the row security of {table}" for table in sorted(metadata.tables))
    assert str(raised.value) == f"database_forbidden: this role lacks {hidden}"
    for feed in (PostgresFeed(server_url), PollingFeed(server_url)):
        with pytest.raises(PermissionError, match="row security hides keyturn_denylist"):
            await anext(feed())
    postgres.execute(f"ALTER ROLE {role} BYPASSRLS")
    await check_rights(server)
    assert (await store.get(holder.session_id))[0] is not None
    assert (await anext(PostgresFeed(server_url)())).now is not None
    await store.close()
    await server.close()
