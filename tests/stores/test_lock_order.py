"""Rows of PostgreSQL are locked in one order by all who need several: nobody ever waits for each other in a circle.

A deadlock would go unnoticed otherwise: PostgreSQL ends one of the two after a second, and it tries again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress

import pytest

from keyturn.core.errors import Unavailable
from keyturn.core.login import Limit
from keyturn.core.model import RevokeReason, User
from keyturn.core.policy import Policy
from keyturn.stores.counters import keyed
from keyturn.stores.location import normalise
from keyturn.stores.revoking import deny_ids
from keyturn.stores.sql import SqlSessions
from keyturn.testing import FrozenClock, Holder, sign_in
from tests.stores.logins import LIFETIME, OLD, Entering, Node, open_node
from tests.stores.support import PATIENCE, open_database

pytestmark = [pytest.mark.anyio, pytest.mark.services]

Work = Callable[[], Awaitable[object]]
SETTLED = 61.0
SESSION, COUNTER = "keyturn_sessions.id", "keyturn_counters.key_hash"
BLOCKING = (
    "SELECT DISTINCT unnest(pg_blocking_pids(pid)) FROM pg_stat_activity"
    " WHERE wait_event_type = 'Lock' AND datname = current_database()"
)


@pytest.fixture
async def node(postgres_url: str) -> AsyncGenerator[Node]:
    """A node over an empty database, in which an index says what there is, and not in which order."""
    async with open_database(postgres_url) as engine, engine.autocommit() as connection:
        planning = f"ALTER DATABASE {normalise(postgres_url).database} SET enable_indexscan = off"
        await connection.exec_driver_sql(planning)
    async with open_node(postgres_url) as opened:
        yield opened


@pytest.fixture
async def user(node: Node) -> User:
    """A user who has not signed in yet."""
    created = await node.users.create("ada@example.com", None, OLD)
    assert created is not None
    return created


async def begins_with_the_lower(node: Node, url: str, column: str, low: object, high: object, work: Work) -> None:
    """Let two others hold a row each, and see that work which needs both asks for the lower one first.

    Args: high: is first in the table, where PostgreSQL would come upon it first.
    """
    table = column.partition(".")[0]
    lock = f"SELECT pg_backend_pid() FROM {table} WHERE {column} = $1 FOR UPDATE"
    async with open_database(url) as others:
        async with others.transaction() as one, others.transaction() as another:
            holder = (await one.exec_driver_sql(lock, (low,))).scalar_one()
            await another.exec_driver_sql(lock, (high,))
            working = asyncio.ensure_future(work())
            async with node.engine.autocommit() as connection, asyncio.timeout(PATIENCE):
                while not (blocking := list((await connection.exec_driver_sql(BLOCKING)).scalars())):
                    pass
            assert blocking == [holder]
        await working


async def two_sessions(store: SqlSessions, user: User) -> tuple[Holder, Holder]:
    """Open sessions until one has a lower id than the one before, and return these, the lower one first."""
    high, low = await sign_in(store, user.id), await sign_in(store, user.id)
    while low.session_id > high.session_id:
        high, low = low, await sign_in(store, user.id)
    return low, high


def key_of(limit: Limit) -> bytes:
    """Return the key of a limit's counter."""
    return keyed([limit])[0][0]


def two_limits() -> tuple[Limit, Limit]:
    """Make two limits, the one whose counter has the lower key first."""
    low, high = sorted((Limit((name,), 9, 900.0) for name in ("one", "other")), key=key_of)
    return low, high


async def test_sessions_that_end_together(node: Node, user: User, postgres_url: str) -> None:
    """A user's sessions end in the order of their ids."""
    low, high = await two_sessions(node.sessions, user)
    await begins_with_the_lower(
        node,
        postgres_url,
        SESSION,
        low.session_id,
        high.session_id,
        lambda: node.sessions.revoke(user.id, RevokeReason.LOGOUT),
    )
    assert await node.live(user) == set()


async def test_sessions_that_a_login_reads(node: Node, user: User, postgres_url: str) -> None:
    """A login of a user of another directory locks the sessions that it may have to end."""
    low, high = await two_sessions(node.sessions, user)
    await begins_with_the_lower(
        node, postgres_url, SESSION, low.session_id, high.session_id, lambda: sign_in(node.sessions, user.id)
    )


async def test_sessions_that_a_login_ends(node: Node, user: User, postgres_url: str) -> None:
    """A login of a user of ours locks those that it ends."""
    low, high = await two_sessions(node.sessions, user)
    entering = Entering(user, Policy(max_sessions=1))
    await begins_with_the_lower(
        node,
        postgres_url,
        SESSION,
        low.session_id,
        high.session_id,
        lambda: node.sessions.open_with_user(user, entering),
    )
    assert len(await node.live(user)) == 1


async def test_sessions_that_are_refreshed_together(node: Node, user: User, postgres_url: str) -> None:
    """A group waits for its sessions one after the other."""
    clock = FrozenClock()
    store = SqlSessions(node.engine, denylist_lifetime=LIFETIME, heal_time=900.0, clock=clock)
    low, high = await two_sessions(store, user)
    children = [await holder.child() for holder in (high, low)]
    clock.advance(SETTLED)

    async def refresh() -> None:
        with suppress(Unavailable):  # where this machine stopped for longer than a refresh waits
            await asyncio.gather(*(child.copy().refresh() for child in children))
            return
        await refresh()

    await begins_with_the_lower(node, postgres_url, SESSION, low.session_id, high.session_id, refresh)
    await store.close()


async def test_entries_of_the_denylist(node: Node, postgres_url: str) -> None:
    """They are written in their order, in whichever they come."""

    async def deny(*ids: str) -> None:
        await node.engine.run(lambda connection: deny_ids(connection, ids, 0.0, 1.0))

    await deny("b")
    await deny("a")
    await begins_with_the_lower(node, postgres_url, "keyturn_denylist.id", "a", "b", lambda: deny("b", "a"))


async def test_counters_of_attempts(node: Node, postgres_url: str) -> None:
    """Attempts that are counted together take from their counters in one order."""
    low, high = two_limits()

    async def take() -> None:
        await asyncio.gather(*(node.throttle.take([limit]) for limit in (high, low)))

    await take()
    await begins_with_the_lower(node, postgres_url, COUNTER, key_of(low), key_of(high), take)


async def test_counters_that_get_back(node: Node, postgres_url: str) -> None:
    """What an attempt has taken is given back in the same order."""
    low, high = two_limits()
    for limit in (high, low):
        await node.throttle.take([limit])
    await begins_with_the_lower(
        node, postgres_url, COUNTER, key_of(low), key_of(high), lambda: node.throttle.give_back([high, low])
    )


async def test_counters_that_get_back_from_a_login(node: Node, user: User, postgres_url: str) -> None:
    """So it is by the statement of a login."""
    low, high = two_limits()
    await node.throttle.take([high])
    attempt = await node.attempts.begin(user.email, None, lambda _: [low, high])
    await node.throttle.take([low])
    entering = Entering(user, Policy())
    await begins_with_the_lower(
        node,
        postgres_url,
        COUNTER,
        key_of(low),
        key_of(high),
        lambda: node.sessions.open_after_attempt(user, entering, attempt, 1),
    )
    assert entering.calls == 1
