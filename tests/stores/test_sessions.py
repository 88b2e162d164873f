"""The contract of a session store, over SQLite and PostgreSQL, with and without groups."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any
from uuid import UUID

import pytest
from anyio import wait_all_tasks_blocked
from sqlalchemy import select

from keyturn.core.events import Event, EventType
from keyturn.core.model import Contact, RevokeReason, Session
from keyturn.core.policy import Policy
from keyturn.core.rotation import Decision, Outcome, Write
from keyturn.stores.engine import Engine, open_engine
from keyturn.stores.failover import start_healing
from keyturn.stores.migrations import migrate
from keyturn.stores.revocations import Denied
from keyturn.stores.schema import denylist, events
from keyturn.stores.sql import SqlSessions
from keyturn.testing import CONTACT, FrozenClock, Holder, StoreContract, sign_in
from keyturn.testing.contract_base import ContractBase
from keyturn.testing.presenting_contract import PresentingContract
from tests.stores.support import open_database

pytestmark = pytest.mark.anyio

OTHER = CONTACT._replace(ip="198.51.100.9", user_agent="Mozilla/5.0", device="Chrome on Android")
"""A caller whose refresh leaves an event, so that it is written in a transaction."""


class SqlNodes(ContractBase):
    """The hooks, over the database of the test."""

    group_size = 256

    @pytest.fixture(autouse=True)
    async def _database(self, database_url: str) -> AsyncIterator[None]:
        await migrate(database_url)
        self.url = database_url
        self.engines: list[Engine] = []
        self.stores: list[SqlSessions] = []
        yield
        for store in self.stores:
            await store.close()
        for engine in self.engines:
            await engine.close()

    async def make_store(self, clock: FrozenClock) -> SqlSessions:
        """Make a node: a pool of its own over the same database."""
        engine = open_engine(self.url)
        store = SqlSessions(
            engine, denylist_lifetime=610.0, heal_time=900.0, clock=clock, group_size=self.group_size, touch_period=0.05
        )
        self.engines.append(engine)
        self.stores.append(store)
        return store

    async def kept_events(self) -> Sequence[str]:
        async with self.engines[0].autocommit() as connection:
            return list((await connection.execute(select(events.c.type).order_by(events.c.id))).scalars())

    async def denied(self) -> Collection[str]:
        async with self.engines[0].autocommit() as connection:
            return list((await connection.execute(select(denylist.c.id))).scalars())

    async def start_healing(self, seconds: float, clock: FrozenClock) -> None:
        await start_healing(self.engines[0], seconds, clock=clock)


class TestInGroups(SqlNodes, StoreContract):
    """As it runs."""


class TestOneByOne(SqlNodes, PresentingContract):
    """With groups switched off, as the benchmark's baseline."""

    group_size = 1


class TestInSmallGroups(SqlNodes, PresentingContract):
    """With more callers than a group takes."""

    group_size = 4


@pytest.mark.parametrize("user_id", [UUID(int=7), 7, None])
async def test_user_id_that_is_no_text(database_url: str, user_id: Any) -> None:
    """A key as an application's table has it is refused on every database: SQLite would find no session of it and end none."""
    async with open_database(database_url) as engine:
        store = SqlSessions(engine, denylist_lifetime=610.0, heal_time=900.0)
        holder = await sign_in(store, str(user_id))
        for call in (store.revoke(user_id, RevokeReason.REVOKED), sign_in(store, user_id)):
            with pytest.raises(TypeError, match=f"a user id is a text, not {type(user_id).__name__}"):
                await call
        assert await store.revoke(str(user_id), RevokeReason.REVOKED) == [holder.session_id]
        await store.close()


async def test_confirmation_whose_caller_goes_away(database_url: str) -> None:
    """It is done all the same: who has asked may go at any time, and may have been told already."""
    clock = FrozenClock()
    async with open_database(database_url) as engine:
        store = SqlSessions(engine, denylist_lifetime=610.0, heal_time=900.0, clock=clock)
        child = await (await sign_in(store)).child()
        clock.advance(60.0)
        leaving = asyncio.create_task(child.refresh())
        await asyncio.sleep(0)
        leaving.cancel()
        await store.close()
        session, _ = await store.get(child.session_id)
        assert leaving.cancelled()
        assert session is not None
        assert session.generation == 1


async def test_touch_that_waits_counts_already(database_url: str) -> None:
    """Its node does not call a session inactive by a deadline that it knows to have moved, written or not."""
    clock, policy = FrozenClock(), Policy()
    half = policy.inactivity_timeout / 2
    async with open_database(database_url) as engine:
        store = SqlSessions(engine, denylist_lifetime=610.0, heal_time=900.0, clock=clock, touch_period=3600.0)
        holder = await sign_in(store, policy=policy, remember=False)
        before, _ = await store.get(holder.session_id)
        clock.advance(half)
        assert (await holder.copy().refresh()).write is Write.TOUCH
        assert await store.get(holder.session_id) == (before, clock.now)
        clock.advance(half)
        assert (await holder.refresh(CONTACT._replace(idle_seconds=None))).outcome is Outcome.ROTATE
        await store.close()


def hash_of(holder: Holder) -> str | None:
    """Name a session as the event log does."""
    return Event(EventType.SESSION_ENDED, 0.0, None, holder.session_id).session_hash


