"""Logins that PostgreSQL opens together: each is in whole or left out, and none waits for another one's user."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest
from anyio import wait_all_tasks_blocked
from sqlalchemy import text

from keyturn.core.errors import Unavailable
from keyturn.core.events import EventType
from keyturn.core.login import Admission, Limit
from keyturn.core.model import Session, SessionId, User
from keyturn.core.policy import Policy
from keyturn.ports import Attempt, ChooseLimits, Opened
from keyturn.stores.opening import Seen
from keyturn.stores.schema import events
from tests.stores.logins import NEW, OLD, Entering, Node, change_password, elsewhere, open_node
from tests.stores.support import PATIENCE

pytestmark = [pytest.mark.anyio, pytest.mark.services]

ADDRESS = Limit(("address", "192.0.2.1"), 24, 900.0)
POLICY = Policy(max_sessions=2)
ROOM = POLICY.max_sessions - 1


def account(user: User) -> Limit:
    """Limit what is counted by user: consecutive failures."""
    return Limit(("account", user.email), 5, None)


@pytest.fixture
async def node(postgres_url: str) -> AsyncGenerator[Node]:
    """A node over an empty database."""
    async with open_node(postgres_url) as opened:
        yield opened


@pytest.fixture
async def users(node: Node) -> list[User]:
    """Four users who have not signed in yet."""
    created = [await node.users.create(f"user-{number}@example.com", None, OLD) for number in range(4)]
    return [user for user in created if user is not None]


async def begin(node: Node, *users: User) -> list[Attempt]:
    """Begin a login of each; all come from one address."""

    def limits(user: User) -> ChooseLimits:
        return lambda _: [account(user), ADDRESS]

    return [await node.attempts.begin(user.email, None, limits(user)) for user in users]


async def enter(node: Node, attempts: Sequence[Attempt], entering: Sequence[Entering]) -> list[Opened]:
    """Open the sessions of several logins together."""
    opened = await asyncio.gather(*start(node, attempts, entering))
    return list(opened)


def start(node: Node, attempts: Sequence[Attempt], entering: Sequence[Entering]) -> list[asyncio.Task[Opened]]:
    """Begin to open the sessions of several logins together."""
    return [asyncio.create_task(open_one(node, attempt, one)) for attempt, one in zip(attempts, entering, strict=True)]


async def open_one(node: Node, attempt: Attempt, entering: Entering) -> Opened:
    """Open one session."""
    assert attempt.credential is not None
    return await node.sessions.open_after_attempt(attempt.credential.user, entering, attempt, ROOM)


async def counted(node: Node) -> list[int]:
    """Return the amounts of all counters that count something."""
    async with node.engine.autocommit() as connection:
        return list((await connection.execute(text("SELECT amount FROM keyturn_counters WHERE amount > 0"))).scalars())


async def test_logins_of_one_moment(node: Node, users: list[User]) -> None:
    """They are one transaction, all of it: sessions, events, what the attempts gave back."""
    attempts = await begin(node, *users)
    assert sorted(await counted(node)) == [1, 1, 1, 1, 4]
    entering = [Entering(user, POLICY) for user in users]
    opened = await enter(node, attempts, entering)
    assert [one.calls for one in entering] == [1] * 4
    assert [one.credential for one in opened] == [attempt.credential for attempt in attempts]
    for user, one in zip(users, opened, strict=True):
        assert await node.live(user) == {one.admission.session.id}
        kept, _ = await node.sessions.get(one.admission.session.id)
        assert kept == one.admission.session
    assert await counted(node) == []
    assert await node.read(events.c.type) == [(EventType.SIGNED_IN.value,)] * 4
    async with node.engine.autocommit() as connection:
        tables = "SELECT xmin::text FROM keyturn_sessions UNION SELECT xmin::text FROM keyturn_events"
        assert len((await connection.execute(text(f"{tables} UNION SELECT xmin::text FROM keyturn_users"))).all()) == 1


async def test_one_whose_hash_took_long(node: Node, users: list[User]) -> None:
    """Their session begins when they come in, by the database's clock, and not when they were found."""
    [attempt] = await begin(node, users[0])
    assert isinstance(attempt.seen, Seen)
    long_ago = attempt._replace(seen=attempt.seen._replace(here=attempt.seen.here - 300.0))
    entering = Entering(users[0], POLICY)
    [opened] = await enter(node, [long_ago], [entering])
    assert entering.calls == 1
    assert attempt.seen.at + 300.0 <= opened.admission.session.created_at < attempt.seen.at + 300.0 + PATIENCE


async def test_one_whose_password_changes_between(node: Node, users: list[User], postgres_url: str) -> None:
    """They are told the new hash, so that they can be refused; the others have not noticed. Nothing is given back twice."""
    *attempts, _ = await begin(node, *users, users[3])
    elsewhere(postgres_url, change_password(users[1]))
    entering = [Entering(user, POLICY) for user in users]
    opened = await enter(node, attempts, entering)
    assert [one.credential and one.credential.password_hash for one in opened] == [OLD, NEW, OLD, OLD]
    assert [one.calls for one in entering] == [1, 2, 1, 1]
    # Somebody at the same address is still at it.
    assert await counted(node) == [1]


async def test_one_who_is_deleted_between(node: Node, users: list[User], postgres_url: str) -> None:
    """They find nobody, and nothing of theirs is left."""
    attempts = await begin(node, *users)
    elsewhere(postgres_url, lambda other: other.users.delete(users[2].id))
    opened = await enter(node, attempts, [Entering(user, POLICY) for user in users])
    assert [one.credential is None for one in opened] == [False, False, True, False]


