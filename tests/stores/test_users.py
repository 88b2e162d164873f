"""The built-in directory of users over SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence

import pytest
from sqlalchemy import event, insert, select

from keyturn.core.errors import InvalidRequest, Unavailable
from keyturn.core.events import Event, EventType
from keyturn.core.model import SessionId, User, UserId
from keyturn.email import normalise_email
from keyturn.stores.engine import Engine
from keyturn.stores.revocations import Denied
from keyturn.stores.schema import denylist, events, sessions
from keyturn.stores.users import MAX_NAME, SqlUsers
from keyturn.testing import UserDirectoryContract
from tests.services import PostgresServer
from tests.stores.support import open_database

pytestmark = pytest.mark.anyio

LIFETIME = 610.0
SIGNED_UP = Event(EventType.SIGNED_UP, 1.0, data={"ip": "192.0.2.1"})


class Directory(SqlUsers):
    """The directory with a record of what it told of revocations."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.told: list[Denied] = []
        super().__init__(engine, denylist_lifetime=LIFETIME, on_revoked=self._note)

    def _note(self, denied: Sequence[Denied]) -> None:
        self.told += denied


@pytest.fixture
async def users(database_url: str) -> AsyncGenerator[Directory]:
    """An empty directory."""
    async with open_database(database_url) as engine:
        yield Directory(engine)


async def create(users: SqlUsers, email: str = "alice@example.com") -> User:
    """Create a user who must not exist yet."""
    user = await users.create(email, "Alice", "hash-1")
    assert user is not None
    return user


async def open_session(engine: Engine, user: User, number: int, *, ended: bool = False) -> str:
    """Insert a session of a user; return its id in hex."""
    async with engine.transaction() as connection:
        now = await engine.read_now(connection)
        values = {
            "id": number.to_bytes(16, "big"),
            "user_id": user.id,
            "generation": 0,
            "token_hash": bytes(32),
            "confirmed_at": now,
            "created_at": now,
            "last_seen_at": now,
            "last_active_at": now,
            "inactivity_expires_at": now + 3600,
            "absolute_expires_at": now + 86400,
            "revoked_at": now if ended else None,
            "revoked_reason": "logout" if ended else None,
            "device_id": bytes(16),
            "device": "Firefox on Linux",
            "ip": "192.0.2.1",
            "user_agent": "test",
            "amr": "pwd",
            "authenticated_at": now,
            "remember": False,
        }
        await connection.execute(insert(sessions).values(**values))
    return number.to_bytes(16, "big").hex()


async def read_all(engine: Engine, *columns: object) -> list[tuple[object, ...]]:
    """Read columns of a table."""
    async with engine.autocommit() as connection:
        return [tuple(row) for row in await connection.execute(select(*columns))]  # type: ignore[call-overload]


class TestContract(UserDirectoryContract):
    """The built-in directory is a directory."""

    @pytest.fixture(autouse=True)
    def _users(self, users: Directory) -> None:
        self.users = users

    async def make_directory(self) -> Directory:
        return self.users

    async def disable(self, user_id: UserId) -> None:
        assert await self.users.set_disabled(user_id, disabled=True)

    async def delete(self, user_id: UserId) -> None:
        assert await self.users.delete(user_id)


async def test_create_and_find(users: Directory) -> None:
    """A user is found by any case and composition of the address, with the hash that was given."""
    user = await create(users, "Zo\u00eb@Example.COM")
    assert user.email == "Zo\u00eb@example.com"
    assert (len(user.id), user.disabled) == (32, False)
    for typed in ("zo\u00eb@example.com", "ZOE\u0308@EXAMPLE.com", " Zo\u00eb@example.com"):
        found = await users.find(typed)
        assert found is not None
        assert found == (user, "hash-1")


async def test_sign_up_with_its_event(users: Directory) -> None:
    """The event names the user; where the address is taken there is neither."""
    first = await users.sign_up("alice@example.com", None, "hash-1", SIGNED_UP)
    second = await users.sign_up("Alice@Example.com", None, "hash-2", SIGNED_UP)
    assert first is not None
    assert second is None
    async with users.engine.autocommit() as connection:
        kept = (await connection.execute(select(events.c.type, events.c.user_id, events.c.data))).all()
    assert [tuple(row) for row in kept] == [("signed_up", first.id, '{"ip":"192.0.2.1"}')]
    assert [user.id for user in await users.list_users()] == [first.id]


