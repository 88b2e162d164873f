"""A session opened in a read and one write, without a lock: whatever comes between is seen, on real connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from threading import Thread

import anyio
import pytest

from keyturn.core.events import Event, EventType
from keyturn.core.login import Limit
from keyturn.core.model import RevokeReason, SessionId, User
from keyturn.core.policy import Policy
from keyturn.stores.location import normalise
from keyturn.stores.revocations import open_denylist
from keyturn.stores.revoking import revoke_sessions
from keyturn.stores.schema import counters, events
from keyturn.stores.schema import denylist as entries
from keyturn.stores.users import SqlUsers
from tests.stores.logins import (
    LIFETIME,
    NEW,
    OLD,
    Change,
    Entering,
    Node,
    change_password,
    elsewhere,
    log_in,
    open_node,
)
from tests.stores.support import eventually

pytestmark = [pytest.mark.anyio, pytest.mark.services]


@pytest.fixture
async def node(postgres_url: str) -> AsyncGenerator[Node]:
    """A node over an empty database."""
    async with open_node(postgres_url) as opened:
        yield opened


@pytest.fixture
async def user(node: Node) -> User:
    """A user who has not signed in yet."""
    created = await node.users.create("ada@example.com", "Ada", OLD)
    assert created is not None
    return created


@pytest.fixture(params=[0, 1], ids=["admitting", "evicting"])
async def full(request: pytest.FixtureRequest, node: Node, user: User) -> Policy:
    """A policy with room for one more session, or with none."""
    policy = Policy(max_sessions=2)
    for _ in range(1 + request.param):
        await node.sessions.open_with_user(user, Entering(user, policy))
    return policy


async def test_two_logins_that_have_read_the_same(node: Node, user: User, full: Policy, postgres_url: str) -> None:
    """The later one reads again, and ends what it would have left beyond the cap."""
    entering = Entering(user, full, lambda: elsewhere(postgres_url, log_in(user, full)))
    opened = await node.sessions.open_with_user(user, entering)
    assert entering.calls == 2
    live = await node.live(user)
    assert opened.admission.session.id in live
    assert len(live) == full.max_sessions


async def test_two_logins_that_have_begun_together(node: Node, user: User, full: Policy) -> None:
    """There was room for one when their passwords were checked; the later one looks, and the cap is exact."""
    limit, room = Limit(("account", user.email), 9, 900.0), full.max_sessions - 1
    begun = [await node.attempts.begin(user.email, None, lambda _: [limit]) for _ in range(2)]
    entered = [Entering(user, full) for _ in begun]
    opened = [
        await node.sessions.open_after_attempt(user, entering, attempt, room)
        for attempt, entering in zip(begun, entered, strict=True)
    ]
    assert [entering.calls for entering in entered] == [1 if len(opened[0].admission.evicted) == 0 else 2, 2]
    live = await node.live(user)
    assert opened[1].admission.session.id in live
    assert len(live) == full.max_sessions


async def test_password_that_changes_between(node: Node, user: User, full: Policy, postgres_url: str) -> None:
    """The login is told the new hash, so that it can refuse, and the sessions that the change ended stay ended."""
    entering = Entering(user, full, lambda: elsewhere(postgres_url, change_password(user)))
    opened = await node.sessions.open_with_user(user, entering)
    assert (entering.calls, opened.credential) == (2, (user, NEW))
    assert await node.live(user) == {opened.admission.session.id}


async def test_password_that_an_administrator_sets_between(
    node: Node, user: User, full: Policy, postgres_url: str
) -> None:
    """As with one that its owner changes: no session of before is left, and the login can refuse."""
    entering = Entering(
        user, full, lambda: elsewhere(postgres_url, lambda other: other.users.set_password(user.id, NEW, {}))
    )
    opened = await node.sessions.open_with_user(user, entering)
    assert (entering.calls, opened.credential) == (2, (user, NEW))
    assert await node.live(user) == {opened.admission.session.id}


async def test_user_who_is_disabled_between(node: Node, user: User, full: Policy, postgres_url: str) -> None:
    """The login is told so."""
    change: Change = lambda other: other.users.set_disabled(user.id, disabled=True)  # noqa: E731
    entering = Entering(user, full, lambda: elsewhere(postgres_url, change))
    opened = await node.sessions.open_with_user(user, entering)
    assert (entering.calls, opened.credential) == (2, (user._replace(disabled=True), OLD))


async def test_user_who_is_deleted_between(node: Node, user: User, full: Policy, postgres_url: str) -> None:
    """The login finds nobody."""
    entering = Entering(user, full, lambda: elsewhere(postgres_url, lambda other: other.users.delete(user.id)))
    assert (await node.sessions.open_with_user(user, entering)).credential is None


@pytest.mark.parametrize("committed", [True, False], ids=["committed", "undone"])
@pytest.mark.parametrize("begun", [True, False], ids=["from its attempt on", "by itself"])
async def test_login_that_waits_for_a_change(
    node: Node, user: User, full: Policy, postgres_url: str, begun: bool, committed: bool
) -> None:
    """A write that finds the user's row held waits; then what it finds counts, not what it had seen when it began."""
    limit, room = Limit(("account", user.email), 1, 900.0), full.max_sessions - 1
    attempt = await node.attempts.begin(user.email, None, lambda _: [limit])
    async with open_node(postgres_url) as other, other.engine.sqlalchemy.connect() as holding:
        change = await holding.begin()
        await holding.exec_driver_sql("UPDATE keyturn_users SET password_hash = $1 WHERE id = $2", (NEW, user.id))
        entering = Entering(user, full)
        attempt = attempt if begun else attempt._replace(seen=None)
        opening = asyncio.create_task(node.sessions.open_after_attempt(user, entering, attempt, room))
        await other.waits()
        await (change.commit() if committed else change.rollback())
        opened = await opening
    assert opened.credential == (user, NEW if committed else OLD)
    # Once more for those that come together, who leave out whose user is held.
    assert entering.calls == 1 + committed + begun
    assert opened.admission.session.id in await node.live(user)
    assert await node.throttle.take([limit]) is None


