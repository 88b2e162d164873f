"""The signing keys of several nodes over one database: one ring, sealed, that every node agrees on."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Collection, Sequence
from typing import Any

import anyio
import pytest
from sqlalchemy import delete, event, insert, select, update

from keyturn.core.errors import Unavailable
from keyturn.core.events import Event, EventType
from keyturn.signing import SecretDoesNotFit, Signing
from keyturn.stores.engine import Engine
from keyturn.stores.schema import denylist, signing_keys
from keyturn.stores.signing_keys import SqlSigningKeys
from keyturn.testing import FrozenClock
from keyturn.tokens.sealed_key import NONCE_BYTES, SealedKeyError, seal, sealing_id
from keyturn.tokens.secret_ring import SecretRing
from keyturn.tokens.signing_key import KEY_ENTROPY_BYTES, KeySchedule, SigningKey
from tests.services import PostgresServer
from tests.stores.support import PATIENCE, open_database

pytestmark = pytest.mark.anyio

NOW = 1_800_000_000.0
SCHEDULE = KeySchedule(rotation_period=90_000.0, publish_lead=3600.0, access_lifetime=600.0, leeway=10.0)
OLD = os.urandom(32)
SECRETS = SecretRing({1: OLD})


@pytest.fixture
async def engine(database_url: str) -> AsyncGenerator[Engine]:
    """An empty database of each kind."""
    async with open_database(database_url) as opened:
        yield opened


@pytest.fixture
def clock() -> FrozenClock:
    """The database's clock."""
    return FrozenClock(NOW)


def node(
    engine: Engine, clock: FrozenClock, secrets: SecretRing = SECRETS, events: list[Event] | None = None
) -> Signing:
    """A node's signing keys over this database."""

    async def keep(event: Event) -> None:
        if events is not None:
            events.append(event)

    return Signing(SqlSigningKeys(engine, clock), secrets, schedule=SCHEDULE, on_event=keep)


def nothing(_found: Sequence[bytes], _now: float) -> tuple[Sequence[bytes], Collection[str]]:
    """Plan to have no key."""
    return [], ()


async def stored(engine: Engine) -> Sequence[bytes]:
    """Read every sealed key."""
    return (await SqlSigningKeys(engine).load())[0]


async def test_change_of_the_ring(engine: Engine, clock: FrozenClock) -> None:
    """What is planned is what is stored then; the plan is given what is there, and the database's clock."""
    signing = node(engine, clock)
    await signing.refresh()
    await signing.rotate()
    both = await stored(engine)
    assert len(both) == 2
    given: list[object] = []

    def drop_one(found: Sequence[bytes], now: float) -> tuple[Sequence[bytes], Collection[str]]:
        given.append((list(found), now))
        return found[:1], ()

    await SqlSigningKeys(engine, clock).change(drop_one)
    assert given == [(both, NOW)]
    assert await stored(engine) == both[:1]
    await SqlSigningKeys(engine, clock).change(nothing)
    assert await stored(engine) == []


async def test_change_to_what_is_no_key(engine: Engine, clock: FrozenClock) -> None:
    """Bytes that are not a sealed key are refused before anything is deleted."""
    await node(engine, clock).refresh()
    before = await stored(engine)
    with pytest.raises(SealedKeyError):
        await SqlSigningKeys(engine, clock).change(lambda _found, _now: ([b"nonsense"], ()))
    assert await stored(engine) == before


async def test_plan_that_had_to_wait(database_url: str, clock: FrozenClock) -> None:
    """A key is dated when it is stored: one that was planned long before would sign before anybody has seen it."""
    async with open_database(database_url) as engine, open_database(database_url) as other:
        signing = node(engine, clock)
        await signing.refresh()
        clock.advance(SCHEDULE.rotation_period)
        asked = asyncio.Event()

        def before(_connection: Any, _cursor: Any, text: str, *_: Any) -> None:
            if text.startswith(("LOCK TABLE", "BEGIN IMMEDIATE")):
                asked.set()

        event.listen(engine.sqlalchemy.sync_engine, "before_cursor_execute", before)
        async with other.transaction() as connection:
            await connection.execute(delete(signing_keys).where(signing_keys.c.kid == "nobody's"))
            waiting = asyncio.create_task(signing.refresh())
            # What it does without the lock it has done by now, and it gets the lock when this transaction is over.
            await asyncio.wait_for(asked.wait(), PATIENCE)
            clock.advance(2 * SCHEDULE.publish_lead)
        await waiting
        assert len(signing.ring.keys) == 2
        assert signing.ring.keys[-1].publish_at == clock()
        assert signing.ring.keys[-1].activate_at == clock() + SCHEDULE.publish_lead