async def test_sign_ups_that_race_for_one_address(database_url: str) -> None:
    """Sixteen sign-ups for one address in different case, over two pools: exactly one gets it."""
    spellings = ["bob@example.com", "Bob@example.com", "BOB@EXAMPLE.COM", "boB@Example.com"]
    async with open_database(database_url) as one, open_database(database_url) as other:
        directories = [Directory(one), Directory(other)]
        created = await asyncio.gather(
            *(directories[i % 2].create(spellings[i % 4], None, f"hash-{i}") for i in range(16))
        )
        winners = [user for user in created if user is not None]
        assert len(winners) == 1
        assert await directories[0].list_users() == winners
        found = await directories[1].find("bob@example.com")
        assert found is not None
        assert found.password_hash == f"hash-{created.index(winners[0])}"


async def test_address_of_a_staging_system(users: Directory) -> None:
    """Addresses under `.test` can sign up: staging systems use them."""
    user = await users.create("alice@example.test", None, "hash")
    assert user is not None
    assert user.email == "alice@example.test"


@pytest.mark.parametrize(
    "address",
    [
        "",
        "alice",
        "alice@",
        "alice@localhost",
        "a,b@example.com",
        "a@example.com,b@example.com",
        "a@example.com;b@example.com",
        "Alice <alice@example.com>",
        "alice@example.com\r\nBcc: eve@example.com",
        "alice\n@example.com",
        "alice\x00@example.com",
        "<script>alert(1)</script>@example.com",
        '"<img src=x>"@example.com',
        "alice@example.com ,",
        "alice\u200b@example.com",
        "alice\uff20example.com",
        "alice@[127.0.0.1]",
        "\ud800@example.com",
        "x" * 400 + "@example.com",
        "x" * 1_000_000,
    ],
)
async def test_address_that_is_none(users: Directory, address: str) -> None:
    """What is not one plain address is refused with a code and without being repeated, and nothing is stored."""
    with pytest.raises(InvalidRequest) as raised:
        await users.create(address, None, "hash")
    assert raised.value.detail.startswith("email: ")
    assert not address or address not in raised.value.detail
    with pytest.raises(InvalidRequest):
        await users.find(address)
    assert await users.list_users() == []


def test_normalisation_settles() -> None:
    """What is stored is normalised already: a second time changes nothing."""
    for typed in ("Stra\u00dfe@B\u00dccher.example", "\u212alvin@example.com", "e\u0301@xn--bcher-kva.example"):
        once = normalise_email(typed)
        assert normalise_email(once.display) == once
        assert normalise_email(once.key).key == once.key


@pytest.mark.parametrize("name", ["Alice\x00", "Alice\r\nBcc: eve", "\ud800", "\x1b[31mAlice"])
async def test_name_with_control_characters(users: Directory, name: str) -> None:
    """A name no database takes, or that would break a log line, is the caller's mistake and not a fault."""
    with pytest.raises(InvalidRequest):
        await users.create("alice@example.com", name, "hash")


async def test_name_of_any_length(users: Directory) -> None:
    """The longest name is taken whole, and one character more is the caller's mistake."""
    user = await users.create("alice@example.com", "\u00eb" * MAX_NAME, "hash")
    assert user is not None
    assert await users.get(user.id) == user
    with pytest.raises(InvalidRequest, match=f"at most {MAX_NAME} characters"):
        await users.create("bob@example.com", "\u00eb" * (MAX_NAME + 1), "hash")


async def test_hostile_addresses_and_names(users: Directory) -> None:
    """What looks like SQL is data."""
    user = await users.create("o'brien@example.com", "'); DROP TABLE keyturn_users; --", "hash")
    assert user is not None
    assert await users.get(user.id) == user