async def test_login_while_the_application_refers_to_the_user(
    node: Node, user: User, full: Policy, postgres_url: str
) -> None:
    """Its transaction, however long, has locked the user's id against being deleted, and nothing else: nobody waits."""
    attempt = await node.attempts.begin(user.email, None, lambda _: [Limit(("account", user.email), 1, 900.0)])
    async with node.engine.autocommit() as connection:
        await connection.exec_driver_sql("CREATE TABLE own (user_id text REFERENCES keyturn_users (id))")
    async with open_node(postgres_url) as other, other.engine.transaction() as referring:
        await referring.exec_driver_sql("INSERT INTO own VALUES ($1)", (user.id,))
        entering = Entering(user, full)
        with anyio.fail_after(5):
            opened = await node.sessions.open_after_attempt(user, entering, attempt, full.max_sessions - 1)
    assert opened.admission.session.id in await node.live(user)
    # Once more for one that has to evict: it cannot come in together with others.
    assert entering.calls <= 2


async def test_attempt_of_a_login_that_tries_again(node: Node, user: User, full: Policy, postgres_url: str) -> None:
    """What it took is given back once; somebody else's attempt stays counted."""
    limit = Limit(("address", "192.0.2.1"), 9, 900.0)
    attempt = await node.attempts.begin(user.email, None, lambda _: [limit])
    assert await node.throttle.take([limit]) is None
    entering = Entering(user, full, lambda: elsewhere(postgres_url, log_in(user, full)))
    await node.sessions.open_after_attempt(user, entering, attempt._replace(seen=None), 0)
    assert entering.calls == 2
    assert await node.read(counters.c.amount) == [(1,)]


async def test_evicted_session_that_is_logged_out_between(node: Node, user: User, postgres_url: str) -> None:
    """It ends once, for the reason that came first, and nobody else is evicted in its place."""
    policy = Policy(max_sessions=2)
    first, second = [(await node.sessions.open_with_user(user, Entering(user, policy))).admission for _ in range(2)]
    log_out: Change = lambda other: other.sessions.revoke(  # noqa: E731
        user.id, RevokeReason.LOGOUT, only=first.session.id
    )
    entering = Entering(user, policy, lambda: elsewhere(postgres_url, log_out))
    third = (await node.sessions.open_with_user(user, entering)).admission
    assert (entering.calls, third.evicted) == (2, ())
    assert await node.live(user) == {second.session.id, third.session.id}
    await ended_once(node, first.session.id, RevokeReason.LOGOUT)


async def test_evicted_session_that_is_being_logged_out(node: Node, user: User, postgres_url: str) -> None:
    """A login that finds its row held waits, and looks at what the other one has left."""
    policy = Policy(max_sessions=2)
    first, second = [(await node.sessions.open_with_user(user, Entering(user, policy))).admission for _ in range(2)]
    entering = Entering(user, policy)
    async with open_node(postgres_url) as other, other.engine.transaction() as logging_out:
        now = await other.engine.read_now(logging_out)
        await revoke_sessions(
            logging_out, user.id, RevokeReason.LOGOUT, now, denylist_lifetime=LIFETIME, only=first.session.id
        )
        opening = asyncio.create_task(node.sessions.open_with_user(user, entering))
        await node.waits()
    third = (await opening).admission
    assert (entering.calls, third.evicted) == (2, ())
    assert await node.live(user) == {second.session.id, third.session.id}
    await ended_once(node, first.session.id, RevokeReason.LOGOUT)


