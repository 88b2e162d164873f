"""Attempts that PostgreSQL counts together: each is whole, and none pays for another one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from random import Random

import pytest
from asyncpg.exceptions import CharacterNotInRepertoireError
from sqlalchemy import insert, text

from keyturn.core.errors import Unavailable
from keyturn.core.login import Limit
from keyturn.stores.counters import keyed
from keyturn.stores.counting import TOGETHER
from keyturn.stores.engine import ATTEMPTS, Engine
from keyturn.stores.schema import counters
from keyturn.stores.throttle import SqlThrottle
from keyturn.stores.user_rows import credential_of
from keyturn.stores.users import SqlUsers
from tests.stores.support import PATIENCE, open_database, waited_for

pytestmark = [pytest.mark.anyio, pytest.mark.services]


@pytest.fixture
async def engine(postgres_url: str) -> AsyncGenerator[Engine]:
    """An empty database."""
    async with open_database(postgres_url) as opened:
        yield opened


def limit(name: str, amount: int = 9) -> Limit:
    """Make a limit of its own."""
    return Limit((name,), amount, 900.0)


async def take(throttle: SqlThrottle, *attempts: Sequence[Limit]) -> list[bool]:
    """Make attempts together; return which were counted."""
    return [wait is None for wait in await asyncio.gather(*(throttle.take(limits) for limits in attempts))]


async def amounts(engine: Engine, *limits: Limit) -> list[int]:
    """Return what the counters say."""
    async with engine.autocommit() as connection:
        rows = (await connection.execute(text("SELECT key_hash, amount FROM keyturn_counters"))).all()
    found = {bytes(row[0]): row[1] for row in rows}
    return [found.get(keyed([one])[0][0], 0) for one in limits]


async def test_attempts_of_one_moment(engine: Engine) -> None:
    """They are one transaction: one flush of the disk."""
    throttle = SqlThrottle(engine)
    assert await take(throttle, *([limit(f"address-{n}"), limit(f"account-{n}")] for n in range(5))) == [True] * 5
    async with engine.autocommit() as connection:
        written = (
            await connection.execute(text("SELECT count(*), count(DISTINCT xmin::text) FROM keyturn_counters"))
        ).one()
    assert tuple(written) == (10, 1)


async def test_user_of_each_attempt(engine: Engine) -> None:
    """Each is told of its own user, and one who is not there is nobody."""
    users, throttle = SqlUsers(engine, denylist_lifetime=610.0), SqlThrottle(engine)
    names = ["ada@example.com", "bob@example.com", "cid@example.com"]
    created = [await users.create(name, None, f"hash of {name}") for name in names]
    wanted = [*names, "eve@example.com"]
    counted = await asyncio.gather(*(throttle.take_and_find([limit(name)], name) for name in wanted))
    assert [one.retry_after for one in counted] == [None] * 4
    assert [one.user[0] for one in counted] == [*(user and user.id for user in created), None]
    assert [one.user[0] and credential_of(one.user).password_hash for one in counted] == [
        *(f"hash of {name}" for name in names),
        None,
    ]


async def test_attempt_that_is_refused_among_others(engine: Engine) -> None:
    """It takes from none of its counters, and is told of its user all the same; the others are counted."""
    users, throttle = SqlUsers(engine, denylist_lifetime=610.0), SqlThrottle(engine)
    user = await users.create("ada@example.com", None, "hash")
    assert user is not None
    full, its_other, others = limit("full", 1), limit("its other"), [limit("one"), limit("two")]
    assert await throttle.take([full]) is None
    refused, counted = await asyncio.gather(
        throttle.take_and_find([full, its_other], "ada@example.com"), take(throttle, *([one] for one in others))
    )
    assert refused.retry_after is not None
    assert 0 < refused.retry_after <= 900.0
    assert refused.user[0] == user.id
    assert counted == [True, True]
    assert await amounts(engine, full, its_other, *others) == [1, 0, 1, 1]


async def test_users_of_those_who_are_refused_together(engine: Engine) -> None:
    """Whoever is refused because another one was is told of nobody, and never of that one's user."""
    users, throttle = SqlUsers(engine, denylist_lifetime=610.0), SqlThrottle(engine)
    names = ["ada@example.com", "bob@example.com"]
    ada, _ = [await users.create(name, None, "hash") for name in names]
    assert ada is not None
    full = limit("full", 1)
    assert await throttle.take([full]) is None
    refused = await asyncio.gather(*(throttle.take_and_find([full], name) for name in names))
    assert [one.retry_after is None for one in refused] == [False, False]
    assert [one.user[0] for one in refused] == [ada.id, None]