async def test_clock_that_is_set_right(engine: Engine, clock: FrozenClock) -> None:
    """A first key that was made while the database's clock was ahead keeps nobody waiting: a new one signs everywhere at once."""
    clock.advance(7200.0)
    await node(engine, clock).refresh()
    clock.advance(-7200.0)
    signing, other = node(engine, clock), node(engine, clock)
    for each in (signing, other):
        await each.refresh()
    new = signing.signing_key(NOW - SCHEDULE.leeway)
    assert other.signing_key(NOW) == new
    assert len(await stored(engine)) == 1
    assert await signing.rotate() == signing.signing_key(NOW + SCHEDULE.publish_lead) != new


async def test_first_key_under_a_race(database_url: str, clock: FrozenClock) -> None:
    """Eight nodes that start at once on an empty table make one key, and all of them sign with it."""
    events: list[Event] = []
    async with open_database(database_url) as one, open_database(database_url) as other:
        nodes = [node(engine, clock, events=events) for engine in [one, other] * 4]
        await asyncio.gather(*(each.refresh() for each in nodes))
        assert len({each.signing_key(NOW).kid for each in nodes}) == 1
        assert len(await stored(one)) == 1
    assert [event.type for event in events] == [EventType.KEY_ROTATED]
    assert events[0].data["kid"] == nodes[0].signing_key(NOW).kid
    assert events[0].at == NOW


async def test_node_that_is_a_little_late(engine: Engine, clock: FrozenClock) -> None:
    """A node that takes the database's clock for less than it is, within the leeway, signs with the first key as well.

    With one that is later still nobody signs then: a fault, and no error of ours.
    """
    signing = node(engine, clock)
    await signing.refresh()
    assert signing.signing_key(NOW - 9).kid == signing.signing_key(NOW).kid
    with pytest.raises(Unavailable):
        signing.signing_key(NOW - 60)


async def test_scheduled_rotation_over_two_nodes(engine: Engine, clock: FrozenClock) -> None:
    """A successor is published before it signs, on both nodes; the old key verifies until its last token is dead."""
    one, other = node(engine, clock), node(engine, clock)
    await one.refresh()
    old = one.signing_key(NOW)
    due = old.activate_at + SCHEDULE.rotation_period
    clock.now = due - SCHEDULE.publish_lead
    await other.refresh()
    clock.advance(60)
    await one.refresh()
    for each in (one, other):
        assert each.signing_key(due - 1).kid == old.kid
        assert len(each.verification_keys(due - 1)) == 2
        new = each.signing_key(due)
        assert new.kid != old.kid
        assert set(each.verification_keys(due + 609)) == {old.kid, new.kid}
        assert set(each.verification_keys(due + 610)) == {new.kid}
    assert one.signing_key(due).kid == other.signing_key(due).kid
    clock.now = due + 700
    await one.refresh()
    assert len(await stored(engine)) == 1


async def test_compromised_key_dies_everywhere(engine: Engine, clock: FrozenClock) -> None:
    """After a rotation for a leak the old key verifies nowhere once the nodes have refreshed, and the new one signs."""
    one, other = node(engine, clock), node(engine, clock)
    await one.refresh()
    leaked = one.signing_key(NOW).kid
    await other.refresh()
    clock.advance(5)
    new = await one.rotate(compromised=True)
    await other.refresh()
    for each in (one, other):
        assert each.public_key(leaked, NOW + 6) is None
        # Also on a node that is a little late, which has no other key left.
        assert each.signing_key(NOW + 4).kid == new.kid


