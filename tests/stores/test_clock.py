"""The database's clock on a node: whatever the date of its machine, and however slow the database answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator

import pytest

from keyturn.core.errors import Unavailable
from keyturn.stores.clock import TOLERANCE, DatabaseClock
from keyturn.stores.engine import Engine
from keyturn.testing import FrozenClock
from tests.services import PostgresServer
from tests.stores.support import open_database

pytestmark = pytest.mark.anyio

DAY = 86400.0
PATIENCE = 30.0
"""Seconds that the database may take in truth."""


@pytest.fixture
async def engine(database_url: str) -> AsyncGenerator[Engine]:
    """An empty database of each kind."""
    async with open_database(database_url) as opened:
        yield opened


async def now(engine: Engine) -> float:
    """Ask the database."""
    async with engine.autocommit() as connection:
        return await engine.read_now(connection)


@pytest.mark.parametrize("wrong", [0.0, 1.0, -1.0, 200 * DAY, -200 * DAY, 60 * 365 * DAY, -50 * 365 * DAY])
async def test_machine_with_a_wrong_date(engine: Engine, wrong: float) -> None:
    """After one reading the node has the database's time, and knows by how much its machine's is wrong."""
    wall, monotonic = FrozenClock(await now(engine) + wrong), FrozenClock(1000.0)
    clock = DatabaseClock(engine, wall=wall, monotonic=monotonic)
    assert clock.now() == pytest.approx(wall())
    before = await now(engine)
    difference = await clock.read()
    assert before <= clock.now() <= await now(engine)
    assert difference == pytest.approx(wall() - clock.now())


async def test_date_that_jumps(engine: Engine) -> None:
    """Between two readings the time goes on as it does, not as somebody sets it."""
    wall, monotonic = FrozenClock(await now(engine)), FrozenClock(1000.0)
    clock = DatabaseClock(engine, wall=wall, monotonic=monotonic)
    await clock.read()
    told = clock.now()
    for jump in (200 * DAY, -400 * DAY):
        wall.advance(jump)
        assert clock.now() == told
        monotonic.advance(7.0)
        told += 7.0
        assert clock.now() == pytest.approx(told)


async def test_database_that_answers_late(engine: Engine) -> None:
    """A late answer gives wide bounds: it moves what is outside of them, and nothing that is within."""

    def read(times: Iterator[float]) -> float:
        return next(times)

    wall = FrozenClock(await now(engine))
    at = FrozenClock(1000.0)
    late: Iterator[float] | None = None
    clock = DatabaseClock(engine, wall=wall, monotonic=lambda: at() if late is None else read(late))
    await clock.read()
    told = clock.now()
    # Asked at 990 and told at 1010, by a clock that stands at 1000: what is known lies between.
    late = iter([990.0, 1010.0, 1000.0])
    await clock.read()
    late = None
    assert clock.now() == told
    # Asked at 900 and told at 950: the database is ahead, by 50 s at least.
    late = iter([900.0, 950.0, 1000.0])
    assert await clock.read() == pytest.approx(-50.0, abs=PATIENCE)
    late = None
    assert told + 50.0 <= clock.now() <= told + 50.0 + PATIENCE


async def test_difference_is_told_once(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """The log says when the machine's date begins to differ, and not at every reading; a little is nothing."""
    wall, monotonic = FrozenClock(), FrozenClock(0.0)
    clock = DatabaseClock(engine, wall=wall, monotonic=monotonic)

    async def follow(difference: float) -> int:
        caplog.clear()
        await clock.read()
        wall.now = clock.now() + difference
        await clock.follow()
        return len(caplog.records)

    monotonic.advance(1.0)
    assert await follow(TOLERANCE * 100) == 1
    assert "+" in caplog.records[0].message
    assert await follow(TOLERANCE * 100) == 0
    assert await follow(0.0) == 0
    assert await follow(-TOLERANCE * 100) == 1
    assert "-" in caplog.records[0].message


async def test_database_down(postgres: PostgresServer, postgres_url: str) -> None:
    """A node without its database goes on telling the time, and says that it could not ask."""
    async with open_database(postgres_url) as engine:
        monotonic = FrozenClock(1000.0)
        clock = DatabaseClock(engine, wall=FrozenClock(0.0), monotonic=monotonic)
        await clock.read()
        told = clock.now()
        postgres.kill9()
        monotonic.advance(60.0)
        with pytest.raises(Unavailable):
            await clock.read()
        assert clock.now() == pytest.approx(told + 60.0)
        postgres.start()
