"""How long a revoked access token is still accepted: from the acknowledged logout to the last request let through.

Two processes: this one is the node that ends the session, the other the node (or the verifying service) that goes on
accepting requests of it. Both read the system's monotonic clock. `python -m bench.revocation [rounds]`.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from timeit import timeit
from typing import NamedTuple

from bench.figures import Figure, table
from keyturn.core.login import Login, admit
from keyturn.core.model import Contact, NewToken, RevokeReason, SessionId
from keyturn.core.policy import Policy
from keyturn.stores.engine import open_engine
from keyturn.stores.migrations import migrate
from keyturn.stores.revocations import Denied, MemoryDenylist, open_denylist
from keyturn.stores.sql import SqlSessions
from tests.services import PostgresServer, RedisServer, remove_leftovers, sqlite_url

ROUNDS = 200
REQUEST_PAUSE = 0.0002
"""Seconds between two requests of the watched session."""
POLICY = Policy()


class Case(NamedTuple):
    """One way for a revocation to travel."""

    name: str
    database: str
    watched: str
    """What the other process follows."""
    redis: str | None = None
    listen: bool = True


async def watch(url: str, *, listen: bool) -> None:
    """Be the other node: accept requests of each session named on stdin until it is denied; print when it last was not."""
    denylist = open_denylist(url, listen=listen)
    await denylist.start()
    while session_id := (await asyncio.to_thread(sys.stdin.readline)).strip():
        print("accepting", flush=True)
        accepted_at = time.monotonic()
        while session_id not in denylist:
            accepted_at = time.monotonic()
            await asyncio.sleep(REQUEST_PAUSE)
        print(accepted_at, flush=True)
    await denylist.close()


async def open_session(store: SqlSessions, number: int) -> SessionId:
    """Log a user in."""
    session_id = SessionId(os.urandom(16))
    contact = Contact("192.0.2.1", "bench", "Firefox on Linux")
    login = Login(session_id, f"user-{number}", bytes(16), None, contact, ("pwd",), remember=False)
    await store.open(
        login.user_id, lambda live, now: admit(live, login, now, POLICY, lambda *_: NewToken("", os.urandom(32)))
    )
    return session_id


@asynccontextmanager
async def node(case: Case) -> AsyncGenerator[SqlSessions]:
    """Open this process's node: its sessions and its denylist, which announces to Redis if there is one."""
    engine = open_engine(case.database)
    await migrate(engine)
    denylist = open_denylist(case.database, redis_url=case.redis, listen=case.listen)
    await denylist.start()
    store = SqlSessions(
        engine,
        denylist_lifetime=POLICY.denylist_lifetime,
        heal_time=POLICY.heal_time,
        on_revoked=denylist.add,
    )
    try:
        yield store
    finally:
        await denylist.close()
        await engine.close()


async def measure_case(case: Case, rounds: int) -> list[float]:
    """Return, for each logout, the milliseconds from its acknowledgement to the last accepted request; 0 if before."""
    command = [sys.executable, "-m", "bench.revocation", "--watch", case.watched, "listen" if case.listen else "poll"]
    async with node(case) as store:
        watcher = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert watcher.stdin is not None
        assert watcher.stdout is not None
        delays: list[float] = []
        try:
            for number in range(rounds):
                session_id = await open_session(store, number)
                watcher.stdin.write(f"{session_id.hex()}\n".encode())
                assert await watcher.stdout.readline() == b"accepting\n"
                # Logouts do not keep step with the polls.
                await asyncio.sleep(0.01 + 0.013 * (number % 20))
                await store.revoke(f"user-{number}", RevokeReason.LOGOUT, only=session_id)
                acknowledged_at = time.monotonic()
                delays.append(max(0.0, float(await watcher.stdout.readline()) - acknowledged_at) * 1000)
        finally:
            watcher.kill()
            await watcher.wait()
    return delays


def figures_of(case: Case, delays: Sequence[float]) -> list[Figure]:
    """Make the three figures of a case."""
    ordered = sorted(delays)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return [
        Figure(f"{case.name}, p50", median(ordered), "ms"),
        Figure(f"{case.name}, p99", p99, "ms"),
        Figure(f"{case.name}, max", ordered[-1], "ms"),
    ]


def price_of_a_look() -> Figure:
    """Measure a look for what is not there among a hundred thousand entries."""
    denylist = MemoryDenylist()
    denylist.add([Denied(f"{number:032x}", time.time() + 600) for number in range(100_000)])
    calls = 200_000
    best = min(timeit(lambda: "f" * 32 in denylist, number=calls) for _ in range(5))
    return Figure("a look at the denylist, 100 000 entries", best / calls * 1e9, "ns", most=200.0)


def measure(rounds: int = ROUNDS) -> list[Figure]:
    """Measure every way, on services of this run."""
    remove_leftovers()
    postgres, redis = PostgresServer(), RedisServer()
    found = [price_of_a_look()]
    with tempfile.TemporaryDirectory() as directory:
        try:
            postgres.start()
            redis.start()
            postgres.create_database("bench")
            url, file = postgres.url("bench"), sqlite_url(Path(directory))
            cases = [
                Case("PostgreSQL, LISTEN/NOTIFY", url, url),
                Case("PostgreSQL, polling 250 ms", url, url, listen=False),
                Case("Redis alone at the verifier", url, redis.url, redis=redis.url),
                Case("SQLite, polling 250 ms", file, file),
            ]
            for case in cases:
                found += figures_of(case, asyncio.run(measure_case(case, rounds)))
        finally:
            redis.close()
            postgres.close()
    return found


def main() -> None:
    """Measure, or be the other process."""
    if sys.argv[1:2] == ["--watch"]:
        asyncio.run(watch(sys.argv[2], listen=sys.argv[3] == "listen"))
        return
    print(table(measure(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)))


if __name__ == "__main__":
    main()
