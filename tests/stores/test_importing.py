"""Users who come from elsewhere: written once, told from others who are there already, and nobody overwritten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from sqlalchemy import select, update

from keyturn.core.events import Event, EventType
from keyturn.core.model import User
from keyturn.email import normalise_email
from keyturn.stores.engine import Engine
from keyturn.stores.importing import Met, NewUser, bring_in
from keyturn.stores.schema import events, users
from keyturn.stores.users import SqlUsers
from tests.stores.support import open_database, waited_for

pytestmark = pytest.mark.anyio

LIFETIME = 610.0
IMPORTED = '{"by":"import"}'


@pytest.fixture
async def engine(database_url: str) -> AsyncGenerator[Engine]:
    """An empty database."""
    async with open_database(database_url) as opened:
        yield opened


def new(email: str = "ada@example.com", *, password_hash: str | None = "hash-1", id: str | None = None) -> NewUser:  # noqa: A002
    """Make a user who is to be brought in."""
    return NewUser(normalise_email(email), "Ada", password_hash, id)


def directory(engine: Engine) -> SqlUsers:
    """Return the users of a database."""
    return SqlUsers(engine, denylist_lifetime=LIFETIME)


async def read(engine: Engine) -> list[tuple[object, ...]]:
    """Read all users, by address."""
    columns = (users.c.id, users.c.email, users.c.email_key, users.c.name, users.c.password_hash, users.c.disabled_at)
    async with engine.autocommit() as connection:
        return [tuple(row) for row in await connection.execute(select(*columns).order_by(users.c.email_key))]


async def logged(engine: Engine) -> list[tuple[object, ...]]:
    """Read all events."""
    async with engine.autocommit() as connection:
        return [tuple(row) for row in await connection.execute(select(events.c.type, events.c.user_id, events.c.data))]


async def test_users_are_brought_in(engine: Engine) -> None:
    """Each is as given, with an event; who has no id is given one as at a sign-up."""
    disabled = new("Bob@Example.com", id="auth0|5")._replace(disabled=True, name=None, password_hash=None)
    assert await bring_in(engine, [new(), disabled]) == [Met.NOBODY, Met.NOBODY]
    (ada, *as_given), bob = await read(engine)
    assert as_given == ["ada@example.com", "ada@example.com", "Ada", "hash-1", None]
    assert len(str(ada)) == 32
    *as_given, disabled_at = bob
    assert as_given == ["auth0|5", "Bob@example.com", "bob@example.com", None, None]
    assert disabled_at
    assert set(await logged(engine)) == {("signed_up", each, IMPORTED) for each in (ada, "auth0|5")}
    found = await directory(engine).find("BOB@example.com")
    assert found == (User("auth0|5", "Bob@example.com", None, disabled=True), None)


async def test_whom_they_meet(engine: Engine) -> None:
    """Asked before, asked after and written again: whoever is there is told by id, by hash, or by how they came; nothing changes."""
    store = directory(engine)
    signed_up = await store.sign_up("eve@example.com", None, "hash-9", Event(EventType.SIGNED_UP, 1.0))
    assert signed_up is not None
    file = [new(), new("bob@example.com", id="2"), new("nobody@example.com", password_hash=None)]
    for only_ask, expected in (
        (True, Met.NOBODY),
        (False, Met.NOBODY),
        (True, Met.THEMSELVES),
        (False, Met.THEMSELVES),
    ):
        assert await bring_in(engine, file, only_ask=only_ask) == [expected] * 3
    for email in ("ada@example.com", "bob@example.com", "nobody@example.com"):
        found = await store.find(email)
        assert found is not None
        assert await store.set_password(found.user.id, "hash-2", {})
    before = await read(engine), await logged(engine)
    others = [
        new("eve@example.com"),
        new("ADA@example.com", id="3"),
        new("carl@example.com", id="2"),
        new("Bob@example.com", id="5"),
    ]
    there = [
        new("BOB@example.com", id="2"),
        new("eve@example.com", id=signed_up.id),
        new("eve@example.com", password_hash="hash-9"),
    ]
    for only_ask in (True, False):
        assert await bring_in(engine, file, only_ask=only_ask) == [Met.THEMSELVES] * 3
        met = await bring_in(engine, others, only_ask=only_ask)
        assert met == [Met.ADDRESS_OF_ANOTHER, Met.ADDRESS_OF_ANOTHER, Met.ID_OF_ANOTHER, Met.ADDRESS_OF_ANOTHER]
        for each in there:
            assert await bring_in(engine, [each], only_ask=only_ask) == [Met.THEMSELVES]
    assert (await read(engine), await logged(engine)) == before


async def test_one_of_many_who_is_there(engine: Engine) -> None:
    """The others are brought in with the same transaction, in the order in which they were given."""
    await bring_in(engine, [new("user7@example.com", id="7")])
    many = [new(f"user{number}@example.com", id=str(number)) for number in range(1200)]
    met = await bring_in(engine, many)
    assert [number for number, each in enumerate(met) if each is not Met.NOBODY] == [7]
    assert len(await read(engine)) == len(await logged(engine)) == 1200


async def test_nobody(engine: Engine) -> None:
    """An empty list is no error."""
    assert await bring_in(engine, []) == await bring_in(engine, [], only_ask=True) == []


async def test_same_users_brought_in_at_once(database_url: str) -> None:
    """Over two pools, in another order: each is there once, with one event, and both hear whom they met."""
    file = [new(f"user{number}@example.com") for number in range(60)]
    async with open_database(database_url) as one, open_database(database_url) as other:
        met = await asyncio.gather(
            *(bring_in(engine, list(part)) for engine in (one, other) for part in (file, reversed(file)))
        )
        assert sum(each.count(Met.NOBODY) for each in met) == 60
        assert all(set(each) <= {Met.NOBODY, Met.THEMSELVES} for each in met)
        assert len(await read(one)) == len(await logged(one)) == 60


async def test_sign_ups_for_the_same_addresses(database_url: str) -> None:
    """Of a sign-up and an import that race for an address one gets it, and the other hears of it."""
    file = [new(f"user{number}@example.com") for number in range(20)]
    async with open_database(database_url) as one, open_database(database_url) as other:
        store, event = directory(other), Event(EventType.SIGNED_UP, 1.0)
        importing = asyncio.create_task(bring_in(one, file))
        created = await asyncio.gather(*(store.sign_up(each.email.display, None, "hash-9", event) for each in file))
        met = await importing
        assert [each is Met.NOBODY for each in met] == [user is None for user in created]
        assert set(met) <= {Met.NOBODY, Met.ADDRESS_OF_ANOTHER}
        hashes = ["hash-1" if each is Met.NOBODY else "hash-9" for each in met]
        found = {key: hash_ for _, _, key, _, hash_, _ in await read(one)}
        assert found == {each.email.key: hash_ for each, hash_ in zip(file, hashes, strict=True)}


@pytest.mark.services
@pytest.mark.parametrize(("committed", "met"), [(True, Met.ADDRESS_OF_ANOTHER), (False, Met.NOBODY)])
async def test_sign_up_that_is_not_committed_yet(postgres_url: str, committed: bool, met: Met) -> None:
    """The import waits for it, and goes by what came of it."""
    async with open_database(postgres_url) as engine, open_database(postgres_url) as other:
        async with other.sqlalchemy.connect() as holding:
            signing_up = await holding.begin()
            row = {"id": "9", "email": "ada@example.com", "email_key": "ada@example.com", "created_at": 1.0}
            await holding.execute(users.insert().values(**row))
            importing = asyncio.create_task(bring_in(engine, [new(), new("bob@example.com")]))
            await waited_for(other)
            await (signing_up.commit() if committed else signing_up.rollback())
        assert await importing == [met, Met.NOBODY]


@pytest.mark.services
async def test_user_who_is_met_and_then_deleted(postgres_url: str) -> None:
    """Whoever has just met them is brought in after all: nobody is told of somebody who is not there. Who brings in the same
    meanwhile does not wait for them while they wait for that.
    """
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    async with open_database(postgres_url) as other, open_database(postgres_url) as engine:
        async with other.autocommit() as connection:
            name = (await connection.exec_driver_sql("SELECT current_database()")).scalar_one()
            for statement in (
                f"ALTER DATABASE {name} SET deadlock_timeout = '1h'",  # whoever is in one stays there
                "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NULL; END $$",
                "CREATE TRIGGER wait AFTER INSERT ON keyturn_users FOR EACH STATEMENT EXECUTE FUNCTION wait()",
            ):
                await connection.exec_driver_sql(statement)
            file = [new(), new("bob@example.com")]
            assert await bring_in(other, file[:1]) == [Met.NOBODY]
            await connection.exec_driver_sql("SELECT pg_advisory_lock(7)")
            first = asyncio.create_task(bring_in(engine, file))
            await waited_for(other)
            await connection.execute(users.delete())
            second = asyncio.create_task(bring_in(engine, file))
            while (await connection.exec_driver_sql(waiting)).scalar_one() < 2:
                pass
            await connection.exec_driver_sql("SELECT pg_advisory_unlock(7)")
            assert (await first, await second) == ([Met.THEMSELVES] * 2, [Met.NOBODY] * 2)
        assert len(await read(other)) == 2


async def test_user_of_an_earlier_run_without_their_event(engine: Engine) -> None:
    """Once it has been pruned, a changed hash is that of a stranger: with an id of their own they are known."""
    file = [new(), new("bob@example.com", id="2")]
    assert await bring_in(engine, file) == [Met.NOBODY] * 2
    async with engine.transaction() as connection:
        await connection.execute(update(users).values(password_hash="hash-2"))
        await connection.execute(events.delete())
    assert await bring_in(engine, file) == [Met.ADDRESS_OF_ANOTHER, Met.THEMSELVES]