async def test_compromised_key_that_does_not_open_here(engine: Engine, clock: FrozenClock) -> None:
    """A key under a secret of other nodes stays with theirs, but for a leak: then it dies as well, and everybody is told."""
    one = node(engine, clock)
    await one.refresh()
    leaked = one.signing_key(NOW).kid
    key = SigningKey.generate(os.urandom(KEY_ENTROPY_BYTES), created_at=NOW, publish_at=NOW, activate_at=NOW)
    closed = seal(key, SecretRing({2: os.urandom(32)}), os.urandom(NONCE_BYTES))
    await SqlSigningKeys(engine).change(lambda found, _now: ([*found, closed], ()))
    await one.rotate()
    assert closed in await stored(engine)
    await one.rotate(compromised=True)
    assert [sealing_id(each) for each in await stored(engine)] == [1]
    async with engine.autocommit() as connection:
        assert {key.kid, leaked} <= set((await connection.execute(select(denylist.c.id))).scalars())


async def test_jwks_and_its_entity_tag(engine: Engine, clock: FrozenClock) -> None:
    """The set changes, with its tag, exactly when a key appears or dies; in between it is the same object."""
    signing = node(engine, clock)
    await signing.refresh()
    first = signing.jwks(NOW)
    assert signing.jwks(NOW + 1000) is first
    clock.advance(1000)
    await signing.rotate()
    second = signing.jwks(NOW + 1000)
    assert second.etag != first.etag
    assert len(json.loads(second.body)["keys"]) == 2
    gone = signing.jwks(NOW + 1000 + SCHEDULE.publish_lead + 610)
    assert len(json.loads(gone.body)["keys"]) == 1
    assert gone.etag not in {first.etag, second.etag}
    assert signing.jwks(NOW + 1000).etag == second.etag


async def test_new_secret_seals_everything_again(engine: Engine, clock: FrozenClock) -> None:
    """After the active secret has changed, one refresh later the old one can be taken out of the ring."""
    first = node(engine, clock)
    await first.refresh()
    kid = first.signing_key(NOW).kid
    new = os.urandom(32)
    await node(engine, clock, SecretRing({2: new, 1: OLD})).refresh()
    assert [sealing_id(each) for each in await stored(engine)] == [2]
    only_new = node(engine, clock, SecretRing({2: new}))
    await only_new.refresh()
    assert only_new.signing_key(NOW).kid == kid


@pytest.mark.parametrize(("key_id", "why"), [(1, "does not open with secret 1"), (2, "sealed under secret 1, not in")])
async def test_node_with_another_secret(engine: Engine, clock: FrozenClock, key_id: int, why: str) -> None:
    """A node that cannot open the keys says so, which is no outage, and leaves them to those who can."""
    await node(engine, clock).refresh()
    before = await stored(engine)
    stranger = node(engine, clock, SecretRing({key_id: os.urandom(40)}))
    with pytest.raises(SecretDoesNotFit, match=why):
        await stranger.refresh()
    with pytest.raises(SecretDoesNotFit, match=why):
        await stranger.rotate(compromised=True)
    with pytest.raises(Unavailable):
        stranger.signing_key(NOW)
    assert await stored(engine) == before


async def test_row_that_was_tampered_with(engine: Engine, clock: FrozenClock) -> None:
    """Whoever can write to the table cannot make a key count, nor stop the honest ones: signing and rotation go on."""
    signing = node(engine, clock)
    await signing.refresh()
    honest = signing.signing_key(NOW).kid
    changed = await signing.rotate()
    async with engine.transaction() as connection:
        found = await connection.execute(select(signing_keys.c.sealed).where(signing_keys.c.kid == changed.kid))
        sealed = bytearray(found.scalar_one())
        sealed[-1] ^= 1
        here = signing_keys.c.kid == changed.kid
        await connection.execute(update(signing_keys).where(here).values(sealed=bytes(sealed)))
        # It names an honest key, and is none.
        twin = bytearray(
            (await connection.execute(select(signing_keys.c.sealed).where(~here))).scalars().first() or b""
        )
        twin[-2] ^= 1
        await connection.execute(insert(signing_keys).values(kid="twin", sealed=bytes(twin)))
        await connection.execute(insert(signing_keys).values(kid="garbage", sealed=b"garbage"))
    fresh = node(engine, clock)
    await fresh.refresh()
    assert fresh.public_key(changed.kid, NOW + 1) is None
    assert fresh.public_key("garbage", NOW + 1) is None
    assert fresh.public_key(honest, NOW + 1) is not None
    assert fresh.signing_key(NOW + 1).kid != changed.kid
    await fresh.rotate()
    await node(engine, clock).refresh()


