"""Races between processes over one real database (rotation.md, proof 4): the real rules, the real tokens, its own clock."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import chain
from random import Random

import pytest

from keyturn.core.model import RevokeReason
from keyturn.stores.engine import Engine, open_engine
from keyturn.stores.migrations import migrate
from keyturn.stores.sql import SqlSessions
from keyturn.testing import Holder, sign_in
from keyturn.testing.contract_base import stored

pytestmark = pytest.mark.anyio

PROCESSES = 3
SETTLED = 61.0


class Nodes:
    """Processes over one database, and a store of this process over it."""

    def __init__(self, url: str, engine: Engine, workers: Sequence[Process]) -> None:
        self.url = url
        self.store = SqlSessions(engine, denylist_lifetime=610.0, heal_time=900.0)
        self.workers = workers

    async def present(self, *shares: Sequence[str]) -> list[list[str]]:
        """Let process i present the tokens of share i, all processes at the same time; return the outcomes."""
        for worker, share in zip(self.workers, shares, strict=True):
            assert worker.stdin is not None
            worker.stdin.write(json.dumps({"url": self.url, "tokens": share}).encode() + b"\n")
        return [await self._answer(worker) for worker in self.workers]

    async def ripe_child(self, holder: Holder) -> str:
        """Make a child of the holder's token that has settled already, by the database's clock."""
        session, now = await self.store.get(holder.session_id)
        assert session is not None
        mint = holder.tokens.minter(os.urandom(16))
        return mint(session.id, session.generation + 1, now - SETTLED, session.fingerprint).text

    async def _answer(self, worker: Process) -> list[str]:
        assert worker.stdout is not None
        answers: list[str] = json.loads(await asyncio.wait_for(worker.stdout.readline(), 60.0))
        return answers


def all_of(shares: list[list[str]]) -> list[str]:
    """Flatten the outcomes of all processes."""
    return list(chain.from_iterable(shares))


@pytest.fixture(scope="module")
async def workers() -> AsyncIterator[Sequence[Process]]:
    """The processes, which go from database to database."""
    command = [sys.executable, "-m", "tests.stores.race_worker"]
    started = [
        await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, limit=2**20) for _ in range(PROCESSES)
    ]
    yield started
    for worker in started:
        assert worker.stdin is not None
        worker.stdin.close()
        assert await asyncio.wait_for(worker.wait(), 60.0) == 0


@pytest.fixture
async def nodes(database_url: str, workers: Sequence[Process]) -> AsyncIterator[Nodes]:
    """A migrated database with its processes, connected and waiting."""
    await migrate(database_url)
    engine = open_engine(database_url)
    nodes = Nodes(database_url, engine, workers)
    assert await nodes.present([], [], []) == [[], [], []]
    yield nodes
    await nodes.store.close()
    await engine.close()


async def test_one_ripe_child_fifty_times(nodes: Nodes, scale: Callable[[int, int], int]) -> None:
    """Exactly one presentation confirms, wherever it is; all others find the token current. Nobody is signed out."""
    for number in range(scale(5, 200)):
        holder = await sign_in(nodes.store, f"user-{number}")
        child = await nodes.ripe_child(holder)
        answers = await nodes.present(*([child] * share for share in (17, 17, 16)))
        assert Counter(all_of(answers)) == {"confirm": 1, "rotate": 49}
        session = await stored(holder)
        assert (session.generation, session.revoked_at) == (1, None)


async def test_two_ripe_siblings(nodes: Nodes, scale: Callable[[int, int], int]) -> None:
    """Whoever is first confirms and the other is reuse; whoever comes third finds the session ended."""
    for number in range(scale(10, 400)):
        holder = await sign_in(nodes.store, f"user-{number}")
        one, other = await nodes.ripe_child(holder), await nodes.ripe_child(holder)
        answers = all_of(await nodes.present([one], [other], []))
        assert sorted(answers) == ["confirm", "reuse"]
        assert (await stored(holder)).revoked_reason is RevokeReason.REUSE_DETECTED
        assert await nodes.present([one], [other], [holder.token]) == [["ended"]] * 3


async def test_many_siblings(nodes: Nodes, scale: Callable[[int, int], int]) -> None:
    """Of fifty different children at most one confirms before the session ends, and every other is reuse or ended."""
    for number in range(scale(3, 100)):
        holder = await sign_in(nodes.store, f"user-{number}")
        children = [await nodes.ripe_child(holder) for _ in range(51)]
        answers = Counter(all_of(await nodes.present(children[:17], children[17:34], children[34:])))
        assert answers == {"confirm": 1, "reuse": 1, "ended": 49}


async def test_same_sessions_in_every_order(nodes: Nodes, scale: Callable[[int, int], int]) -> None:
    """Groups that meet on the same rows in opposite orders wait for each other in line: no deadlock, one confirm each."""
    random = Random(1)
    holders = [await sign_in(nodes.store, f"user-{number}") for number in range(40)]
    for _ in range(scale(4, 100)):
        children = [await nodes.ripe_child(holder) for holder in holders]
        orders = [random.sample(range(40), 40) for _ in range(PROCESSES)]
        answers = await nodes.present(*([children[index] for index in order] for order in orders))
        outcomes: dict[int, Counter[str]] = {index: Counter() for index in range(40)}
        for order, share in zip(orders, answers, strict=True):
            for index, outcome in zip(order, share, strict=True):
                outcomes[index][outcome] += 1
        assert list(outcomes.values()) == [Counter(confirm=1, rotate=PROCESSES - 1)] * 40
        for holder, child in zip(holders, children, strict=True):
            holder.token = child


async def test_log_out_everywhere(nodes: Nodes, scale: Callable[[int, int], int]) -> None:
    """A refresh that races it has been ended with its session, or finds it ended: no survivor."""
    for number in range(scale(5, 200)):
        user = f"user-{number}"
        holders = [await sign_in(nodes.store, user) for _ in range(30)]
        children = [await nodes.ripe_child(holder) for holder in holders]
        shares = [children[:10], children[10:20], children[20:]]
        answers, ended = await asyncio.gather(
            nodes.present(*shares), nodes.store.revoke(user, RevokeReason.PASSWORD_CHANGED)
        )
        assert set(all_of(answers)) <= {"confirm", "ended"}
        assert set(ended) == {holder.session_id for holder in holders}
        assert not (await nodes.store.list_live(user)).sessions
        assert await nodes.present(*shares) == [["ended"] * 10] * 3
