"""Pruning deletes what has expired and nothing else, in bounded batches, on one node at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from sqlalchemy import Connection, event, insert, select

from keyturn.core.login import Limit
from keyturn.core.model import RevokeReason
from keyturn.core.policy import DAY, Policy
from keyturn.stores.counters import keyed
from keyturn.stores.engine import Engine, open_engine
from keyturn.stores.location import normalise
from keyturn.stores.migrations import migrate
from keyturn.stores.pruning import LEASE_TIME, SqlUpkeep
from keyturn.stores.schema import counters, denylist, events, metadata, sessions
from keyturn.stores.sql import SqlSessions
from keyturn.stores.throttle import SqlThrottle
from keyturn.testing import FrozenClock, sign_in
from tests.services import PostgresServer
from tests.stores.support import PATIENCE

pytestmark = pytest.mark.anyio
POLICY = Policy()
ROWS = (200, 1600)
_FILL = """
INSERT INTO keyturn_sessions (
  id, user_id, generation, token_hash, confirmed_at, created_at, last_seen_at, last_active_at, inactivity_expires_at,
  absolute_expires_at, device_id, device, ip, user_agent, amr, authenticated_at, remember
) SELECT sha256(n::text::bytea), n, 0, '', 0, 0, 0, 0, 0, n, '', '', '', repeat('x', 400), '', 0, true FROM generate_series(1, {count}) n
"""
_PAGES = (
    "SELECT heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read FROM pg_statio_user_tables"
    " WHERE relname = 'keyturn_sessions'"
)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[Engine]:
    """A migrated database."""
    engine = open_engine(database_url)
    await migrate(engine)
    yield engine
    await engine.close()


def upkeep(engine: Engine, clock: FrozenClock) -> SqlUpkeep:
    """Make a node's upkeep."""
    return SqlUpkeep(engine, event_retention=POLICY.event_retention, clock=clock)


async def rows(engine: Engine, column: Any) -> list[Any]:
    """Read a column, sorted."""
    async with engine.autocommit() as connection:
        return sorted((await connection.execute(select(column))).scalars())


async def deny(engine: Engine, expiries: dict[str, float]) -> None:
    """Fill the denylist."""
    async with engine.transaction() as connection:
        entries = [{"id": id_, "created_at": 0.0, "expires_at": at} for id_, at in expiries.items()]
        await connection.execute(insert(denylist), entries)


async def test_expired_and_not(engine: Engine) -> None:
    """Each table loses what is past its time, and keeps the rest; a second run finds nothing."""
    clock = FrozenClock()
    store = SqlSessions(engine, denylist_lifetime=610.0, heal_time=900.0, clock=clock)
    old = await sign_in(store, remember=False)
    await store.revoke("user-1", RevokeReason.LOGOUT)
    clock.advance(DAY)
    kept = await sign_in(store, "user-2")
    async with engine.transaction() as connection:
        ages = {"old": POLICY.event_retention + 1.0, "young": POLICY.event_retention - 2.0}
        for name, age in ages.items():
            await connection.execute(insert(events).values(at=clock.now - age, type=name, data="{}"))
        for key, expires_at in ((b"past", clock.now - 1.0), (b"live", clock.now + 9.0), (b"until reset", None)):
            await connection.execute(insert(counters).values(key_hash=key, amount=1, expires_at=expires_at))
    assert await upkeep(engine, clock).prune() == 3
    assert len(await rows(engine, sessions.c.id)) == 2
    assert await rows(engine, denylist.c.id) == []
    assert await rows(engine, counters.c.key_hash) == [b"live", b"until reset"]
    clock.advance(DAY + 1.0)
    assert await upkeep(engine, clock).prune() == 3
    assert await rows(engine, sessions.c.id) == [kept.session_id]
    assert old.session_id != kept.session_id
    assert await rows(engine, events.c.type) == ["session_ended", "signed_in", "signed_in"]
    assert await upkeep(engine, clock).prune() == 0
    await store.close()


async def test_counter_that_was_reset(engine: Engine) -> None:
    """Consecutive failures that a success has ended are deleted, though their time is far off; those of others are kept."""
    throttle = SqlThrottle(engine)
    ended, others = (Limit(("account", name), 5, None) for name in ("ada", "eve"))
    for limit in (ended, others):
        assert await throttle.take([limit]) is None
    await throttle.give_back([ended])
    assert await upkeep(engine, FrozenClock()).prune() == 1
    assert await rows(engine, counters.c.key_hash) == [keyed([others])[0][0]]


async def test_client_that_comes_back_late(engine: Engine) -> None:
    """Until a day after a session's absolute end it is told why that ended, however long nobody has acted in it."""
    clock = FrozenClock()
    store = SqlSessions(engine, denylist_lifetime=610.0, heal_time=900.0, clock=clock)
    idle, over = await sign_in(store), await sign_in(store, remember=False)
    clock.advance(2 * DAY)
    assert await upkeep(engine, clock).prune() == 0
    assert (await over.refresh()).reason is RevokeReason.ABSOLUTE
    clock.advance(26 * DAY)
    assert await upkeep(engine, clock).prune() == 2
    assert await rows(engine, sessions.c.id) == [idle.session_id]
    assert (await idle.refresh()).reason is RevokeReason.INACTIVITY
    await store.close()


@pytest.mark.services
async def test_row_that_somebody_holds(postgres_url: str) -> None:
    """It is not waited for: it is left for the next time."""
    clock = FrozenClock()
    engine = open_engine(postgres_url)
    await migrate(engine)
    await deny(engine, {"held": clock.now - 1.0, "free": clock.now - 1.0})
    async with engine.transaction() as connection:
        await connection.execute(select(denylist).where(denylist.c.id == "held").with_for_update())
        with anyio.fail_after(PATIENCE):
            assert await upkeep(engine, clock).prune() == 1
    assert await rows(engine, denylist.c.id) == ["held"]
    assert await upkeep(engine, clock).prune() == 1
    await engine.close()