async def test_reads_that_come_together(users: Directory) -> None:
    """A hundred concurrent reads are a few queries, and each caller gets their own user."""
    created = [await create(users, f"user{i}@example.com") for i in range(10)]
    queries = 0

    def count(*_: object) -> None:
        nonlocal queries
        queries += 1

    event.listen(users.engine.sqlalchemy.sync_engine, "before_cursor_execute", count)
    ids = [created[i % 10].id if i % 11 else f"nobody-{i}" for i in range(100)]
    found = await asyncio.gather(*(users.get(each) for each in ids))
    event.remove(users.engine.sqlalchemy.sync_engine, "before_cursor_execute", count)
    assert [None if user is None else user.id for user in found] == [
        None if each.startswith("nobody") else each for each in ids
    ]
    assert queries <= 3


async def test_password_change(users: Directory) -> None:
    """It ends the other sessions and leaves its event; from a hash that is not the stored one it does nothing."""
    user = await create(users)
    own, other = [SessionId(bytes.fromhex(await open_session(users.engine, user, number))) for number in (1, 2)]
    event = Event(EventType.PASSWORD_CHANGED, 1.0, user.id, own)
    assert await users.change_password(user.id, "hash-0", "stolen", own, event) == (False, ())
    assert await read_all(users.engine, events.c.type) == []
    assert await users.change_password(user.id, "hash-1", "hash-2", own, event) == (True, [other])
    assert await users.get_password_hash(user.id) == "hash-2"
    rows = await read_all(users.engine, sessions.c.id, sessions.c.revoked_reason)
    assert {(SessionId(bytes(id_)), reason) for id_, reason in rows} == {(own, None), (other, "password_changed")}  # type: ignore[call-overload]
    logged = await read_all(users.engine, events.c.type, events.c.session_hash)
    assert ("password_changed", event.session_hash) in logged
    assert sorted(kind for kind, _ in logged) == ["password_changed", "session_ended"]  # type: ignore[type-var]
    assert [entry.id for entry in users.told] == [other.hex()]


async def test_password_that_an_administrator_sets(users: Directory) -> None:
    """Whatever it was before, or none: every session ends, its device is unknown, nothing else of the user changes."""
    user, bystander = await create(users), await create(users, "bob@example.com")
    live = {await open_session(users.engine, user, number) for number in (1, 2)}
    kept = await open_session(users.engine, bystander, 3)
    assert await users.set_password(user.id, "hash-2", {"by": "command line"})
    assert await users.find(user.email) == (user, "hash-2")
    assert await users.get_password_hash(bystander.id) == "hash-1"
    rows = await read_all(users.engine, sessions.c.id, sessions.c.revoked_reason, sessions.c.device_id)
    assert {bytes(id_).hex(): (reason, bytes(device).hex()) for id_, reason, device in rows} == {  # type: ignore[call-overload]
        **{each: ("password_changed", each) for each in live},
        kept: (None, bytes(16).hex()),
    }
    assert {id_ for (id_,) in await read_all(users.engine, denylist.c.id)} == live
    assert {entry.id for entry in users.told} == live
    logged = await read_all(users.engine, events.c.type, events.c.user_id, events.c.data)
    assert ("password_changed", user.id, '{"by":"command line"}') in logged
    assert sorted(str(kind) for kind, *_ in logged) == ["password_changed", *["session_ended"] * 2]
    assert not await users.set_password("nobody", "stolen", {})


async def test_password_that_changes_while_an_administrator_sets_it(users: Directory) -> None:
    """Of the two the administrator's stays: the other was checked against a hash that is no longer there."""
    user = await create(users)
    own = SessionId(bytes.fromhex(await open_session(users.engine, user, 1)))
    assert await users.set_password(user.id, "hash-2", {})
    event = Event(EventType.PASSWORD_CHANGED, 1.0, user.id, own)
    assert await users.change_password(user.id, "hash-1", "hash-3", own, event) == (False, ())
    assert not await users.replace_password_hash(user.id, "hash-1", "hash-4")
    assert await users.get_password_hash(user.id) == "hash-2"


