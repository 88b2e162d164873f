"""Counters of attempts: exact under concurrency and across processes, one from each limit or from none."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from time import monotonic

import anyio
import pytest
from sqlalchemy import func, insert, select

from keyturn.core.errors import Unavailable
from keyturn.core.events import Event, EventType
from keyturn.core.login import Limit, login_limits
from keyturn.core.policy import LARGEST, Policy
from keyturn.ports import Throttle
from keyturn.stores.counters import REPRIEVE, keyed
from keyturn.stores.lanes import Work
from keyturn.stores.redis import connect
from keyturn.stores.schema import counters
from keyturn.stores.sql import SqlSessions
from keyturn.stores.throttle import RedisThrottle, SqlThrottle
from keyturn.testing import FrozenClock
from tests.chaos.wire import LoopThread, Wire
from tests.services import PostgresServer, RedisServer
from tests.stores.support import PATIENCE, open_database, waited_for

pytestmark = pytest.mark.anyio

A = Limit(("login-account", "alice@example.com"), 3, 900.0)
B = Limit(("login-address", "192.0.2.1"), 5, 600.0)
FOREVER = Limit(("login-forever", "alice@example.com"), 4, None)
KEPT = Limit(("logins", "alice@example.com"), 3, 900.0, kept=True)


@asynccontextmanager
async def open_throttle(kind: str, url: str) -> AsyncGenerator[Throttle]:
    """Open either throttle."""
    if kind == "redis":
        async with connect(url) as redis:
            yield RedisThrottle(redis)
    else:
        async with open_database(url) as engine:
            yield SqlThrottle(engine)


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.services),
        pytest.param("redis", marks=pytest.mark.services),
    ]
)
async def backend(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Name each kind of throttle in turn, with the URL of an empty service."""
    kind: str = request.param
    names = {"sqlite": "sqlite_database_url", "postgresql": "postgres_url", "redis": "redis_url"}
    url: str = request.getfixturevalue(names[kind])
    if kind in {"sqlite", "postgresql"}:
        async with open_database(url):
            pass
    return kind, url


@pytest.fixture
async def throttle(backend: tuple[str, str]) -> AsyncGenerator[Throttle]:
    """Each throttle in turn, empty."""
    async with open_throttle(*backend) as opened:
        yield opened


async def test_take_up_to_the_amount(throttle: Throttle) -> None:
    """The amount is allowed, and the next attempt is refused with the rest of the window."""
    began = monotonic()
    assert [await throttle.take([A]) for _ in range(3)] == [None, None, None]
    wait = await throttle.take([A])
    assert wait is not None
    assert 890.0 - (monotonic() - began) < wait <= 900.0


async def test_take_where_a_policy_has_the_largest_numbers(throttle: Throttle) -> None:
    """They are counted everywhere, also where PostgreSQL has 32 bits for thrice of one."""
    largest = Policy(failure_window=LARGEST, account_logins=LARGEST, account_failures=LARGEST, hard_failures=LARGEST)
    assert await throttle.take(login_limits("alice@example.com", "192.0.2.1", None, largest, "logins")) is None


async def test_take_over_one_limit_takes_from_none(throttle: Throttle) -> None:
    """When one limit refuses, the others keep what they had: exactly two of five remain."""
    for _ in range(3):
        assert await throttle.take([A, B]) is None
    for _ in range(10):
        assert await throttle.take([A, B]) is not None
    assert [await throttle.take([B]) is None for _ in range(3)] == [True, True, False]


async def test_take_over_two_limits_waits_for_the_later(throttle: Throttle) -> None:
    """The wait is the longest of the limits that refuse."""
    short, long = Limit(("short",), 1, 400.0), Limit(("long",), 1, 500.0)
    began = monotonic()
    assert await throttle.take([short, long]) is None
    wait = await throttle.take([long, short])
    assert wait is not None
    assert 490.0 - (monotonic() - began) < wait <= 500.0


async def test_take_over_a_limit_without_a_window(throttle: Throttle) -> None:
    """Consecutive failures do not pass with time: the wait says so without naming a year."""
    for _ in range(4):
        assert await throttle.take([FOREVER]) is None
    assert await throttle.take([FOREVER]) == REPRIEVE


async def test_give_back_undoes_one_take_and_resets_consecutive_failures(throttle: Throttle) -> None:
    """After a success the window has one attempt more, and the consecutive failures start at zero."""
    for _ in range(3):
        assert await throttle.take([A, FOREVER]) is None
    await throttle.give_back([A, FOREVER])
    assert await throttle.take([A]) is None
    assert await throttle.take([A]) is not None
    assert [await throttle.take([FOREVER]) is None for _ in range(5)] == [True] * 4 + [False]