async def test_mistake_of_ours(engine: Engine) -> None:
    """It stays an error of its own kind for all who came together."""
    throttle = SqlThrottle(engine)
    taking = [throttle.take_and_find([limit(name)], f"{name}\x00") for name in ("one", "two")]
    assert [type(error) for error in await asyncio.gather(*taking, return_exceptions=True)] == [
        CharacterNotInRepertoireError
    ] * 2


async def test_trigger_that_somebody_has_added(engine: Engine) -> None:
    """What it refuses is a fault for all who came together, and no reason to try again."""
    async with engine.autocommit() as connection:
        raising = "BEGIN PERFORM nextval('times'); RAISE 'broken' USING ERRCODE = 'invalid_text_representation'; END"
        await connection.exec_driver_sql("CREATE SEQUENCE times")
        await connection.exec_driver_sql(f"CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $${raising}$$")
        trigger = "CREATE TRIGGER fail BEFORE INSERT ON keyturn_counters FOR EACH ROW EXECUTE FUNCTION fail()"
        await connection.exec_driver_sql(trigger)
    throttle = SqlThrottle(engine)
    taking = [throttle.take([limit(name)]) for name in ("one", "two")]
    assert [type(error) for error in await asyncio.gather(*taking, return_exceptions=True)] == [Unavailable] * 2
    async with engine.autocommit() as connection:
        assert (await connection.exec_driver_sql("SELECT nextval('times')")).scalar_one() == 2


async def test_attempts_that_share_a_counter(engine: Engine) -> None:
    """They are counted one after the other, in the order in which they came, up to the limit and no further."""
    throttle = SqlThrottle(engine)
    address = limit("address", 3)
    accounts = [limit(f"account-{number}") for number in range(5)]
    assert await take(throttle, *([address, account] for account in accounts)) == [True, True, True, False, False]
    assert await amounts(engine, address, *accounts) == [3, 1, 1, 1, 0, 0]


async def test_attempt_behind_one_that_waits_its_turn(engine: Engine) -> None:
    """Who needs what one before them needs comes after that one, though it would be free now."""
    throttle = SqlThrottle(engine)
    first, last = limit("first"), limit("last", 1)
    assert await take(throttle, [first], [first, last], [last]) == [True, True, False]


async def test_attempts_over_one_limit(engine: Engine) -> None:
    """Those who come together are refused together: a flood of them from one address must not keep others waiting."""
    statements: list[float] = []

    def clock() -> float:
        statements.append(1_700_000_000.0)
        return statements[0]

    throttle = SqlThrottle(engine, clock)
    address, free = limit("address", 1), [limit("one"), limit("two")]
    assert await throttle.take([address]) is None
    statements.clear()
    flood = [[address, limit(f"account-{number}")] for number in range(TOGETHER - 2)]
    assert await take(throttle, free[:1], *flood, free[1:]) == [True, *[False] * len(flood), True]
    assert len(statements) == 1
    assert await amounts(engine, address, *free, *(attempt[1] for attempt in flood)) == [1, 1, 1, *[0] * len(flood)]


async def test_attempt_over_limits_that_have_refused_others(engine: Engine) -> None:
    """Who needs counters that have just refused two others waits for the later of them."""
    throttle = SqlThrottle(engine)
    short, long = Limit(("short",), 1, 60.0), Limit(("long",), 1, 900.0)
    assert await take(throttle, [short], [long]) == [True, True]
    sooner, later, both = await asyncio.gather(*(throttle.take(limits) for limits in ([short], [long], [short, long])))
    assert sooner is not None
    assert later is not None
    assert sooner < later == both