async def test_disable_ends_every_session(users: Directory) -> None:
    """Disabling ends the sessions of that user and of nobody else, denies them, and is told and logged."""
    user, bystander = await create(users), await create(users, "bob@example.com")
    live = {await open_session(users.engine, user, number) for number in (1, 2)}
    await open_session(users.engine, user, 3, ended=True)
    kept = await open_session(users.engine, bystander, 4)
    assert await users.set_disabled(user.id, disabled=True)
    assert await users.get(user.id) == user._replace(disabled=True)
    found = await users.find(user.email)
    assert found is not None
    assert found.user.disabled
    rows = await read_all(users.engine, sessions.c.id, sessions.c.revoked_reason)
    assert {bytes(id_).hex(): reason for id_, reason in rows} == {  # type: ignore[call-overload]
        **dict.fromkeys(live, "user_disabled"),
        (3).to_bytes(16, "big").hex(): "logout",
        kept: None,
    }
    assert {id_ for (id_,) in await read_all(users.engine, denylist.c.id)} == live
    assert {entry.id for entry in users.told} == live
    logged = await read_all(users.engine, events.c.type, events.c.user_id)
    assert sorted(logged) == sorted([("user_disabled", user.id), *[("session_ended", user.id)] * 2])


async def test_disable_twice_and_enable(users: Directory) -> None:
    """Repeating is harmless and leaves one event; enabling brings back the user and no session."""
    user = await create(users)
    await open_session(users.engine, user, 1)
    for disabled in (True, True, False, False):
        assert await users.set_disabled(user.id, disabled=disabled)
    assert await users.get(user.id) == user
    assert [reason for (reason,) in await read_all(users.engine, sessions.c.revoked_reason)] == ["user_disabled"]
    types = [kind for (kind,) in await read_all(users.engine, events.c.type)]
    assert sorted(map(str, types)) == ["session_ended", "user_disabled", "user_enabled"]
    assert not await users.set_disabled("nobody", disabled=True)


async def test_delete_ends_every_session(users: Directory) -> None:
    """A deleted user is gone at once, their sessions have ended, their address is free."""
    user = await create(users)
    ended = await open_session(users.engine, user, 1)
    assert await users.delete(user.id)
    assert not await users.delete(user.id)
    assert await users.get(user.id) is None
    assert await users.find(user.email) is None
    assert [entry.id for entry in users.told] == [ended]
    types = {kind for (kind,) in await read_all(users.engine, events.c.type)}
    assert types == {"user_deleted", "session_ended"}
    data = [json.loads(str(text)) for (text,) in await read_all(users.engine, events.c.data)]
    assert {"reason": "user_disabled"} in data
    again = await create(users)
    assert again.id != user.id


async def test_list_users_in_pages(users: Directory) -> None:
    """Pages cover every user once."""
    created = {(await create(users, f"user{i}@example.com")).id for i in range(7)}
    listed: list[str] = []
    while page := await users.list_users(after=listed[-1] if listed else None, limit=3):
        assert len(page) <= 3
        listed += [user.id for user in page]
    assert len(listed) == 7
    assert set(listed) == created


async def test_callback_that_fails(database_url: str) -> None:
    """A failing callback is logged: the revocation is committed and the answer is yes."""

    def fail(_: Sequence[Denied]) -> None:
        raise RuntimeError("the callback is broken")

    async with open_database(database_url) as engine:
        users = SqlUsers(engine, denylist_lifetime=LIFETIME, on_revoked=fail)
        user = await create(users)
        await open_session(engine, user, 1)
        assert await users.delete(user.id)
        assert len(await read_all(engine, denylist.c.id)) == 1


async def test_database_down(postgres: PostgresServer, postgres_url: str) -> None:
    """A killed database is a fault for every caller in the group, never a user who does not exist."""
    async with open_database(postgres_url) as engine:
        users = Directory(engine)
        user = await create(users)
        postgres.kill9()
        results = await asyncio.gather(*(users.get(user.id) for _ in range(5)), return_exceptions=True)
        assert [type(each) for each in results] == [Unavailable] * 5
        assert len(set(map(id, results))) == 5
        postgres.start()