async def test_give_back_where_successes_count(throttle: Throttle) -> None:
    """A success stays counted, also where nothing else is given back; what a fault has ended is given back."""
    for limits in ([A, KEPT], [KEPT]):
        assert await throttle.take(limits) is None
        await throttle.give_back(limits)
    assert await throttle.take([A, KEPT]) is None
    await throttle.give_back([A, KEPT], proven=False)
    assert [await throttle.take([KEPT]) is None for _ in range(2)] == [True, False]
    assert [await throttle.take([A]) is None for _ in range(4)] == [True, True, True, False]


async def test_give_back_of_what_was_never_taken(throttle: Throttle) -> None:
    """A counter never goes below zero: no attempt is won by giving back."""
    for given in (1, 5):
        for _ in range(given):
            await throttle.give_back([A, FOREVER])
        assert [await throttle.take([A]) is None for _ in range(4)] == [True, True, True, False]
        assert [await throttle.take([FOREVER]) is None for _ in range(5)] == [True] * 4 + [False]


async def test_window_that_is_over_starts_anew(throttle: Throttle) -> None:
    """After the window has ended the whole amount is there again."""
    brief = Limit(("brief",), 2, 0.2)
    assert [await throttle.take([brief]) is None for _ in range(2)] == [True, True]
    with anyio.fail_after(20):
        while await throttle.take([brief]) is not None:  # noqa: ASYNC110 - the window ends by the clock
            await anyio.sleep(0.01)


async def test_refused_while_somebody_writes(sqlite_database_url: str) -> None:
    """Who is over a limit waits for nobody's turn at SQLite, and so keeps nobody waiting, be they ever so many."""
    async with open_database(sqlite_database_url) as engine:
        throttle = SqlThrottle(engine)
        for _ in range(3):
            assert await throttle.take([A, B]) is None
        async with engine.transaction():
            with anyio.fail_after(PATIENCE):
                assert await throttle.take([B, A]) is not None
        assert await throttle.take([B]) is None


async def test_write_beside_a_flood_of_wrong_passwords(sqlite_database_url: str) -> None:
    """Whoever wants to write to SQLite waits for one turn of the attempts and one of their events, be there ever so many."""
    written: list[str] = []
    refused = Event(EventType.SIGN_IN_REFUSED, 1.0)

    def work() -> Work[None]:
        yield "SELECT 1", ()
        written.append("another's")

    async with open_database(sqlite_database_url) as engine, anyio.create_task_group() as tasks:
        throttle, sessions = SqlThrottle(engine), SqlSessions(engine, denylist_lifetime=730.0, heal_time=900.0)

        async def take() -> None:
            await throttle.take([B])
            written.append("an attempt")

        async def record() -> None:
            await sessions.record(refused)
            written.append("an event")

        async with engine.transaction():
            for count in (1, 40):
                for _ in range(count):
                    tasks.start_soon(take)
                    tasks.start_soon(record)
                await anyio.wait_all_tasks_blocked()
            tasks.start_soon(engine.transact, work)
            await anyio.wait_all_tasks_blocked()
    assert written.index("another's") <= 2
    assert Counter(written) == {"an attempt": 41, "an event": 41, "another's": 1}


async def test_no_limits(throttle: Throttle) -> None:
    """Nothing to take is allowed and changes nothing."""
    assert await throttle.take([]) is None
    await throttle.give_back([])


async def test_fifty_tasks_at_once(throttle: Throttle) -> None:
    """Fifty attempts in parallel on one limit of ten: exactly ten pass, whatever else they take from."""
    limit = Limit(("race",), 10, 900.0)
    results = await asyncio.gather(*(throttle.take([limit, Limit((f"own-{i}",), 1, 900.0)]) for i in range(50)))
    assert results.count(None) == 10


async def test_opposite_orders_at_once(throttle: Throttle) -> None:
    """Attempts that name the same limits in opposite orders do not wait for each other in a circle."""
    one, other = Limit(("one",), 1000, 900.0), Limit(("other",), 1000, 900.0)
    for _ in range(10):
        taken = [throttle.take([one, other] if i % 2 else [other, one]) for i in range(8)]
        given = [throttle.give_back([other, one] if i % 2 else [one, other]) for i in range(8)]
        assert set(await asyncio.gather(*taken, *given)) == {None}


RACER = """
import asyncio, sys
from keyturn.core.login import Limit
from tests.stores.test_throttle import open_throttle

async def main() -> None:
    limits = [Limit(("race", "x"), 7, 900.0), Limit(("race", "y"), 40, None)]
    async with open_throttle(sys.argv[1], sys.argv[2]) as throttle:
        await throttle.take([Limit(("warm-up", sys.argv[3]), 1, 9.0)])
        print("ready", flush=True)
        sys.stdin.readline()
        results = await asyncio.gather(*(throttle.take(limits) for _ in range(17)))
    print(results.count(None), flush=True)

asyncio.run(main())
"""