async def test_evicted_session_that_is_spared_after_all(node: Node, user: User, postgres_url: str) -> None:
    """What a login wanted to end before it looked again has lost nothing: its access tokens go on, too."""
    policy = Policy(max_sessions=2)
    first, second = [(await node.sessions.open_with_user(user, Entering(user, policy))).admission for _ in range(2)]

    async def change(other: Node) -> None:
        await other.sessions.revoke(user.id, RevokeReason.LOGOUT, only=second.session.id)
        assert await other.users.replace_password_hash(user.id, OLD, NEW)

    entering = Entering(user, policy, lambda: elsewhere(postgres_url, change))
    third = (await node.sessions.open_with_user(user, entering)).admission
    assert (entering.calls, third.evicted) == (2, ())
    assert await node.live(user) == {first.session.id, third.session.id}
    assert await node.read(entries.c.id) == [(second.session.id.hex(),)]
    assert node.denied == []


async def ended_once(node: Node, session_id: SessionId, reason: RevokeReason) -> None:
    """Check why a session has ended, and that nobody has ended it, or another one, since."""
    ended, _ = await node.sessions.get(session_id)
    assert ended is not None
    assert ended.revoked_reason is reason
    kinds = [kind for (kind,) in await node.read(events.c.type)]
    assert kinds.count(EventType.SESSION_ENDED.value) == 1


async def test_eviction(node: Node, user: User) -> None:
    """Evicted sessions get their ends, their events and their entries on the denylist, of which the node is told at once."""
    for _ in range(3):
        await node.sessions.open_with_user(user, Entering(user, Policy(max_sessions=3)))
    opened = await node.sessions.open_with_user(user, Entering(user, Policy(max_sessions=1)))
    evicted = {session.id for session in opened.admission.evicted}
    assert len(evicted) == 3
    assert await node.live(user) == {opened.admission.session.id}
    at = opened.admission.session.created_at
    denied = await node.read(entries.c.id, entries.c.created_at, entries.c.expires_at)
    assert set(denied) == {(id_.hex(), at, at + LIFETIME) for id_ in evicted}
    assert set(node.denied) == {(id_.hex(), at + LIFETIME) for id_ in evicted}
    kinds = [kind for (kind,) in await node.read(events.c.type)]
    assert kinds.count(EventType.SESSION_ENDED.value) == 3


async def test_eviction_of_which_other_nodes_hear(node: Node, user: User, postgres_url: str) -> None:
    """They are told by its commit, and need not read the whole table again."""
    evicted = (await node.sessions.open_with_user(user, Entering(user, Policy()))).admission.session
    denylist = open_denylist(postgres_url)
    await denylist.start()
    try:
        await node.sessions.open_with_user(user, Entering(user, Policy(max_sessions=1)))
        await eventually(lambda: evicted.id.hex() in denylist)
    finally:
        await denylist.close()


async def test_login_that_others_always_come_before(node: Node, user: User, postgres_url: str) -> None:
    """In the end it waits in line: then the others wait for it, and the cap is exact."""
    full = Policy(max_sessions=4)
    threads: list[Thread] = []

    def overtake() -> None:
        elsewhere(postgres_url, log_in(user, full))

    def follow() -> None:
        # It can do nothing before this login is done, which waits for it to try.
        threads.append(elsewhere(postgres_url, log_in(user, full), wait=False))
        elsewhere(postgres_url, Node.waits)

    entering = Entering(user, full, overtake, overtake, overtake, follow)
    await node.sessions.open_with_user(user, entering)
    assert entering.calls == 4
    await asyncio.to_thread(threads[0].join)
    assert len(await node.live(user)) == full.max_sessions


