"""A database that lost commits: seen by itself after a failover, or told by the operator, and believed for a while."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from keyturn.core.policy import DAY
from keyturn.core.rotation import Outcome
from keyturn.stores.engine import Engine, open_engine
from keyturn.stores.failover import TIMELINE, Failover, healing_until, start_healing
from keyturn.stores.meta import put_meta
from keyturn.stores.migrations import migrate
from keyturn.stores.sql import SqlSessions
from keyturn.testing import FrozenClock, Holder, sign_in
from tests.services import PostgresServer, wait_until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[Engine]:
    """A migrated database."""
    engine = open_engine(database_url)
    await migrate(engine)
    yield engine
    await engine.close()


def promote(postgres: PostgresServer) -> None:
    """Let the server recover as from an archive and be promoted: a new timeline, as after any failover."""
    postgres.stop()
    with (postgres.data / "postgresql.auto.conf").open("a") as settings:
        settings.write("restore_command = '/bin/false'\n")
    signal = postgres.data / "recovery.signal"
    signal.touch()
    os.chown(signal, postgres.uid, postgres.gid)
    postgres.start()
    wait_until(lambda: postgres.execute("SELECT pg_is_in_recovery()") == "f", 30.0, "the promotion")


async def is_healing(failover: Failover, engine: Engine) -> bool:
    """Ask as a judge that answers `ahead` makes the store ask."""
    async with engine.autocommit() as connection:
        return await failover.healing(connection)


def ahead(holder: Holder, clock: FrozenClock) -> Holder:
    """Make the holder of a settled token two generations on, whose parent a commit that was lost had confirmed."""
    mint = holder.tokens.minter(os.urandom(16))
    return Holder(holder.store, mint(holder.session_id, 2, clock.now - holder.policy.settle_time, bytes(8)).text)


async def test_failover(postgres: PostgresServer, postgres_url: str) -> None:
    """After a real promotion, tokens ahead of the database are believed for the healing time and no longer."""
    clock = FrozenClock()
    engine = open_engine(postgres_url)
    await migrate(engine)
    store = SqlSessions(engine, denylist_lifetime=610.0, heal_time=900.0, clock=clock)
    await store.failover.check()
    holders = [ahead(await sign_in(store, f"user-{number}"), clock) for number in range(3)]
    assert (await holders[0].refresh()).outcome is Outcome.AHEAD
    await engine.close()
    promote(postgres)
    assert (await holders[0].refresh()).outcome is Outcome.CONFIRM
    assert await healing_until(engine) == clock.now + 900.0
    clock.advance(899.0)
    assert (await holders[1].refresh()).outcome is Outcome.CONFIRM
    clock.advance(1.0)
    assert (await holders[2].refresh()).outcome is Outcome.AHEAD
    await store.close()
    await engine.close()


async def test_failover_while_every_node_was_down(postgres: PostgresServer, postgres_url: str) -> None:
    """The timeline last seen is in the database: the check at start-up of a new process sees the failover."""
    clock = FrozenClock()
    for expected in (0.0, clock.now + 60.0):
        engine = open_engine(postgres_url)
        await migrate(engine)
        await Failover(engine, heal_time=60.0, clock=clock).check()
        assert await healing_until(engine) == expected
        await engine.close()
        promote(postgres)


async def test_timeline_that_went_back(postgres_url: str) -> None:
    """A lower timeline is another cluster: it is noted, and nothing is believed by itself."""
    engine = open_engine(postgres_url)
    await migrate(engine)
    async with engine.transaction() as connection:
        await connection.exec_driver_sql("INSERT INTO keyturn_meta VALUES ('timeline', '4000')")
    await Failover(engine, heal_time=900.0).check()
    assert await healing_until(engine) == 0.0
    async with engine.autocommit() as connection:
        found = await connection.exec_driver_sql("SELECT value FROM keyturn_meta WHERE name = 'timeline'")
        assert 0 < int(found.scalar_one()) < 4000
    await engine.close()


async def test_service_that_tells_no_timeline(postgres: PostgresServer, postgres_url: str) -> None:
    """That is no fault: the operator's switch is the only way there, and works."""
    name, role = postgres_url.rpartition("/")[2], "keyturn_hosted"
    postgres.execute(f"CREATE ROLE {role} LOGIN")
    postgres.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}", name)
    postgres.execute("REVOKE EXECUTE ON FUNCTION pg_walfile_name FROM PUBLIC", name)
    try:
        engine = open_engine(postgres_url.replace(f"{postgres.user}@", f"{role}@"))
        failover = Failover(engine, heal_time=60.0)
        assert not await is_healing(failover, engine)
        await start_healing(engine, 60.0)
        assert await is_healing(failover, engine)
        await engine.close()
    finally:
        postgres.execute("GRANT EXECUTE ON FUNCTION pg_walfile_name TO PUBLIC", name)
        postgres.execute(f"DROP OWNED BY {role}", name)
        postgres.execute(f"DROP ROLE {role}")


