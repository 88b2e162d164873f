"""Rows of PostgreSQL that somebody has locked and does not let go: only their own browsers wait, and not for long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress

import pytest

from keyturn.core.errors import Unavailable
from keyturn.core.model import Contact
from keyturn.core.rotation import Decision, Outcome
from keyturn.stores.engine import Engine
from keyturn.stores.sql import SqlSessions
from keyturn.testing import CONTACT, FrozenClock, Holder, sign_in
from tests.stores.support import open_database

pytestmark = pytest.mark.anyio

SETTLED = 61.0
LOCKED = 4
"""More than there are groups at once."""
OTHER = CONTACT._replace(ip="198.51.100.9", user_agent="Mozilla/5.0", device="Chrome on Android")
"""A caller whose refresh leaves an event, so that it is written in a transaction."""


@asynccontextmanager
async def locked(engine: Engine, holders: Sequence[Holder]) -> AsyncGenerator[None]:
    """Hold the rows of sessions, as an operator does with `BEGIN; SELECT ... FOR UPDATE` and a telephone that rings."""
    async with engine.transaction() as connection:
        await connection.exec_driver_sql(
            "SELECT 1 FROM keyturn_sessions WHERE id = ANY($1) FOR UPDATE",
            ([holder.session_id for holder in holders],),
        )
        yield


@pytest.mark.parametrize("contact", [CONTACT, OTHER], ids=["alone", "in a transaction"])
async def test_refreshes_beside_locked_sessions(postgres_url: str, contact: Contact) -> None:
    """In the same group and after it, all others are confirmed; who is locked gets 503, and is confirmed afterwards."""
    clock = FrozenClock()
    async with open_database(postgres_url) as engine, open_database(postgres_url) as operator:
        store = SqlSessions(engine, denylist_lifetime=610.0, heal_time=900.0, clock=clock)
        holders = [await (await sign_in(store, f"user-{n}")).child() for n in range(3 * LOCKED)]
        stuck, free, later = holders[:LOCKED], holders[LOCKED : 2 * LOCKED], holders[2 * LOCKED :]
        clock.advance(SETTLED)
        async with locked(operator, stuck):
            waiting = [asyncio.ensure_future(holder.copy().refresh(contact)) for holder in stuck]
            for group in (free, later):
                answers = await asyncio.gather(*(holder.refresh(contact) for holder in group))
                assert [answer.outcome for answer in answers] == [Outcome.CONFIRM] * LOCKED
            refused = await asyncio.gather(*waiting, return_exceptions=True)
            assert [type(answer) for answer in refused] == [Unavailable] * LOCKED
        answers = await asyncio.gather(*(holder.refresh(contact) for holder in stuck))
        assert [answer.outcome for answer in answers] == [Outcome.CONFIRM] * LOCKED
        await store.close()


async def test_session_that_is_let_go_in_time(postgres_url: str) -> None:
    """Its refresh waits, and is confirmed: another node that commits takes a moment too."""
    clock = FrozenClock()
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    async with open_database(postgres_url) as engine, open_database(postgres_url) as operator:
        store = SqlSessions(engine, denylist_lifetime=610.0, heal_time=900.0, clock=clock)
        holder = await (await sign_in(store)).child()
        clock.advance(SETTLED)
        answer: Decision | None = None
        while answer is None:
            async with locked(operator, [holder]):
                waiting = asyncio.ensure_future(holder.refresh())
                async with engine.autocommit() as connection, asyncio.timeout(30):
                    while not waiting.done() and not (await connection.exec_driver_sql(waits)).scalar_one():
                        pass
            with suppress(Unavailable):  # where this machine stopped for longer than a refresh waits
                answer = await waiting
        assert answer.outcome is Outcome.CONFIRM
        await store.close()


@pytest.mark.parametrize("contact", [CONTACT, OTHER], ids=["alone", "in a transaction"])
async def test_session_that_is_let_go_beside_one_that_is_not(postgres_url: str, contact: Contact) -> None:
    """They have come in one group and wait in one: the first is confirmed all the same."""
    clock = FrozenClock()
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    async with open_database(postgres_url) as engine, open_database(postgres_url) as operator:
        store = SqlSessions(engine, denylist_lifetime=610.0, heal_time=900.0, clock=clock)
        holders = [await (await sign_in(store, f"user-{n}")).child() for n in range(3)]
        clock.advance(SETTLED)
        async with locked(operator, holders[2:]):
            async with locked(operator, holders[:2]):
                waiting = [asyncio.ensure_future(holder.copy().refresh(contact)) for holder in holders]
                async with engine.autocommit() as connection, asyncio.timeout(30):
                    while not (await connection.exec_driver_sql(waits)).scalar_one():
                        pass
            answers = await asyncio.gather(*waiting, return_exceptions=True)
        *first, last = answers
        assert [getattr(answer, "outcome", answer) for answer in first] == [Outcome.CONFIRM] * 2
        assert isinstance(last, Unavailable)
        await store.close()


async def test_touches_beside_a_locked_session(postgres_url: str) -> None:
    """The others are written; what is locked is written when it is free."""
    clock = FrozenClock()
    async with open_database(postgres_url) as engine, open_database(postgres_url) as operator:
        store = SqlSessions(engine, denylist_lifetime=610.0, heal_time=900.0, clock=clock, touch_period=0.05)
        holders = [await sign_in(store, f"user-{n}") for n in range(3)]
        clock.advance(SETTLED)

        async def seen(count: int) -> None:
            """Wait until so many sessions were seen just now, according to the database."""
            statement = f"SELECT count(*) FROM keyturn_sessions WHERE last_seen_at = {clock.now}"
            async with engine.autocommit() as connection, asyncio.timeout(30):
                while (await connection.exec_driver_sql(statement)).scalar_one() != count:
                    pass

        async with locked(operator, holders[:1]):
            for holder in holders:
                await holder.copy().refresh()
            await seen(2)
        await seen(3)
        await store.close()


async def test_end_beside_a_locked_session(postgres_url: str) -> None:
    """A store that is closed while it writes tries no more, whatever is left to write."""

    async def is_writing() -> bool:
        async with operator.autocommit() as connection:
            await connection.exec_driver_sql("SELECT 1")
        return any("Touches" in repr(task.get_coro()) for task in asyncio.all_tasks())

    clock = FrozenClock()
    async with open_database(postgres_url) as engine, open_database(postgres_url) as operator:
        store = SqlSessions(engine, denylist_lifetime=610.0, heal_time=900.0, clock=clock, touch_period=0.0)
        holder = await sign_in(store)
        clock.advance(SETTLED)
        async with locked(operator, [holder]):
            await holder.refresh()
            async with asyncio.timeout(30):
                while not await is_writing():
                    pass
            await store.close()
            assert not [True for _ in range(50) if await is_writing()]
