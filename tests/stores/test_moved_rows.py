"""A swap goes to the place where its row was read; a row that is elsewhere by then is read and judged again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from threading import Thread

import pytest
from sqlalchemy import select

from keyturn.core.events import EventType
from keyturn.core.model import Contact, RevokeReason, Session
from keyturn.core.rotation import Decision, Outcome
from keyturn.stores.revocations import Denied
from keyturn.stores.schema import denylist, events
from keyturn.stores.sql import SqlSessions
from keyturn.testing import CONTACT, FrozenClock, sign_in
from tests.stores.support import open_database

pytestmark = pytest.mark.anyio

SETTLED = 61.0
OTHER = CONTACT._replace(ip="198.51.100.9", user_agent="Mozilla/5.0", device="Chrome on Android")
"""A caller whose refresh leaves an event, so that it is written in a transaction."""
MOVES = {
    "new place": {
        "sqlite": ["UPDATE keyturn_sessions SET rowid = rowid + 1000"],
        "postgresql": ["UPDATE keyturn_sessions SET device_name = device_name"],
    },
    "places of each other": {
        "sqlite": ["UPDATE keyturn_sessions SET rowid = -rowid", "UPDATE keyturn_sessions SET rowid = rowid + 3"],
        # The first row's new version is the third one, until the table is written anew without what is dead.
        "postgresql": [
            "UPDATE keyturn_sessions SET device_name = device_name WHERE ctid = '(0,1)'",
            "VACUUM FULL keyturn_sessions",
        ],
    },
}


def elsewhere(url: str, statements: Sequence[str]) -> None:
    """Let another process run statements, and wait for it."""

    async def run() -> None:
        async with open_database(url) as engine, engine.autocommit() as connection:
            for statement in statements:
                await connection.exec_driver_sql(statement)

    thread = Thread(target=lambda: asyncio.run(run()))
    thread.start()
    thread.join()


@pytest.mark.parametrize("contact", [CONTACT, OTHER], ids=["alone", "in a transaction"])
@pytest.mark.parametrize("move", MOVES)
async def test_row_that_moves_while_it_is_judged(database_url: str, move: str, contact: Contact) -> None:
    """Every confirm is committed, once, on the session it belongs to."""
    clock = FrozenClock()
    async with open_database(database_url) as engine:
        store = SqlSessions(engine, denylist_lifetime=610.0, heal_time=900.0, clock=clock)
        holders = [await (await sign_in(store, f"user-{n}")).child() for n in range(2)]
        elsewhere(database_url, ["VACUUM FULL keyturn_sessions" if engine.postgres else "VACUUM"])  # at places 1 and 2
        clock.advance(SETTLED)
        judge, decided = holders[0].judge(contact), list[Decision]()

        def interrupted(session: Session | None, now: float, healing: bool) -> Decision:
            if not decided:
                elsewhere(database_url, MOVES[move]["postgresql" if engine.postgres else "sqlite"])
            decided.append(judge(session, now, healing))
            return decided[-1]

        answers = await asyncio.gather(
            store.present(holders[0].session_id, interrupted), store.present(holders[1].session_id, holders[1].judge())
        )
        assert [answer.outcome for answer in answers] == [Outcome.CONFIRM] * 2
        # PostgreSQL looks at all places of the group for all its sessions, so an exchange within the group is none.
        judged = 1 if engine.postgres and move == "places of each other" else 2
        assert [decision.outcome for decision in decided] == [Outcome.CONFIRM] * judged
        for holder, answer in zip(holders, answers, strict=True):
            kept, _ = await store.get(holder.session_id)
            assert kept == answer.session
            assert kept is not None
            assert (kept.id, kept.generation) == (holder.session_id, 1)
        async with engine.autocommit() as connection:
            kinds = list((await connection.execute(select(events.c.type))).scalars())
        # What was judged and lost has left no event.
        assert len(kinds) - kinds.count(EventType.SIGNED_IN.value) == (contact is OTHER)
        await store.close()


async def test_deadline_that_moves_while_it_is_judged(database_url: str) -> None:
    """Whoever was active at another node is not ended for inactivity, and their access tokens are not denied."""
    clock, told = FrozenClock(), list[Denied]()
    async with open_database(database_url) as engine:
        store = SqlSessions(engine, denylist_lifetime=610.0, heal_time=900.0, clock=clock, on_revoked=told.extend)
        holder = await sign_in(store, remember=False)
        clock.advance(3600.0)
        judge, decided = holder.judge(CONTACT._replace(idle_seconds=None)), list[Decision]()

        def interrupted(session: Session | None, now: float, healing: bool) -> Decision:
            if not decided:
                elsewhere(database_url, [f"UPDATE keyturn_sessions SET inactivity_expires_at = {now + 60.0}"])
            decided.append(judge(session, now, healing))
            return decided[-1]

        answer = await store.present(holder.session_id, interrupted)
        assert (decided[0].reason, answer.outcome) == (RevokeReason.INACTIVITY, Outcome.ROTATE)
        assert [session.id for session in (await store.list_live("user-1")).sessions] == [holder.session_id]
        async with engine.autocommit() as connection:
            assert list((await connection.execute(select(denylist.c.id))).scalars()) == []
            assert list((await connection.execute(select(events.c.type))).scalars()) == [EventType.SIGNED_IN.value]
        assert told == []
        await store.close()
