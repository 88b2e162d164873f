"""What a log says is behind a 503: whoever is called at night has nothing else to go by."""

from __future__ import annotations

import os

import httpx
import psutil
import pytest

from keyturn.core.errors import UnsafeSettings
from keyturn.runtime import Keyturn
from keyturn.settings import Settings
from keyturn.stores.migrations import migrate
from keyturn.tokens.secret_ring import SecretRing
from tests.machine import no_room
from tests.services import PostgresServer, frozen

pytestmark = pytest.mark.anyio

LOGIN = {"email": "ada@example.com", "password": "violet otters juggle quietly"}
REFRESH = {"cookie": f"__Host-kt_refresh={'x' * 120}"}
_CUT = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{name}'"


def node_and_database(url: str) -> tuple[Keyturn, str]:
    """Make a node, and name the database that it will use."""
    settings = Settings.load(env="development", database_url=url, secret=SecretRing.generate(os.urandom(32)))
    return Keyturn(settings), url.rpartition("/")[2]


async def answer(node: Keyturn, path: str, **sent: object) -> int:
    """Send a request as a browser does and return the status."""
    headers = {"x-keyturn": "1", "origin": "http://testserver", **REFRESH}
    transport = httpx.ASGITransport(node.asgi)
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver", headers=headers) as client:
        return (await client.request("GET" if path == "/readyz" else "POST", path, **sent)).status_code  # type: ignore[arg-type]


