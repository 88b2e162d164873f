"""The signing keys of several nodes over one database: one ring, sealed, that every node agrees on."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator

import pytest
from sqlalchemy import insert, select, update

from keyturn.core.errors import Unavailable
from keyturn.core.events import Event, EventType
from keyturn.signing import SecretDoesNotFit, Signing
from keyturn.stores.engine import Engine
from keyturn.stores.schema import signing_keys
from keyturn.stores.signing_keys import SqlSigningKeys
from keyturn.tokens.keyring import KeySchedule, SealedKeyError, SecretRing, sealing_id
from tests.services import PostgresServer
from tests.stores.support import open_database

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


def node(engine: Engine, secrets: SecretRing = SECRETS, events: list[Event] | None = None) -> Signing:
    """A node's signing keys over this database."""

    async def keep(event: Event) -> None:
        if events is not None:
            events.append(event)

    return Signing(SqlSigningKeys(engine), secrets, schedule=SCHEDULE, on_event=keep)


async def test_replace_compares_the_whole_ring(engine: Engine) -> None:
    """The ring is set when it is what was read, in any order, and left alone when it is not."""
    signing = node(engine)
    await signing.refresh(NOW)
    await signing.rotate(NOW + 100)
    store = SqlSigningKeys(engine)
    both = await store.load()
    assert len(both) == 2
    assert not await store.replace((), [])
    assert not await store.replace(both[:1], [])
    assert await store.load() == both
    assert await store.replace(list(reversed(both)), both[:1])
    assert await store.load() == both[:1]


async def test_replace_with_what_is_no_key(engine: Engine) -> None:
    """Bytes that are not a sealed key are refused before anything is deleted."""
    await node(engine).refresh(NOW)
    store = SqlSigningKeys(engine)
    before = await store.load()
    with pytest.raises(SealedKeyError):
        await store.replace(before, [b"nonsense"])
    assert await store.load() == before


async def test_first_key_under_a_race(database_url: str) -> None:
    """Eight nodes that start at once on an empty table make one key, and all of them sign with it."""
    events: list[Event] = []
    async with open_database(database_url) as one, open_database(database_url) as other:
        nodes = [node(engine, events=events) for engine in [one, other] * 4]
        await asyncio.gather(*(each.refresh(NOW) for each in nodes))
        assert len({each.signing_key(NOW).kid for each in nodes}) == 1
        assert len(await SqlSigningKeys(one).load()) == 1
    assert [event.type for event in events] == [EventType.KEY_ROTATED]
    assert events[0].data["kid"] == nodes[0].signing_key(NOW).kid


async def test_node_with_a_slow_clock(engine: Engine) -> None:
    """A node whose clock is behind by less than the leeway signs with the first key as well."""
    first = node(engine)
    await first.refresh(NOW)
    slow = node(engine)
    await slow.refresh(NOW - 9)
    assert slow.signing_key(NOW - 9).kid == first.signing_key(NOW).kid


async def test_scheduled_rotation_over_two_nodes(engine: Engine) -> None:
    """A successor is published before it signs, on both nodes; the old key verifies until its last token is dead."""
    one, other = node(engine), node(engine)
    await one.refresh(NOW)
    old = one.signing_key(NOW)
    due = old.activate_at + SCHEDULE.rotation_period
    await other.refresh(due - SCHEDULE.publish_lead)
    await one.refresh(due - SCHEDULE.publish_lead + 60)
    for each in (one, other):
        assert each.signing_key(due - 1).kid == old.kid
        assert len(each.verification_keys(due - 1)) == 2
        new = each.signing_key(due)
        assert new.kid != old.kid
        assert set(each.verification_keys(due + 609)) == {old.kid, new.kid}
        assert set(each.verification_keys(due + 610)) == {new.kid}
    assert one.signing_key(due).kid == other.signing_key(due).kid
    await one.refresh(due + 700)
    assert len(await SqlSigningKeys(engine).load()) == 1


async def test_compromised_key_dies_everywhere(engine: Engine) -> None:
    """After a rotation for a leak the old key verifies nowhere once the nodes have refreshed, and the new one signs."""
    one, other = node(engine), node(engine)
    await one.refresh(NOW)
    leaked = one.signing_key(NOW).kid
    await other.refresh(NOW)
    new = await one.rotate(NOW + 5, compromised=True)
    await other.refresh(NOW + 6)
    for each in (one, other):
        assert each.public_key(leaked, NOW + 6) is None
        assert each.signing_key(NOW + 6).kid == new.kid