async def test_what_an_end_leaves(database_url: str) -> None:
    """Each has its own reason in its event, and an entry, also told to this node, until its last access token is dead."""
    clock, told = FrozenClock(), list[Denied]()
    async with open_database(database_url) as engine:
        store = SqlSessions(engine, denylist_lifetime=610.0, heal_time=900.0, on_revoked=told.extend, clock=clock)
        idle = await sign_in(store, "user-1", remember=False)
        evicted = await sign_in(store, "user-2")
        clock.advance(3600.0)
        revoked = await sign_in(store, "user-1")
        await store.revoke("user-1", RevokeReason.PASSWORD_CHANGED)
        ended_at = clock.now
        session, _ = await store.get(revoked.session_id)
        assert session is not None
        assert session.revoked_at == ended_at
        clock.advance(5.0)
        await sign_in(store, "user-2", policy=Policy(max_sessions=1))
        async with engine.autocommit() as connection:
            columns = (events.c.user_id, events.c.session_hash, events.c.data)
            ends = (await connection.execute(select(*columns).where(events.c.type == "session_ended"))).all()
            entries = (await connection.execute(select(denylist))).all()
        await store.close()
    assert {(user_id, hashed, data) for user_id, hashed, data in ends} == {
        ("user-1", hash_of(idle), '{"reason":"inactivity"}'),
        ("user-1", hash_of(revoked), '{"reason":"password_changed"}'),
        ("user-2", hash_of(evicted), '{"reason":"evicted"}'),
    }
    assert {tuple(entry) for entry in entries} == {
        (idle.session_id.hex(), ended_at, ended_at + 610.0),
        (revoked.session_id.hex(), ended_at, ended_at + 610.0),
        (evicted.session_id.hex(), clock.now, clock.now + 610.0),
    }
    assert set(told) == {(id_, expires_at) for id_, _, expires_at in entries}


@pytest.mark.parametrize("contact", [CONTACT, OTHER], ids=["alone", "in a transaction"])
async def test_group_that_cannot_write(sqlite_database_url: str, contact: Contact) -> None:
    """Whoever has nothing to write is answered, while a group waits for another process to end its transaction."""
    clock = FrozenClock()
    async with open_database(sqlite_database_url) as engine, open_database(sqlite_database_url) as other:
        store = SqlSessions(engine, denylist_lifetime=610.0, heal_time=900.0, clock=clock)
        writing = await (await sign_in(store, "user-1")).child()
        reading = await sign_in(store, "user-2")
        clock.advance(61.0)
        began, judge = asyncio.Event(), writing.judge(contact)

        def judging(session: Session | None, now: float, healing: bool) -> Decision:
            began.set()
            return judge(session, now, healing)

        async with other.transaction():
            waiting = asyncio.ensure_future(store.present(writing.session_id, judging))
            await began.wait()
            assert (await reading.refresh()).outcome is Outcome.ROTATE
            assert not waiting.done()
        assert (await waiting).outcome is Outcome.CONFIRM
        await store.close()


async def test_end_while_an_event_is_written(database_url: str) -> None:
    """It waits for the event: nobody else will write it."""
    async with open_database(database_url) as engine:
        store = SqlSessions(engine, denylist_lifetime=610.0, heal_time=900.0)
        async with engine.transaction() as connection:
            if engine.postgres:
                await connection.exec_driver_sql("LOCK TABLE keyturn_events IN EXCLUSIVE MODE")
            recording = asyncio.ensure_future(store.record(Event(EventType.SIGNED_UP, 1.0)))
            await wait_all_tasks_blocked()
            closing = asyncio.create_task(store.close())
            await wait_all_tasks_blocked()
            assert not closing.done()
        await closing
        await recording


async def test_next_group_during_the_answers(sqlite_database_url: str) -> None:
    """What has come during a group's commit is read and judged before anybody wakes up whom that group answers."""
    clock = FrozenClock()
    happened: list[str] = []
    async with open_database(sqlite_database_url) as engine:
        store = SqlSessions(engine, denylist_lifetime=610.0, heal_time=900.0, clock=clock)
        first, second = [await (await sign_in(store, f"user-{n}")).child() for n in range(2)]
        judge_first, judge_second = first.judge(), second.judge()
        clock.advance(61.0)

        def judging_first(session: Session | None, now: float, healing: bool) -> Decision:
            # It starts in the loop's next turn: this group is then on its way to the disk.
            calls.create_task(present_second())
            return judge_first(session, now, healing)

        def judging_second(session: Session | None, now: float, healing: bool) -> Decision:
            happened.append("second judged")
            return judge_second(session, now, healing)

        async def present_second() -> None:
            decision = await store.present(second.session_id, judging_second)
            happened.append(f"second {decision.outcome}")

        async with asyncio.TaskGroup() as calls:
            decision = await store.present(first.session_id, judging_first)
            happened.append(f"first {decision.outcome}")
        await store.close()
    assert happened == ["second judged", "first confirm", "second confirm"]


async def test_groups_of_all_sizes(database_url: str) -> None:
    """Each session of a group is confirmed once, however many there are: SQLite's statements have room for more than some groups have."""
    clock = FrozenClock()
    async with open_database(database_url) as engine:
        store = SqlSessions(engine, denylist_lifetime=610.0, heal_time=900.0, clock=clock)
        holders = [await sign_in(store, f"user-{n}") for n in range(33)]
        for size in range(1, len(holders) + 1):
            children = [await holder.child() for holder in holders[:size]]
            clock.advance(61.0)
            decisions = await asyncio.gather(*(child.refresh() for child in children))
            assert [decision.outcome for decision in decisions] == [Outcome.CONFIRM] * size
            holders[:size] = children
        found = [(await store.get(holder.session_id))[0] for holder in holders]
        assert [session and session.generation for session in found] == list(range(len(holders), 0, -1))
        await store.close()
