"""Random histories over several nodes and one real database: refreshes, renders, ends of every kind and pruning at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from itertools import count
from random import Random
from typing import Any, NamedTuple

import pytest
from sqlalchemy import select

from keyturn.core.events import Event, EventType
from keyturn.core.model import RevokeReason, SessionId, User
from keyturn.core.rotation import Decision, Outcome, glance, log_out
from keyturn.ports import Judge
from keyturn.stores.engine import Engine, open_engine
from keyturn.stores.migrations import migrate
from keyturn.stores.pruning import SqlUpkeep
from keyturn.stores.schema import denylist, events, sessions
from keyturn.stores.sql import SqlSessions
from keyturn.stores.users import SqlUsers
from keyturn.testing import CONTACT, FrozenClock, Holder, sign_in
from tests.stores.support import PATIENCE

pytestmark = pytest.mark.anyio

NODES = 3
OTHER = CONTACT._replace(ip="198.51.100.9", user_agent="Mozilla/5.0", device="Chrome on Android")
"""A caller whose confirm leaves an event, so that it is written in a transaction."""


class Answer(NamedTuple):
    """What a presentation was answered, and between which two moments."""

    began: int
    ended: int
    decision: Decision


class End(NamedTuple):
    """An end that was acknowledged, and which sessions it was about."""

    began: int
    ended: int
    covers: frozenset[SessionId]


class History:
    """Nodes over one database, what was done at them, and what they said.

    Args: seed: what is done is a function of it; how it meets is not.
    """

    def __init__(self, url: str, seed: int) -> None:
        self.random = Random(seed)
        self.clock = FrozenClock()
        # Patient, as a node that a busy machine keeps from its next statement would lose its transaction.
        self.engines = [open_engine(url, connect_timeout=PATIENCE, command_timeout=2 * PATIENCE) for _ in range(NODES)]
        options: dict[str, Any] = {"denylist_lifetime": 1e6, "clock": self.clock}
        self.stores = [SqlSessions(engine, heal_time=900.0, touch_period=0.0, **options) for engine in self.engines]
        self.users = [SqlUsers(engine, **options) for engine in self.engines]
        self.upkeeps = [SqlUpkeep(engine, event_retention=1e9, clock=self.clock) for engine in self.engines]
        self.accounts: list[User] = []
        self.owners: dict[SessionId, str] = {}
        self.tokens: dict[SessionId, list[str]] = {}
        self.answers: dict[SessionId, list[Answer]] = {}
        self.ends: list[End] = []
        self._moments = count()

    async def begin(self) -> None:
        """Make users with sessions."""
        for _ in range(2):
            user = await self.users[0].create(f"user-{self.random.getrandbits(64)}@example.com", None, "hash")
            assert user is not None
            self.accounts.append(user)
            for _ in range(4):
                holder = await sign_in(self.stores[0], user.id)
                self.owners[holder.session_id] = user.id
                self.tokens[holder.session_id] = [holder.token]
                self.answers[holder.session_id] = []

    async def present(self, session_id: SessionId, kind: str) -> None:
        """Present one of the last tokens of a session at some node, and keep the child like one tab of some."""
        known = self.tokens[session_id]
        holder = Holder(
            self.random.choice(self.stores), self.random.choice(known[-3:] if kind == "any" else known[-1:])
        )
        contact = self.random.choice([CONTACT, CONTACT, OTHER])._replace(idle_seconds=self.random.choice([None, 0.0]))
        presented = holder.presented
        judges: dict[str, Judge] = {
            "render": lambda session, now, healing: glance(
                session, presented, now, holder.policy, contact=contact, healing=healing
            ),
            "logout": lambda session, now, _: log_out(session, now),
        }
        began = next(self._moments)
        decision = await holder.store.present(session_id, judges.get(kind) or holder.judge(contact))
        self.answers[session_id].append(Answer(began, next(self._moments), decision))
        if decision.child is not None:
            known.append(decision.child.text)

    async def end(self, kind: str) -> None:
        """End sessions of a user in one of the ways there are."""
        user = self.random.choice(self.accounts)
        own = frozenset(id_ for id_, owner in self.owners.items() if owner == user.id)
        one = self.random.choice(sorted(own))
        store, users = self.random.choice(self.stores), self.random.choice(self.users)
        began, covers = next(self._moments), own
        if kind == "one":
            await store.revoke(user.id, RevokeReason.REVOKED, only=one)
            covers = frozenset({one})
        elif kind == "others":
            await store.revoke(user.id, RevokeReason.REVOKED, keep=one)
            covers = own - {one}
        elif kind == "password":
            event = Event(EventType.PASSWORD_CHANGED, self.clock(), user.id)
            assert (await users.change_password(user.id, "hash", "hash", one, event)).done
            covers = own - {one}
        else:
            await users.set_disabled(user.id, disabled=True)
        self.ends.append(End(began, next(self._moments), covers))

    async def act(self, steps: int) -> None:
        """Do this and that, at some node each time."""
        for _ in range(steps):
            what = self.random.choices(
                ["newest", "any", "render", "logout", "one", "others", "password", "all", "prune", "wait"],
                [40, 20, 6, 1, 0.7, 0.3, 0.3, 0.1, 2, 6],
            )[0]
            if what == "wait":
                self.clock.advance(self.random.choice([1.0, 20.0, 61.0]))
            elif what == "prune":
                await self.random.choice(self.upkeeps).prune(batch=self.random.choice([1, 1000]))
            elif what in {"newest", "any", "render", "logout"}:
                await self.present(self.random.choice(sorted(self.owners)), what)
            else:
                await self.end(what)

    async def close(self) -> None:
        """Write what waits, and let go of the database."""
        for store in self.stores:
            await store.close()
        for engine in self.engines:
            await engine.close()

    def check_order(self) -> None:
        """What was answered later is not older: no generation goes back, and nobody comes back to life."""
        for id_, answers in self.answers.items():
            for first in answers:
                was = first.decision.session
                assert was is not None
                for later in answers:
                    now = later.decision.session
                    assert now is not None
                    if first.ended < later.began:
                        assert was.generation <= now.generation
                        assert was.revoked_at is None or now.revoked_reason is was.revoked_reason
            for end in self.ends:
                after = [answer for answer in answers if id_ in end.covers and answer.began > end.ended]
                assert {answer.decision.outcome for answer in after} <= {Outcome.ENDED}

    async def check_rows(self) -> None:
        """Each generation was confirmed once; who has ended is denied and told of, once; nobody else is."""
        rows, told, denied = await read(self.engines[0])
        for id_, answers in self.answers.items():
            outcomes = Counter(answer.decision.outcome for answer in answers)
            confirms = (
                a.decision.session for a in answers if a.decision.child and a.decision.outcome is Outcome.CONFIRM
            )
            assert sorted(s.generation for s in confirms if s is not None) == list(range(1, rows[id_].generation + 1))
            ended = rows[id_].revoked_at is not None
            assert (id_.hex() in denied) == ended
            name = Event(EventType.SESSION_ENDED, 0.0, None, id_).session_hash
            assert told[EventType.SESSION_ENDED.value, name] == ended
            assert told[EventType.REUSE_DETECTED.value, name] == outcomes[Outcome.REUSE]


async def read(engine: Engine) -> tuple[dict[SessionId, Any], Counter[tuple[str, str | None]], set[str]]:
    """Read what the database holds: rows by session, events by type and session, the denylist."""
    async with engine.autocommit() as connection:
        rows = {SessionId(bytes(row.id)): row for row in await connection.execute(select(sessions))}
        told = Counter((row.type, row.session_hash) for row in await connection.execute(select(events)))
        return rows, told, set((await connection.execute(select(denylist.c.id))).scalars())


async def test_any_history(database_url: str, scale: Callable[[int, int], int]) -> None:
    """However they meet, the answers are those of one refresh after the other, and the database says the same."""
    await migrate(database_url)
    outcomes: Counter[Outcome] = Counter()
    for seed in range(scale(2, 100)):
        history = History(database_url, seed)
        await history.begin()
        await asyncio.gather(*(history.act(40) for _ in range(8)))
        history.check_order()
        await history.check_rows()
        outcomes.update(a.decision.outcome for answers in history.answers.values() for a in answers)
        await history.close()
    assert outcomes.keys() >= {Outcome.ROTATE, Outcome.EARLY, Outcome.CONFIRM, Outcome.REUSE, Outcome.ENDED}