async def test_jwks_and_its_entity_tag(engine: Engine) -> None:
    """The set changes, with its tag, exactly when a key appears or dies; in between it is the same object."""
    signing = node(engine)
    await signing.refresh(NOW)
    first = signing.jwks(NOW)
    assert signing.jwks(NOW + 1000) is first
    await signing.rotate(NOW + 1000)
    second = signing.jwks(NOW + 1000)
    assert second.etag != first.etag
    assert len(json.loads(second.body)["keys"]) == 2
    gone = signing.jwks(NOW + 1000 + SCHEDULE.publish_lead + 610)
    assert len(json.loads(gone.body)["keys"]) == 1
    assert gone.etag not in {first.etag, second.etag}
    assert signing.jwks(NOW + 1000).etag == second.etag


async def test_new_secret_seals_everything_again(engine: Engine) -> None:
    """After the active secret has changed, one refresh later the old one can be taken out of the ring."""
    first = node(engine)
    await first.refresh(NOW)
    kid = first.signing_key(NOW).kid
    new = os.urandom(32)
    await node(engine, SecretRing({2: new, 1: OLD})).refresh(NOW)
    assert [sealing_id(each) for each in await SqlSigningKeys(engine).load()] == [2]
    only_new = node(engine, SecretRing({2: new}))
    await only_new.refresh(NOW)
    assert only_new.signing_key(NOW).kid == kid


@pytest.mark.parametrize(("key_id", "why"), [(1, "does not open with secret 1"), (2, "sealed under secret 1, not in")])
async def test_node_with_another_secret(engine: Engine, key_id: int, why: str) -> None:
    """A node that cannot open the keys says so, which is no outage, and leaves them to those who can."""
    await node(engine).refresh(NOW)
    before = await SqlSigningKeys(engine).load()
    stranger = node(engine, SecretRing({key_id: os.urandom(40)}))
    with pytest.raises(SecretDoesNotFit, match=why):
        await stranger.refresh(NOW)
    with pytest.raises(SecretDoesNotFit, match=why):
        await stranger.rotate(NOW, compromised=True)
    with pytest.raises(Unavailable):
        stranger.signing_key(NOW)
    assert await SqlSigningKeys(engine).load() == before


async def test_row_that_was_tampered_with(engine: Engine) -> None:
    """Whoever can write to the table cannot make a key count, nor stop the honest ones: signing and rotation go on."""
    signing = node(engine)
    await signing.refresh(NOW)
    honest = signing.signing_key(NOW).kid
    changed = await signing.rotate(NOW)
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
    fresh = node(engine)
    await fresh.refresh(NOW + 1)
    assert fresh.public_key(changed.kid, NOW + 1) is None
    assert fresh.public_key("garbage", NOW + 1) is None
    assert fresh.public_key(honest, NOW + 1) is not None
    assert fresh.signing_key(NOW + 1).kid != changed.kid
    await fresh.rotate(NOW + 2)
    await node(engine).refresh(NOW + 3)


async def test_copy_of_the_table(engine: Engine) -> None:
    """The private key does not stand in the table."""
    signing = node(engine)
    await signing.refresh(NOW)
    scalar = signing.signing_key(NOW).private_key.private_numbers().private_value.to_bytes(32, "big")
    assert all(scalar not in sealed for sealed in await SqlSigningKeys(engine).load())


async def test_database_down(postgres: PostgresServer, postgres_url: str) -> None:
    """A node without its database goes on with the keys it has, and says that it could not refresh."""
    async with open_database(postgres_url) as engine:
        signing = node(engine)
        await signing.refresh(NOW)
        kid = signing.signing_key(NOW).kid
        postgres.kill9()
        with pytest.raises(Unavailable):
            await signing.refresh(NOW + 60)
        assert signing.signing_key(NOW + 60).kid == kid
        postgres.start()


async def test_sink_that_fails(engine: Engine) -> None:
    """Whoever hears of a new key and fails does not undo it."""

    async def fail(_: Event) -> None:
        raise RuntimeError("the sink is broken")

    signing = Signing(SqlSigningKeys(engine), SECRETS, schedule=SCHEDULE, on_event=fail)
    await signing.refresh(NOW)
    assert len(await SqlSigningKeys(engine).load()) == 1
    assert signing.signing_key(NOW).signs(NOW)