async def test_last_one_taken_meanwhile(engine: Engine) -> None:
    """Who began when there was room and finds none under the lock is refused; who came with them is counted, once."""
    throttle = SqlThrottle(engine)
    contended, others = limit("contended", 3), [limit("one"), limit("two")]
    async with engine.transaction() as connection:
        until = await engine.read_now(connection) + 900.0
        key = keyed([contended])[0][0]
        await connection.execute(insert(counters).values(key_hash=key, amount=3, expires_at=until))
        taking = asyncio.create_task(take(throttle, [others[0]], [contended], [others[1]]))
        await waited_for(engine)
    assert await taking == [True, False, True]
    assert await amounts(engine, contended, *others) == [3, 1, 1]


@pytest.mark.parametrize(("times", "in_the_end"), [(ATTEMPTS, None), (1000, Unavailable)])
async def test_last_one_taken_each_time(engine: Engine, times: int, in_the_end: type[Exception] | None) -> None:
    """Who finds room each time, and none under the lock, tries again, and is told to come back when that goes on; who came
    with them is counted, once.
    """
    throttle = SqlThrottle(engine)
    contended, others = limit("contended"), [limit("one"), limit("two")]
    key = keyed([contended])[0][0].hex()
    losing = (
        "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN "
        f"IF NEW.key_hash = '\\x{key}' AND nextval('times') <= {times} THEN RAISE division_by_zero; END IF; RETURN NEW; END$$"
    )
    async with engine.autocommit() as connection:
        await connection.exec_driver_sql("CREATE SEQUENCE times")
        await connection.exec_driver_sql(losing)
        trigger = "CREATE TRIGGER lose BEFORE INSERT ON keyturn_counters FOR EACH ROW EXECUTE FUNCTION lose()"
        await connection.exec_driver_sql(trigger)
    taking = [throttle.take([one]) for one in (others[0], contended, others[1])]
    first, lost, second = await asyncio.gather(*taking, return_exceptions=True)
    assert (first, second) == (None, None)
    assert lost is None if in_the_end is None else isinstance(lost, in_the_end)
    assert await amounts(engine, contended, *others) == [int(in_the_end is None), 1, 1]


async def test_counter_that_somebody_holds(engine: Engine) -> None:
    """Only who came together with whoever needs it waits; later attempts do not."""
    throttle = SqlThrottle(engine)
    held = limit("held")
    assert await throttle.take([held]) is None
    async with engine.transaction() as connection:
        await connection.execute(text("SELECT FROM keyturn_counters FOR UPDATE"))
        waiting = asyncio.create_task(throttle.take([held]))
        await waited_for(engine)
        async with asyncio.timeout(PATIENCE):
            assert await take(throttle, [limit("one")], [limit("two")]) == [True, True]
        assert not waiting.done()
    assert await waiting is None
    assert await amounts(engine, held) == [2]


async def test_many_attempts_over_two_nodes(engine: Engine, postgres_url: str) -> None:
    """What is counted is what was let through, exactly, however the counters are shared."""
    random = Random(7)
    limits = [limit(f"counter-{number}", random.randint(1, 12)) for number in range(12)]
    attempts = [random.sample(limits, random.randint(1, 3)) for _ in range(120)]
    async with open_database(postgres_url) as elsewhere:
        nodes = [SqlThrottle(engine), SqlThrottle(elsewhere)]
        halves = [attempts[::2], attempts[1::2]]
        counted = await asyncio.gather(*(take(node, *half) for node, half in zip(nodes, halves, strict=True)))
    through = [
        one for half, done in zip(halves, counted, strict=True) for one, let in zip(half, done, strict=True) if let
    ]
    expected = [sum(one in attempt for attempt in through) for one in limits]
    assert await amounts(engine, *limits) == expected
    assert all(amount <= one.amount for amount, one in zip(expected, limits, strict=True))
    # Whoever was refused had a counter that was full.
    full = {one for one, amount in zip(limits, expected, strict=True) if amount == one.amount}
    refused = [
        one for half, done in zip(halves, counted, strict=True) for one, let in zip(half, done, strict=True) if not let
    ]
    assert refused
    assert all(full & set(attempt) for attempt in refused)
