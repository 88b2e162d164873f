"""PostgreSQL finds what it has whatever the rules are by which a version of the operating system or of ICU sorts texts.

Such an upgrade, or a failover to a standby on another system, is a change of the database's locale in the catalog: the
indexes stay as they are, and the server looks for what is in them by other rules.
"""

from __future__ import annotations

from os import urandom

import pytest

from keyturn.core.errors import Unavailable, UnsafeSettings
from keyturn.core.model import RevokeReason, User
from keyturn.core.rotation import Outcome
from keyturn.ports import Presented
from keyturn.stores.engine import Engine, open_engine
from keyturn.stores.location import normalise
from keyturn.stores.migrations import current_level, expected_level, migrate
from keyturn.stores.sql import SqlSessions
from keyturn.stores.users import SqlUsers
from keyturn.testing import sign_in
from keyturn.testing.sessions import Holder
from keyturn.wire import driver_error
from tests.services import PostgresServer
from tests.stores.support import open_database
from tests.stores.test_migrations import bring_to

pytestmark = [pytest.mark.anyio, pytest.mark.services]

DATABASE = "sorted_otherwise"
PEOPLE = 60
_ICU = f"CREATE DATABASE {DATABASE} TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'und' LOCALE 'C.UTF-8'"
_LOCALE = "SELECT attname FROM pg_attribute WHERE attrelid = 'pg_database'::regclass AND attname IN ('daticulocale', 'datlocale')"
_OF_TEXTS = (
    "SELECT format('%s %s', indexrelid::regclass, collname) FROM pg_index, unnest(indcollation) AS used(collation_id)"
    " JOIN pg_collation ON pg_collation.oid = collation_id"
    " WHERE indrelid::regclass::text LIKE 'keyturn%' AND indrelid <> 'keyturn_alembic_version'::regclass"
)


class Site:
    """Users who are signed in."""

    def __init__(self, engine: Engine) -> None:
        self.users = SqlUsers(engine, denylist_lifetime=610.0)
        self.sessions = SqlSessions(engine, denylist_lifetime=610.0, heal_time=900.0)

    async def sign_up(self, number: int) -> tuple[User, Holder]:
        user = await self.users.create(address(number), None, "hash")
        assert user is not None
        return user, await sign_in(self.sessions, user.id)

    async def refresh(self, holder: Holder) -> Presented:
        return await self.sessions.present_with_user(holder.session_id, holder.judge())


def address(number: int) -> str:
    """An address with what languages put in different places: digits, capitals, punctuation."""
    return f"{'aB'[number % 2]}-{number}.{'x' * (1 + number % 3)}@example.com"


def sort_otherwise(postgres: PostgresServer) -> None:
    """Sort digits by their value from now on, and punctuation not at all."""
    column = postgres.execute(_LOCALE)
    postgres.execute(f"UPDATE pg_database SET {column} = 'en-u-kn-true-ka-shifted' WHERE datname = '{DATABASE}'")


async def test_texts_that_are_sorted_otherwise(postgres: PostgresServer) -> None:
    """Everybody stays signed in and is found by their address, nobody else can take it, and sessions end with their user."""
    postgres.execute(_ICU)
    try:
        async with open_database(postgres.url(DATABASE)) as engine:
            await migrate(engine)
            site = Site(engine)
            people = [await site.sign_up(number) for number in range(PEOPLE)]
            await site.sessions.close()
        sort_otherwise(postgres)
        engine = open_engine(postgres.url(DATABASE))
        site = Site(engine)
        for number, (user, holder) in enumerate(people):
            holder.store = site.sessions
            assert (await site.refresh(holder)).user == user
            assert await site.users.create(address(number), None, "hash") is None
            credential = await site.users.find(address(number))
            assert credential is not None
            assert credential.user == user
            assert await site.sessions.revoke(user.id, RevokeReason.LOGOUT) == [holder.session_id]
        await site.sessions.close()
        await engine.close()
    finally:
        postgres.drop_database(DATABASE)


async def test_indexes_of_texts(postgres: PostgresServer, empty_postgres_url: str) -> None:
    """Each compares bytes, whatever the database does."""
    await migrate(empty_postgres_url)
    found = postgres.execute(_OF_TEXTS, normalise(empty_postgres_url).database or "").splitlines()
    assert {line.split()[1] for line in found} == {"C"}
    assert len(found) == 8


async def test_node_that_is_at_work_meanwhile(empty_postgres_url: str) -> None:
    """What it has prepared is from before: it is prepared again, and its sessions go on."""
    async with open_database(empty_postgres_url) as engine:
        await bring_to(engine, "0002")
        site = Site(engine)
        people = [await site.sign_up(number) for number in range(3)]
        for user, holder in people:
            assert (await site.refresh(holder)).user == user
        assert await migrate(empty_postgres_url) == expected_level()
        for user, holder in people:
            presented = await site.refresh(holder)
            assert (presented.user, presented.decision.outcome) == (user, Outcome.ROTATE)
            assert await site.users.get(user.id) == user
        await site.sign_up(3)
        await site.sessions.close()


@pytest.mark.parametrize(
    ("made", "named"),
    [
        ("CREATE VIEW mine AS SELECT id, email FROM keyturn_users", "rule _RETURN on view mine"),
        (
            "CREATE POLICY mine ON keyturn_sessions USING (user_id = current_user)",
            "policy mine on table keyturn_sessions",
        ),
        ("ALTER TABLE keyturn_users ADD mine text GENERATED ALWAYS AS (id || '') STORED", 'generated column "mine"'),
    ],
)
async def test_something_that_depends_on_a_column(empty_postgres_url: str, made: str, named: str) -> None:
    """It is named, nothing has changed, and without it all is well."""
    async with open_database(empty_postgres_url) as engine:
        await bring_to(engine, "0002")
        async with engine.autocommit() as connection:
            await connection.exec_driver_sql(made)
        with pytest.raises(UnsafeSettings) as refused:
            await migrate(engine)
        [problem] = refused.value.problems
        assert problem.startswith("database_depends: keyturn_")
        assert named in problem
        assert await current_level(engine) == "0002"


async def test_table_of_the_application_that_refers_to_users(empty_postgres_url: str) -> None:
    """It goes on to do so."""
    async with open_database(empty_postgres_url) as engine:
        await bring_to(engine, "0002")
        user, _ = await Site(engine).sign_up(1)
        async with engine.autocommit() as connection:
            await connection.exec_driver_sql("CREATE TABLE mine (whose text REFERENCES keyturn_users (id))")
            await connection.exec_driver_sql("INSERT INTO mine VALUES ($1)", (user.id,))
        await migrate(engine)
        with pytest.raises(Unavailable) as refused:
            async with engine.autocommit() as connection:
                await connection.exec_driver_sql("INSERT INTO mine VALUES ($1)", (urandom(4).hex(),))
        assert driver_error(refused.value)[1] == "23503"