async def test_fifty_one_attempts_over_three_processes(backend: tuple[str, str]) -> None:
    """Three processes with seventeen parallel attempts each: exactly the amount passes in all."""
    kind, url = backend
    command = [sys.executable, "-c", RACER, kind, url]
    racers = [
        subprocess.Popen([*command, str(i)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for i in range(3)
    ]
    try:
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        counts = [int(racer.communicate(timeout=60)[0]) for racer in racers]
    finally:
        for racer in racers:
            racer.kill()
            racer.wait()
    assert sum(counts) == 7


async def test_window_from_the_first_attempt_on(database_url: str) -> None:
    """Later ones do not make it longer: who fails now and then is never refused for all of them together."""
    clock = FrozenClock()
    async with open_database(database_url) as engine:
        throttle = SqlThrottle(engine, clock)
        for seconds in (0.0, 450.0, 449.0):
            clock.advance(seconds)
            assert await throttle.take([A]) is None
        assert await throttle.take([A]) == 1.0
        clock.advance(1.0)
        assert [await throttle.take([A]) for _ in range(4)] == [None, None, None, 900.0]


async def test_counters_that_are_given_back_whole(database_url: str) -> None:
    """One without a window is over, so that pruning takes it; one with a window lasts as long as before."""
    async with open_database(database_url) as engine:
        throttle = SqlThrottle(engine)
        assert await throttle.take([A, FOREVER]) is None
        await throttle.give_back([A, FOREVER])
        async with engine.autocommit() as connection:
            rows = (await connection.execute(select(counters.c.amount, counters.c.expires_at))).all()
    assert sorted((amount, expires_at > 0) for amount, expires_at in rows) == [(0, False), (0, True)]


async def test_table_holds_no_address(database_url: str) -> None:
    """What a person typed is not in the table, in no encoding."""
    async with open_database(database_url) as engine:
        await SqlThrottle(engine).take([A])
        async with engine.autocommit() as connection:
            rows = (await connection.execute(select(counters))).all()
    assert len(rows) == 1
    assert len(bytes(rows[0][0])) == 32
    assert "alice" not in repr(rows)


async def test_refused_attempts_leave_no_row(database_url: str) -> None:
    """A caller who is over one limit cannot fill the table through another."""
    async with open_database(database_url) as engine:
        throttle = SqlThrottle(engine)
        limit = Limit(("address",), 1, 900.0)
        assert await throttle.take([limit]) is None
        for i in range(20):
            assert await throttle.take([limit, Limit((f"typed-{i}",), 10, None)]) is not None
        async with engine.autocommit() as connection:
            assert (await connection.execute(select(func.count()).select_from(counters))).scalar_one() == 1


@pytest.mark.services
async def test_last_one_taken_while_waiting(postgres_url: str) -> None:
    """An attempt that began when there was room, and finds none when it gets the row: refused, and nothing is taken."""
    other = Limit(("other",), 1, 900.0)
    async with open_database(postgres_url) as engine:
        throttle = SqlThrottle(engine)
        async with engine.transaction() as connection:
            began = monotonic()
            until = await engine.read_now(connection) + 900.0
            await connection.execute(insert(counters).values(key_hash=keyed([A])[0][0], amount=3, expires_at=until))
            taking = asyncio.create_task(throttle.take([other, A]))
            await waited_for(engine)
        wait = await taking
        assert wait is not None
        assert 890.0 - (monotonic() - began) < wait <= 900.0
        assert [await throttle.take([other]) is None for _ in range(2)] == [True, False]


async def test_clock_of_the_database_decides(sqlite_database_url: str) -> None:
    """Two nodes see one window, and its end, by one clock."""
    now = 1000.0
    async with open_database(sqlite_database_url) as engine:
        one, other = (SqlThrottle(engine, clock=lambda: now) for _ in range(2))
        assert [await one.take([A]) for _ in range(3)] == [None] * 3
        now = 1899.0
        assert await other.take([A]) == pytest.approx(1.0)
        now = 1900.0
        assert await other.take([A]) is None


@pytest.mark.parametrize("ahead", [120.0, 400 * 86400.0])
async def test_clock_that_was_ahead_is_set_right(database_url: str, ahead: float) -> None:
    """What was counted meanwhile is forgotten, as nobody is to wait until then; what was counted before is not."""
    now = 1000.0
    async with open_database(database_url) as engine:
        throttle = SqlThrottle(engine, clock=lambda: now)
        assert [await throttle.take([B]) for _ in range(5)] == [None] * 5
        now += ahead
        for limit in (A, FOREVER):
            assert [await throttle.take([limit]) is None for _ in range(limit.amount + 1)] == [True] * limit.amount + [
                False
            ]
        now -= ahead
        assert [await throttle.take([B]) is None for _ in range(2)] == [False] * 2
        for limit in (A, FOREVER):
            assert [await throttle.take([limit]) is None for _ in range(limit.amount + 1)] == [True] * limit.amount + [
                False
            ]
        now += A.window or 0.0
        assert await throttle.take([A]) is None


def test_keys_that_join_alike() -> None:
    """Parts of a key cannot be shifted into each other."""
    keys = {keyed([Limit(key, 1, 1.0)])[0][0] for key in [("a", "b:c"), ("a:b", "c"), ("a", "b", "c"), ("ab", "c")]}
    assert len(keys) == 4


async def test_redis_down(redis_server: RedisServer, redis_url: str) -> None:
    """Redis at fault refuses with 503: it is no open door; the counters go on after a kill and a restart."""
    async with connect(redis_url) as redis:
        throttle = RedisThrottle(redis)
        assert [await throttle.take([A]) for _ in range(2)] == [None, None]
        redis_server.kill9()
        with pytest.raises(Unavailable) as raised:
            await throttle.take([A])
        assert raised.value.dependency == "redis"
        with pytest.raises(Unavailable):
            await throttle.give_back([A])
        redis_server.start()
        assert [await throttle.take([A]) is None for _ in range(2)] == [True, False]


async def test_redis_window_that_has_begun(redis_url: str) -> None:
    """A further attempt does not make it longer: who comes too often does not wait for ever."""
    async with connect(redis_url) as redis:
        throttle = RedisThrottle(redis)
        assert await throttle.take([A]) is None
        [key] = await redis.keys("*")
        await redis.pexpire(key, 300_000)
        assert [await throttle.take([A]) for _ in range(2)] == [None, None]
        wait = await throttle.take([A])
        assert wait is not None
        assert wait <= 300.0


@pytest.mark.parametrize(("left", "lasts"), [(None, 900.0), (930.0, 930.0), (1020.0, 900.0)])
async def test_redis_counter_that_seems_to_last(redis_url: str, left: float | None, lasts: float) -> None:
    """One without an end, or whose end a clock that jumped has put off, lets nobody in; nobody waits longer than a window."""
    async with connect(redis_url) as redis:
        throttle = RedisThrottle(redis)
        assert [await throttle.take([A]) for _ in range(A.amount)] == [None] * A.amount
        [key] = await redis.keys("*")
        await (redis.persist(key) if left is None else redis.pexpire(key, int(left * 1000)))
        assert await throttle.take([A]) == A.window
        assert 0 < await redis.pttl(key) <= lasts * 1000


async def test_redis_with_foreign_values(redis_server: RedisServer, redis_url: str) -> None:
    """Whoever writes nonsense into Redis gets a refusal, not an open door."""
    async with connect(redis_url) as redis:
        throttle = RedisThrottle(redis)
        await throttle.take([A])
        for key in await redis.keys("*"):
            await redis.set(key, "many")
        with pytest.raises(Unavailable):
            await throttle.take([A])


async def test_postgresql_down(postgres: PostgresServer, postgres_url: str) -> None:
    """A killed database refuses with 503, and what was counted before is still counted after."""
    async with open_database(postgres_url) as engine:
        throttle = SqlThrottle(engine)
        assert [await throttle.take([A]) for _ in range(2)] == [None, None]
        postgres.kill9()
        with pytest.raises(Unavailable) as raised:
            await throttle.take([A])
        assert raised.value.dependency == "database"
        postgres.start()
        allowed = 0
        with anyio.fail_after(30):
            while True:
                try:
                    if await throttle.take([A]) is not None:
                        break
                    allowed += 1
                except Unavailable:
                    # A pooled connection that died with the server; the next one is new.
                    await anyio.sleep(0.01)
        assert allowed == 1


async def test_after_a_failover_of_redis_that_closes_no_connection(redis_server: RedisServer, redis_url: str) -> None:
    """The former master is a replica now and refuses to count: the next attempt is counted where new connections lead."""
    successor, thread = RedisServer(), LoopThread()
    wire = Wire(thread, redis_server.port)
    async with connect(f"redis://127.0.0.1:{wire.port}") as redis, connect(redis_url) as former:
        throttle = RedisThrottle(redis)
        try:
            successor.start()
            assert await throttle.take([A]) is None
            await former.replicaof("127.0.0.1", successor.port)
            with pytest.raises(Unavailable):
                await throttle.take([A])
            wire.lead_new_to(successor.port)
            assert [await throttle.take([A]) is None for _ in range(4)] == [True, True, True, False]
        finally:
            await former.replicaof("NO", "ONE")
            thread.close()
            successor.close()