async def test_failover_while_the_operator_heals(postgres_url: str) -> None:
    """A failover that is noticed then takes nothing of the time that the operator has given; it prolongs a shorter one."""
    clock = FrozenClock()
    engine = open_engine(postgres_url)
    await migrate(engine)
    for seconds, expected in ((3600.0, 3600.0), (60.0, 900.0)):
        await start_healing(engine, seconds, clock=clock)
        async with engine.transaction() as connection:
            await connection.execute(put_meta(connection, TIMELINE, "0"))
        await Failover(engine, heal_time=900.0, clock=clock).check()
        assert await healing_until(engine) == clock.now + expected
    await engine.close()


async def test_operator(engine: Engine) -> None:
    """The operator's switch holds for its time, at every node, and can be taken back."""
    clock = FrozenClock()
    failover = Failover(engine, heal_time=900.0, clock=clock)
    assert not await is_healing(failover, engine)
    assert await start_healing(engine, 60.0, clock=clock) == clock.now + 60.0
    clock.advance(59.0)
    assert await is_healing(failover, engine)
    clock.advance(1.0)
    assert not await is_healing(failover, engine)
    await start_healing(engine, 60.0, clock=clock)
    await start_healing(engine, 0.0, clock=clock)
    assert not await is_healing(failover, engine)


@pytest.mark.parametrize("seconds", [60.0, 3600.0])
async def test_clock_that_was_ahead(engine: Engine, seconds: float) -> None:
    """A time that a clock ahead has set begins anew when that is set right; it does not last until that clock's day comes."""
    clock = FrozenClock()
    failover = Failover(engine, heal_time=900.0, clock=clock)
    clock.advance(5 * DAY)
    await start_healing(engine, seconds, clock=clock)
    clock.advance(-5 * DAY)
    assert await is_healing(failover, engine)
    clock.advance(seconds - 1.0)
    assert await is_healing(failover, engine)
    clock.advance(1.0)
    assert not await is_healing(failover, engine)
    assert await healing_until(engine) == clock.now


async def test_failover_while_the_clock_was_ahead(postgres: PostgresServer, postgres_url: str) -> None:
    """The same for a failover that such a clock has dated."""
    clock = FrozenClock()
    engine = open_engine(postgres_url)
    await migrate(engine)
    failover = Failover(engine, heal_time=900.0, clock=clock)
    await failover.check()
    await engine.close()
    promote(postgres)
    engine = open_engine(postgres_url)
    failover = Failover(engine, heal_time=900.0, clock=clock)
    clock.advance(5 * DAY)
    assert await is_healing(failover, engine)
    clock.advance(-5 * DAY)
    assert await is_healing(failover, engine)
    clock.advance(900.0)
    assert not await is_healing(failover, engine)
    await engine.close()


async def test_database_clock(engine: Engine) -> None:
    """Without a clock of its own, the database's counts."""
    failover = Failover(engine, heal_time=900.0)
    await start_healing(engine, 60.0)
    assert await is_healing(failover, engine)
    await start_healing(engine, -60.0)
    assert not await is_healing(failover, engine)