async def test_database_that_is_closed_for_maintenance(
    postgres: PostgresServer, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A database that takes no connections, as during a restore, is 503 and no error of ours; each line names the driver's code.

    The refusal also where the log shows its text alone, as in an application that has set up no logging.
    """
    node, name = node_and_database(postgres_url)
    async with node.lifespan():
        postgres.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        postgres.execute(_CUT.format(name=name))
        # The first may meet a connection of before.
        for _ in range(2):
            assert await answer(node, "/auth/login", json=LOGIN) == 503
            assert await answer(node, "/readyz") == 503
        postgres.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        assert (await node.ready())["database"]
    told = {(entry.message, vars(entry).get("fault", "").rpartition(" ")[2]) for entry in caplog.records}
    text = "refused: database (ObjectNotInPrerequisiteStateError 55000)"
    assert {(text, "55000"), ("not ready", "55000")} <= told
    assert not any(entry.exc_info for entry in caplog.records)


async def test_database_that_takes_no_writes(
    postgres: PostgresServer, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A node is not ready while it is led to a standby, and finds the way back by itself: it keeps no connection to one."""
    node, name = node_and_database(postgres_url)
    async with node.lifespan():
        assert (await node.ready())["database"]
        postgres.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only TO on')
        postgres.execute(_CUT.format(name=name))
        for _ in range(2):
            assert not (await node.ready())["database"]
        assert "25006" in [vars(entry).get("fault", "").rpartition(" ")[2] for entry in caplog.records]
        postgres.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
        assert (await node.ready())["database"]


async def test_database_that_hangs(postgres: PostgresServer, postgres_url: str) -> None:
    """A probe is told so, and does not wait as long as a statement may."""
    node, _ = node_and_database(postgres_url)
    async with node.lifespan():
        assert postgres._process is not None
        with frozen(psutil.Process(postgres._process.pid).children()):
            assert await answer(node, "/readyz") == 503
        assert await answer(node, "/readyz") == 200


async def test_disk_that_takes_no_writes(sqlite_database_url: str) -> None:
    """A node on SQLite is not ready from the first write that the disk refuses until it takes one, of whomever."""
    node, _ = node_and_database(sqlite_database_url)
    async with node.lifespan():
        with no_room():
            assert await answer(node, "/readyz") == 200
            assert await answer(node, "/auth/login", json=LOGIN) == 503
            for _ in range(2):
                assert not (await node.ready())["database"]
            assert await answer(node, "/readyz") == 503
        assert await answer(node, "/readyz") == 200
        assert await answer(node, "/auth/login", json=LOGIN) == 401


async def test_role_that_loses_its_rights(
    postgres: PostgresServer, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What a role may no longer do is a fault of the database, to a connection and to a statement: 503, until it may again.

    A node does not start with it.
    """
    name, role = postgres_url.rpartition("/")[2], "keyturn_losing"
    await migrate(postgres_url)
    postgres.execute(f"CREATE ROLE {role} LOGIN")
    node, _ = node_and_database(postgres_url.replace(f"{postgres.user}@", f"{role}@"))
    try:
        for kind in ("TABLES", "SEQUENCES"):
            postgres.execute(f"GRANT ALL ON ALL {kind} IN SCHEMA public TO {role}", name)
        async with node.lifespan():
            for right, whose in (("ALL ON keyturn_counters", role), (f'CONNECT ON DATABASE "{name}"', "PUBLIC")):
                postgres.execute(f"REVOKE {right} FROM {whose}", name)
                postgres.execute(_CUT.format(name=name))
                # The first may meet a connection of before.
                for _ in range(2):
                    assert await answer(node, "/auth/login", json=LOGIN) == 503
                postgres.execute(f"GRANT {right} TO {whose}", name)
                assert await answer(node, "/auth/login", json=LOGIN) == 401
                faults = [vars(entry)["fault"] for entry in caplog.records if vars(entry).get("code") == "unavailable"]
                assert faults[-1] == "InsufficientPrivilegeError 42501"
        assert not any(entry.exc_info for entry in caplog.records)
        postgres.execute(f"REVOKE DELETE ON keyturn_counters FROM {role}", name)
        with pytest.raises(UnsafeSettings, match="lacks DELETE on keyturn_counters"):
            await node.start()
        await node.close()
    finally:
        postgres.execute(f"DROP OWNED BY {role}", name)
        postgres.execute(f"DROP ROLE {role}")


@pytest.mark.parametrize(
    ("done", "why"),
    [
        ("ALTER TABLE keyturn_sessions SET UNLOGGED", "keyturn_sessions is UNLOGGED"),
        ('ALTER DATABASE "{name}" SET synchronous_commit = off', "synchronous_commit=off"),
    ],
    ids=["table", "database"],
)
async def test_start_over_a_database_that_loses_commits(
    postgres: PostgresServer, postgres_url: str, done: str, why: str
) -> None:
    """It is refused: what is lost with the first crash would not be noticed before."""
    node, name = node_and_database(postgres_url)
    postgres.execute(done.format(name=name), name)
    with pytest.raises(UnsafeSettings, match=why):
        await node.start()
    await node.close()


async def test_no_server_of_the_kind_that_the_url_asks_for(
    postgres: PostgresServer, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """While a failover leaves nobody who takes writes, that is a fault of the database, by name, and over by itself."""
    node, _ = node_and_database(f"{postgres_url}?target_session_attrs=read-write")
    name = postgres_url.rpartition("/")[2]
    async with node.lifespan():
        for setting, status in (("SET default_transaction_read_only = on", 503), ("RESET ALL", 401)):
            postgres.execute(f'ALTER DATABASE "{name}" {setting}')
            postgres.execute(_CUT.format(name=name))
            # The first may meet a connection of before.
            await answer(node, "/auth/login", json=LOGIN)
            assert await answer(node, "/auth/login", json=LOGIN) == status
            assert (await node.ready())["database"] is (status == 401)
    faults = {vars(entry).get("fault") for entry in caplog.records}
    assert "NoSuchServer target_session_attrs" in faults
    assert not any(entry.exc_info for entry in caplog.records)


@pytest.mark.parametrize(
    ("away", "back"),
    [
        ("keyturn_users RENAME TO gone", "gone RENAME TO keyturn_users"),
        ("keyturn_sessions RENAME TO gone", "gone RENAME TO keyturn_sessions"),
        ("keyturn_users RENAME email TO gone", "keyturn_users RENAME gone TO email"),
    ],
)
async def test_table_that_somebody_changes(
    database_url: str, away: str, back: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A table or column that is missing is a fault of the database: 503, named in the log, until it is there again."""
    node, _ = node_and_database(database_url)
    async with node.lifespan():
        assert await answer(node, "/auth/signup", json=LOGIN) == 201
        async with node.engine.autocommit() as connection:
            await connection.exec_driver_sql(f"ALTER TABLE {away}")
        assert await answer(node, "/auth/login", json=LOGIN) == 503
        faults = {vars(entry)["fault"] for entry in caplog.records if vars(entry).get("code") == "unavailable"}
        assert faults <= {"UndefinedTableError 42P01", "UndefinedColumnError 42703", "OperationalError SQLITE_ERROR"}
        async with node.engine.autocommit() as connection:
            await connection.exec_driver_sql(f"ALTER TABLE {back}")
        assert await answer(node, "/auth/login", json=LOGIN) == 200
    assert not any(entry.exc_info for entry in caplog.records)


@pytest.mark.parametrize("database", ["migrated", "new"])
async def test_node_that_was_never_started(
    database: str, sqlite_database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Who forgets the lifespan is told so by the text of the first 503, and nobody is signed up without an answer."""
    if database == "migrated":
        await migrate(sqlite_database_url)
    forgotten, _ = node_and_database(sqlite_database_url)
    for path in ("/auth/signup", "/auth/signup", "/auth/login", "/auth/refresh", "/auth/logout"):
        assert await answer(forgotten, path, json=LOGIN) == 503, path
    await forgotten.close()
    assert [entry.message for entry in caplog.records if entry.levelname == "WARNING"] == [
        "refused: signing_keys (NodeNotStarted)"
    ] * 5