@pytest.mark.parametrize(
    "change",
    [
        lambda users, user: users.set_disabled(user.id, disabled=True),
        lambda users, user: users.delete(user.id),
        lambda users, user: users.change_password(
            user.id, OLD, NEW, SessionId(bytes(16)), Event(EventType.PASSWORD_CHANGED, 1.0, user.id)
        ),
        lambda users, user: users.set_password(user.id, NEW, {}),
    ],
    ids=["disabled", "deleted", "password", "password by an administrator"],
)
async def test_change_of_a_user_while_a_login_is_in_line(
    node: Node, user: User, postgres_url: str, change: Callable[[SqlUsers, User], Awaitable[object]]
) -> None:
    """It waits for the login and ends its session, also where a node takes the user for one of another directory."""
    threads: list[Thread] = []

    def follow() -> None:
        threads.append(elsewhere(postgres_url, lambda other: change(other.users, user), wait=False))
        elsewhere(postgres_url, Node.waits)

    await node.sessions.open(user.id, Entering(user, Policy(), follow))
    await asyncio.to_thread(threads[0].join)
    assert await node.live(user) == set()


async def test_many_logins_of_one_user(node: Node, user: User, postgres_url: str) -> None:
    """Each gets in, and never are there more sessions than the cap, over two nodes."""
    policy = Policy(max_sessions=3)
    limits = [Limit(("account", user.email), 100, 900.0), Limit(("address", "192.0.2.1"), 24, 900.0)]
    async with open_node(postgres_url) as other:

        async def enter(number: int) -> SessionId:
            at = (node, other)[number % 2]
            attempt = await at.attempts.begin(user.email, None, lambda _: limits)
            opened = await at.sessions.open_after_attempt(
                user, Entering(user, policy), attempt, policy.max_sessions - 1
            )
            return opened.admission.session.id

        entered = await asyncio.gather(*(enter(number) for number in range(24)))
    live = await node.live(user)
    assert len(live) == policy.max_sessions
    assert live < set(entered)
    kinds = [kind for (kind,) in await node.read(events.c.type)]
    assert (kinds.count("signed_in"), kinds.count("session_ended")) == (24, 24 - policy.max_sessions)
    assert [await node.throttle.take(limits) is None for _ in range(25)] == [True] * 24 + [False]


async def test_counters_that_change_while_they_get_back(node: Node, postgres_url: str) -> None:
    """Every counter of an attempt gets it back, however many of them somebody else has changed since."""
    limits = [Limit((name,), 4, 900.0) for name in ("account", "device", "address", "network")]
    for _ in range(4):
        assert await node.throttle.take(limits) is None
    async with open_node(postgres_url) as other, other.engine.transaction() as changing:
        await changing.exec_driver_sql("UPDATE keyturn_counters SET amount = amount - 1")
        giving = asyncio.create_task(node.throttle.give_back(limits))
        await node.waits()
    await giving
    assert await node.read(counters.c.amount) == [(2,)] * len(limits)


async def test_many_logins_where_transactions_keep_their_snapshot(node: Node, user: User, postgres_url: str) -> None:
    """In a database with another default isolation, too, those who come second find what the first has written."""
    database, policy = str(normalise(postgres_url).database), Policy(max_sessions=2)
    async with node.engine.autocommit() as connection:
        setting = f"ALTER DATABASE {database} SET default_transaction_isolation = 'repeatable read'"
        await connection.exec_driver_sql(setting)
    async with open_node(postgres_url) as other, other.engine.sqlalchemy.connect() as holding:
        change = await holding.begin()
        await holding.exec_driver_sql("UPDATE keyturn_users SET name = 'A' WHERE id = $1", (user.id,))
        logins = [
            asyncio.create_task(other.sessions.open_with_user(user, Entering(user, policy)))
            for _ in range(policy.max_sessions + 1)
        ]
        await node.waits()
        await change.commit()
        opened = await asyncio.gather(*logins)
    assert {each.credential and each.credential.user.name for each in opened} == {"A"}
    assert len(await node.live(user)) == policy.max_sessions


async def test_password_change_among_logins(node: Node, postgres_url: str, scale: Callable[[int, int], int]) -> None:
    """Whoever was told the old hash has been ended by the change."""
    async with open_node(postgres_url) as other:
        for number in range(scale(10, 300)):
            user = await node.users.create(f"user-{number}@example.com", None, OLD)
            assert user is not None

            told: dict[SessionId, str | None] = {}

            async def enter(at: Node, user: User = user, told: dict[SessionId, str | None] = told) -> None:
                attempt = await at.attempts.begin(user.email, None, lambda _: [Limit(("any", user.id), 9, 900.0)])
                opened = await at.sessions.open_after_attempt(user, Entering(user, Policy()), attempt, 1)
                assert opened.credential is not None
                told[opened.admission.session.id] = opened.credential.password_hash

            await asyncio.gather(
                *(enter(node) for _ in range(4)), change_password(user)(other), *(enter(other) for _ in range(4))
            )
            assert len(told) == 8
            assert {told[id_] for id_ in await node.live(user)} <= {NEW}