async def test_batches(engine: Engine) -> None:
    """No transaction deletes more than a batch."""
    await _delete_in_batches(engine)


async def test_batches_whatever_the_plan(postgres: PostgresServer, postgres_url: str) -> None:
    """Also where PostgreSQL, which may not know how many rows there are, asks for the batch again with each row of the table."""
    name = str(normalise(postgres_url).database)
    for other in ("hashjoin", "mergejoin", "material", "hashagg", "sort"):
        postgres.execute(f'ALTER DATABASE "{name}" SET enable_{other} TO off')
    engine = open_engine(postgres_url)
    await _delete_in_batches(engine)
    await engine.close()


async def _delete_in_batches(engine: Engine) -> None:
    clock = FrozenClock()
    await deny(engine, {f"id-{number}": clock.now - 1.0 for number in range(25)})
    left: list[int] = []

    def count(connection: Connection, _cursor: object, statement: str, *_rest: object) -> None:
        if "DELETE FROM keyturn_denylist" in statement:
            left.append(connection.exec_driver_sql("SELECT count(*) FROM keyturn_denylist").scalar_one())

    event.listen(engine.sqlalchemy.sync_engine, "after_cursor_execute", count)
    assert await upkeep(engine, clock).prune(batch=10) == 25
    assert left == [15, 5, 0]


@pytest.mark.services
async def test_many_rows_beside_a_backup(postgres: PostgresServer, postgres_url: str) -> None:
    """While somebody holds a snapshot nothing that was deleted leaves the table and its index: no batch passes all of it again."""
    name = str(normalise(postgres_url).database)
    await migrate(postgres_url)
    touched: list[int] = []
    for count in ROWS:
        postgres.execute(f"TRUNCATE keyturn_sessions; {_FILL.format(count=count)}; ANALYZE keyturn_sessions", name)
        postgres.execute("SELECT pg_stat_reset()", name)
        reader, engine = open_engine(postgres_url), open_engine(postgres_url)
        async with reader.sqlalchemy.connect() as backup:
            await backup.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            await backup.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
            assert (await backup.exec_driver_sql("SELECT count(*) FROM keyturn_meta")).scalar_one() >= 0
            assert await upkeep(engine, FrozenClock()).prune(batch=20) == count
        await engine.close()  # a backend that ends reports its statistics
        await reader.close()
        touched.append(int(postgres.execute(_PAGES, name)))
    few, many = touched
    assert many < 1.5 * few * ROWS[1] / ROWS[0]


async def test_other_node_that_prunes(engine: Engine) -> None:
    """Whoever comes second does nothing, at once; the next time it may be the one."""
    clock = FrozenClock()
    await deny(engine, {"past": clock.now - 1.0})
    other = open_engine(engine.sqlalchemy.url.render_as_string(hide_password=False))
    async with upkeep(other, clock)._elected() as elected:
        assert elected
        for _ in range(2):
            assert await upkeep(engine, clock).prune() == 0
    assert await upkeep(engine, clock).prune() == 1
    await other.close()


async def test_several_nodes_at_once(engine: Engine) -> None:
    """Together they delete every row once."""
    clock = FrozenClock()
    await deny(engine, {f"id-{number}": clock.now - 1.0 for number in range(30)})
    deleted = await asyncio.gather(*(upkeep(engine, clock).prune(batch=7) for _ in range(3)))
    assert sum(deleted) == 30


async def test_sqlite_node_that_died_while_pruning(sqlite_database_url: str) -> None:
    """Its lease ends by itself, and also when the clock was set back behind it."""
    clock = FrozenClock()
    engine = open_engine(sqlite_database_url)
    await migrate(engine)
    await deny(engine, {"past": clock.now - 1000.0})
    node = upkeep(engine, clock)
    assert await engine.run(node._take_lease)
    assert await node.prune() == 0
    clock.advance(LEASE_TIME)
    assert await node.prune() == 1
    assert await engine.run(node._take_lease)
    clock.advance(-LEASE_TIME)
    await deny(engine, {"past": clock.now - 1000.0})
    assert await node.prune() == 1
    await engine.close()


async def test_sqlite_node_that_prunes_for_long(sqlite_database_url: str) -> None:
    """Each of its batches renews its lease, so that nobody takes it for dead and prunes what it has not come to yet."""
    clock = FrozenClock()
    engine = open_engine(sqlite_database_url)
    await migrate(engine)
    async with engine.transaction() as connection:
        await connection.execute(insert(counters).values(key_hash=b"past", amount=1, expires_at=clock.now - 1.0))
    node = upkeep(engine, clock)
    async with node._elected():
        for _ in range(3):
            await deny(engine, {"past": clock.now - 1.0})
            clock.advance(LEASE_TIME - 1.0)
            assert await node._empty(denylist, denylist.c.id, denylist.c.expires_at, clock.now, 1000) == 1
            assert await upkeep(engine, clock).prune() == 0
    await engine.close()


async def test_empty_batch(engine: Engine) -> None:
    """A batch of nothing would never end: refused."""
    with pytest.raises(ValueError, match="at least one row"):
        await upkeep(engine, FrozenClock()).prune(batch=0)


async def test_every_table_is_considered() -> None:
    """A new table must be pruned or be named here."""
    pruned = {sessions.name, denylist.name, counters.name, events.name}
    assert set(metadata.tables) - pruned == {"keyturn_users", "keyturn_signing_keys", "keyturn_meta"}