async def test_leak_that_is_heard_of_while_the_keys_are_read(engine: Engine, clock: FrozenClock) -> None:
    """What was read before the leak is not the end of it: the keys are read again, until the leaked one is gone."""
    one = node(engine, clock)
    await one.refresh()
    leaked = one.signing_key(NOW)

    class Interrupted(SqlSigningKeys):
        """Another node replaces the key, and word of that arrives, between the read and its answer."""

        async def load(self) -> tuple[Sequence[bytes], float]:
            found = await super().load()
            if one.signing_key(NOW) == leaked:
                await one.rotate(compromised=True)
                other.hear([leaked.kid])
            return found

    other = Signing(SqlSigningKeys(engine, clock), SECRETS, schedule=SCHEDULE)
    await other.refresh()
    leaking = asyncio.create_task(other.leak())
    await anyio.wait_all_tasks_blocked()
    assert not leaking.done()
    other._store = Interrupted(engine, clock)
    await other.refresh()
    assert other.signing_key(NOW) == leaked
    async with asyncio.timeout(PATIENCE):
        await leaking
    # While that does not succeed it is not due again at once: the database would hear of nothing else.
    again = asyncio.create_task(other.leak())
    await anyio.wait_all_tasks_blocked()
    assert not again.done()
    again.cancel()
    await other.refresh()
    assert other.signing_key(NOW) == one.signing_key(NOW)
    assert not other._leaked.is_set()


async def test_copy_of_the_table(engine: Engine, clock: FrozenClock) -> None:
    """The private key does not stand in the table."""
    signing = node(engine, clock)
    await signing.refresh()
    scalar = signing.signing_key(NOW).private_key.private_numbers().private_value.to_bytes(32, "big")
    assert all(scalar not in sealed for sealed in await stored(engine))


async def test_database_down(postgres: PostgresServer, postgres_url: str, clock: FrozenClock) -> None:
    """A node without its database goes on with the keys it has, and says that it could not refresh."""
    async with open_database(postgres_url) as engine:
        signing = node(engine, clock)
        await signing.refresh()
        kid = signing.signing_key(NOW).kid
        postgres.kill9()
        with pytest.raises(Unavailable):
            await signing.refresh()
        assert signing.signing_key(NOW + 60).kid == kid
        postgres.start()


async def test_before_anything_is_loaded(engine: Engine, clock: FrozenClock) -> None:
    """A node that has loaded no key does not know that there is none: it says so, to whatever question."""
    signing = node(engine, clock)
    for ask in (
        lambda: signing.public_key("a", NOW),
        lambda: signing.jwks(NOW),
        lambda: signing.verification_keys(NOW),
        lambda: signing.signing_key(NOW),
    ):
        with pytest.raises(Unavailable) as refused:
            ask()
        assert refused.value.dependency == "signing_keys"
    await signing.refresh()
    assert signing.public_key("a", NOW) is None
    assert signing.jwks(NOW).body != b'{"keys":[]}'


async def test_sink_that_fails(engine: Engine, clock: FrozenClock) -> None:
    """Whoever hears of a new key and fails does not undo it."""

    async def fail(_: Event) -> None:
        raise RuntimeError("the sink is broken")

    signing = Signing(SqlSigningKeys(engine, clock), SECRETS, schedule=SCHEDULE, on_event=fail)
    await signing.refresh()
    assert len(await stored(engine)) == 1
    assert signing.signing_key(NOW).signs(NOW)