async def test_one_without_room(node: Node, users: list[User]) -> None:
    """Their oldest session ends; nobody else's does."""
    full = [Entering(users[0], POLICY) for _ in range(POLICY.max_sessions)]
    first, second = [(await node.sessions.open_with_user(users[0], one)).admission.session.id for one in full]
    opened = await enter(node, await begin(node, *users), [Entering(user, POLICY) for user in users])
    assert [len(one.admission.evicted) for one in opened] == [1, 0, 0, 0]
    live = await node.live(users[0])
    assert opened[0].admission.session.id in live
    assert len(live & {first, second}) == 1


async def test_two_of_one_user(node: Node, users: list[User]) -> None:
    """Both get in, one after the other, and what both attempts took is given back."""
    ada, bob = users[:2]
    attempts = await begin(node, ada, ada, bob, ada)
    opened = await enter(node, attempts, [Entering(user, POLICY) for user in (ada, ada, bob, ada)])
    live = await node.live(ada)
    assert len(live) == POLICY.max_sessions
    assert live < {one.admission.session.id for one in opened}
    assert await node.live(bob) == {opened[2].admission.session.id}
    assert await counted(node) == []


async def test_one_whose_row_somebody_holds(node: Node, users: list[User], postgres_url: str) -> None:
    """They wait, and nobody else does."""
    attempts = await begin(node, *users)
    async with open_node(postgres_url) as other, other.engine.sqlalchemy.connect() as holding:
        change = await holding.begin()
        await holding.exec_driver_sql("SELECT FROM keyturn_users WHERE id = $1 FOR UPDATE", (users[0].id,))
        waiting, *others = start(node, attempts, [Entering(user, POLICY) for user in users])
        async with asyncio.timeout(PATIENCE):
            opened = await asyncio.gather(*others)
            await other.waits()
        assert not waiting.done()
        assert [await node.live(user) for user in users[1:]] == [{one.admission.session.id} for one in opened]
        await change.rollback()
        last = await waiting
        assert await node.live(users[0]) == {last.admission.session.id}
    assert await counted(node) == []


async def test_one_that_is_not_admitted(node: Node, users: list[User]) -> None:
    """It is told why, and keeps its attempt; the others are in."""

    class Declined(Exception):
        pass

    class Declining(Entering):
        def __call__(self, live: Sequence[Session], now: float) -> Admission:
            raise Declined

    attempts = await begin(node, *users)
    declining = Declining(users[0], POLICY)
    declined, *others = start(node, attempts, [declining, *(Entering(user, POLICY) for user in users[1:])])
    opened = await asyncio.gather(*others)
    with pytest.raises(Declined):
        await declined
    assert [await node.live(user) for user in users] == [
        set[SessionId](),
        *({one.admission.session.id} for one in opened),
    ]
    assert sorted(await counted(node)) == [1, 1]


async def test_one_that_the_database_does_not_take(node: Node, users: list[User]) -> None:
    """It fails by itself; the others are in."""

    class Unwritable(Entering):
        def __call__(self, live: Sequence[Session], now: float) -> Admission:
            admission = super().__call__(live, now)
            return admission._replace(session=admission.session._replace(device_name="a\0b"))

    attempts = await begin(node, *users)
    entering = [*(Entering(user, POLICY) for user in users[:3]), Unwritable(users[3], POLICY)]
    *others, refused = start(node, attempts, entering)
    opened = await asyncio.gather(*others)
    with pytest.raises(Exception, match="0x00"):
        await refused
    assert [await node.live(user) for user in users] == [*({one.admission.session.id} for one in opened), set()]
    assert sorted(await counted(node)) == [1, 1]


async def test_fault_of_the_database(node: Node, users: list[User]) -> None:
    """All are told of it, and none is tried again: it may have been done all the same."""
    attempts = await begin(node, *users)
    async with node.engine.autocommit() as connection:
        await connection.exec_driver_sql("CREATE SEQUENCE times")
        await connection.exec_driver_sql(
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS"
            " $$BEGIN IF nextval('times') = 1 THEN RAISE disk_full; END IF; RETURN NEW; END$$"
        )
        trigger = "CREATE TRIGGER fail BEFORE INSERT ON keyturn_sessions FOR EACH ROW EXECUTE FUNCTION fail()"
        await connection.exec_driver_sql(trigger)
    entering = [Entering(user, POLICY) for user in users]
    failed = await asyncio.gather(*start(node, attempts, entering), return_exceptions=True)
    assert [type(error) for error in failed] == [Unavailable] * len(users)
    assert [one.calls for one in entering] == [1] * len(users)


async def test_end_of_the_store(node: Node, users: list[User]) -> None:
    """It waits for the logins that are under way."""
    attempts = await begin(node, *users)
    async with node.engine.transaction() as connection:
        await connection.execute(text("SELECT FROM keyturn_counters FOR UPDATE"))
        opening = start(node, attempts, [Entering(user, POLICY) for user in users])
        await node.waits()
        closing = asyncio.create_task(node.sessions.close())
        await wait_all_tasks_blocked()
        assert not closing.done()
    await closing
    opened = await asyncio.gather(*opening)
    assert [await node.live(user) for user in users] == [{one.admission.session.id} for one in opened]


async def test_caller_who_goes_away(node: Node, users: list[User]) -> None:
    """What was begun together is done together."""
    attempts = await begin(node, *users)
    leaving, *others = start(node, attempts, [Entering(user, POLICY) for user in users])
    await asyncio.sleep(0)
    leaving.cancel()
    opened = await asyncio.gather(*others)
    assert [await node.live(user) for user in users[1:]] == [{one.admission.session.id} for one in opened]
    assert len(await node.live(users[0])) == 1
    assert await counted(node) == []
