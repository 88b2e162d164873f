"""An attacker who can read the database, or who has taken over Redis."""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from redis.asyncio import Redis

from keyturn.core.errors import KeyturnError
from keyturn.runtime import Keyturn
from keyturn.stores.redis import CHANNEL, ENTRIES
from keyturn.stores.revoking import deny_ids
from keyturn.stores.schema import metadata
from keyturn.testing import FrozenClock
from keyturn.tokens import base64url
from tests.attacks.conftest import lighten, settings_of
from tests.attacks.support import DEVICE, PASSWORD, REFRESH, SAFE, SECRET, WRONG, Browser, query, send
from tests.databases import sqlite_database
from tests.services import PostgresServer, RedisServer
from tests.stores.support import eventually

pytestmark = pytest.mark.anyio

PATIENCE = 30.0


async def dump(node: Keyturn) -> list[tuple[str, Any]]:
    """Read every value of every table: (table.column, value)."""
    found: list[tuple[str, Any]] = []
    for table in metadata.sorted_tables:
        columns = [column.name for column in table.columns]
        for row in await query(node, f"SELECT {', '.join(columns)} FROM {table.name}"):
            found += [(f"{table.name}.{name}", value) for name, value in zip(columns, row, strict=True)]
    return found


def spellings(value: Any) -> Iterator[str]:
    """Yield every way in which a value of the database might pass for a credential."""
    if isinstance(value, bytes | bytearray | memoryview):
        raw = bytes(value)
        yield raw.hex()
        yield base64.b64encode(raw).decode()
        yield base64url.encode(raw)
    elif isinstance(value, str) and value.isascii() and value.isprintable():
        yield value


async def test_read_only_database_leak(node: Keyturn, ada: Browser, clock: FrozenClock) -> None:
    """No value of any table, in any spelling, opens a session, stands for a user, or is a known device."""
    await ada.log_in(remember=True)
    clock.advance(61)
    assert (await ada.refresh()).status == 200
    await Browser(node.asgi, email=ada.email).log_in()
    values = {(where, text) for where, value in await dump(node) for text in spellings(value)}
    assert {where.partition(".")[0] for where, _ in values} >= {
        *("keyturn_sessions", "keyturn_users", "keyturn_events", "keyturn_counters", "keyturn_signing_keys")
    }
    tried = sorted({text for _, text in values if len(text) >= 16})[:1500]
    for text in tried:
        for token in (text, f"kt_rt_{text}"):
            answer = await send(node.asgi, "POST", "/auth/refresh", headers=[*SAFE, ("cookie", f"{REFRESH}={token}")])
            assert answer.code == "no_session"
            assert node.auth.device_tokens.read(token.encode()) is None
            assert node.auth.device_tokens.read(f"kt_dv_{text}".encode()) is None
        bearer = ("authorization", f"Bearer {text}")
        assert (await send(node.asgi, "GET", "/auth/me", headers=[bearer])).code == "invalid_token"


async def test_password_hash_is_no_password(node: Keyturn, ada: Browser) -> None:
    """The stored hash does not log in, neither does the device id of the row make a device known."""
    (row,) = await query(
        node,
        "SELECT password_hash, device_id FROM keyturn_users u JOIN keyturn_sessions s ON s.user_id = u.id WHERE u.id = :id",
        id=ada.user_id,
    )
    thief = Browser(node.asgi, email=ada.email)
    thief.password = row[0]
    thief.jar = {DEVICE: "kt_dv_" + base64url.encode(bytes((1, 1)) + bytes(row[1]) + bytes(16))}
    assert (await thief.log_in()).code == "invalid_credentials"


async def test_no_plaintext_secret_is_in_any_table(node: Keyturn, ada: Browser) -> None:
    """Neither passwords nor tokens nor cookies nor keys are stored, nor the address somebody typed at a login."""
    typed = f"mistyped-{secrets.token_hex(4)}@example.com"
    await Browser(node.asgi, email=typed).log_in()
    key = node.signing.signing_key(node.clock()).private_key.private_numbers().private_value
    forbidden = {
        "password": PASSWORD.encode(),
        "refresh token": ada.cookie.encode(),
        "refresh token, raw": base64url.decode(ada.cookie.removeprefix("kt_rt_")),
        "access token": ada.token.encode(),
        "device cookie": ada.jar[DEVICE].encode(),
        "master secret": base64url.decode(SECRET.partition(":")[2]),
        "signing key": key.to_bytes(32, "big"),
        "typed address": typed.encode(),
    }
    for where, value in await dump(node):
        raw = bytes(value) if isinstance(value, bytes | bytearray | memoryview) else str(value).encode()
        for name, secret in forbidden.items():
            assert secret not in raw, f"{name} stands in {where}"
            assert base64.b64encode(secret)[:-4] not in raw, f"{name} stands in {where}"
            assert secret.hex().encode() not in raw, f"{name} stands in {where}"


async def test_copy_of_the_database_under_another_key(tmp_path: Path, clock: FrozenClock) -> None:
    """With the database but without the master key a node does not start: its signing keys stay sealed."""
    url = sqlite_database(tmp_path)
    real = Keyturn(settings_of(url), database_clock=clock)
    lighten(real)
    async with real.lifespan():
        browser = Browser(real.asgi)
        assert (await browser.sign_up()).status == 201
    thieves = Keyturn(settings_of(url, secret=f"1:{base64url.encode(secrets.token_bytes(32))}"), database_clock=clock)
    try:
        with pytest.raises(KeyturnError):
            await thieves.start()
        thief = browser.copy()
        thief.application = thieves.asgi
        assert (await thief.refresh()).code == (await thief.me()).code == "unavailable"
    finally:
        await thieves.close()


# -- Redis


@pytest.fixture
async def with_redis(redis_url: str, tmp_path: Path, clock: FrozenClock) -> AsyncIterator[Keyturn]:
    """A node that counts and announces in Redis."""
    keyturn = Keyturn(settings_of(sqlite_database(tmp_path), redis_url=redis_url), database_clock=clock)
    lighten(keyturn)
    async with keyturn.lifespan():
        yield keyturn


@pytest.fixture
async def attacker(redis_url: str) -> AsyncIterator[Redis]:
    """Somebody who has taken over Redis."""
    async with Redis.from_url(redis_url) as redis:
        yield redis


async def followed(redis: Redis) -> None:
    """Wait until the node listens."""
    with anyio.fail_after(PATIENCE):
        while (await redis.pubsub_numsub(CHANNEL))[0][1] < 1:  # noqa: ASYNC110 - another process counts them
            await anyio.sleep(0.01)


async def signed_up(node: Keyturn) -> Browser:
    """Return a browser that has signed up."""
    browser = Browser(node.asgi)
    answer = await browser.sign_up()
    assert answer.status == 201, answer.body
    return browser


async def test_notice_of_a_role_without_rights(postgres: PostgresServer, postgres_url: str, clock: FrozenClock) -> None:
    """Whoever may connect to the database may notify: what they name, be it the key that signs, is denied to nobody."""
    node = Keyturn(settings_of(postgres_url), database_clock=clock)
    lighten(node)
    async with node.lifespan():
        victim = await signed_up(node)
        denylist = node.denylist
        assert denylist is not None
        for name in (victim.session_id, node.signing.signing_key(clock()).kid):
            notice = f"SET ROLE pg_monitor; SELECT pg_notify('keyturn_denylist', '{name} {clock() + 600}')"
            postgres.execute(notice, postgres_url.rpartition("/")[2])
        async with node.engine.transaction() as connection:
            await deny_ids(connection, ["what-comes-after-them"], clock(), clock() + 600)
        await eventually(lambda: "what-comes-after-them" in denylist)
        assert len(denylist) == 1
        assert (await victim.me()).status == 200


async def test_redis_cannot_resurrect_a_session(with_redis: Keyturn, attacker: Redis, clock: FrozenClock) -> None:
    """Entries taken back, expired, overwritten or drowned in garbage: what was revoked stays refused."""
    await followed(attacker)
    ended = await signed_up(with_redis)
    alive = await signed_up(with_redis)
    before = ended.copy()
    assert (await ended.log_out()).status == 204
    sid = before.session_id
    await attacker.flushall()
    hostile: list[bytes] = [
        f"{sid} 0\n".encode(),
        f"{sid} -1\n".encode(),
        f"{sid} nan\n{sid} -inf\n{sid} inf\n{sid} 1e999\n".encode(),
        f"-{sid} {clock() + 600}\n!{sid} 1\nallow {sid}\n".encode(),
        b"\xff\xfe\x00" * 1000,
        b"\n" * 100_000,
        b"x" * 1_000_000,
        b"",
        b"{}",
        b"$-1\r\n*0\r\n",
        f"{alive.session_id}\n{alive.session_id} \n {alive.session_id} 1".encode(),
    ]
    for message in hostile:
        await attacker.publish(CHANNEL, message)
    marker = secrets.token_hex(16)
    await attacker.zadd(ENTRIES, {f"{sid}": 0.0, "\xff bad": 1e308, marker: clock() + 60})
    await attacker.publish(CHANNEL, f"{marker} {clock() + 60}\n")
    denylist = with_redis.denylist
    assert denylist is not None
    await eventually(lambda: marker in denylist)
    assert (await before.me()).code == "invalid_token"
    assert (await before.refresh()).code == "session_ended:logout"
    assert (await alive.me()).status == 200
    assert (await alive.refresh()).status == 200


async def test_redis_can_deny_and_no_longer_than_a_day(
    with_redis: Keyturn, attacker: Redis, clock: FrozenClock
) -> None:
    """The most that Redis can do to a session is to have its access tokens refused, for a bounded time."""
    await followed(attacker)
    victim = await signed_up(with_redis)
    denylist = with_redis.denylist
    assert denylist is not None
    await attacker.publish(CHANNEL, f"{victim.session_id} 1e15\n")
    await eventually(lambda: victim.session_id in denylist)
    assert (await victim.me()).code == "invalid_token"
    assert (await victim.refresh()).status == 200
    assert max(until for _, until in denylist.known()) <= clock() + 86400


async def test_redis_cannot_mint(with_redis: Keyturn, attacker: Redis) -> None:
    """Whatever Redis holds under whatever name, no session and no user comes of it."""
    forged = "kt_rt_" + base64url.encode(bytes((1, 1)) + secrets.token_bytes(64))
    for key in ("keyturn:session:x", f"keyturn:token:{forged}", f"session:{forged}", "keyturn:users:admin"):
        await attacker.set(key, '{"user_id":"admin"}')
    thief = Browser(with_redis.asgi)
    thief.jar = {REFRESH: forged}
    assert (await thief.refresh()).code == "no_session"


@pytest.mark.parametrize("kind", ["list", "text", "infinite", "negative"])
async def test_counters_of_another_kind(with_redis: Keyturn, attacker: Redis, kind: str) -> None:
    """Counters made unreadable are 503 or still count: never an error of ours, and never a login with a wrong password."""
    browser = await signed_up(with_redis)
    guesser = Browser(with_redis.asgi, email=browser.email)
    guesser.password = WRONG
    assert (await guesser.log_in()).code == "invalid_credentials"
    keys = await attacker.keys("*count*")
    assert keys
    for key in keys:
        await attacker.delete(key)
        if kind == "list":
            await attacker.lpush(key, "x")
        else:
            await attacker.set(key, {"text": "x", "infinite": "1e999", "negative": "-1000"}[kind])
    answer = await guesser.log_in()
    assert answer.code in {"unavailable", "throttled", "invalid_credentials"}
    assert (answer.code == "unavailable") == (kind in {"list", "text"})
    assert answer.cookies == {}
    assert (await browser.refresh()).status == 200


async def test_log_in_while_redis_is_gone(with_redis: Keyturn, redis_server: RedisServer, attacker: Redis) -> None:
    """Without its counters a login is 503 with Retry-After, not open; sessions go on."""
    await followed(attacker)
    browser = await signed_up(with_redis)
    redis_server.stop()
    try:
        for password in (PASSWORD, WRONG):
            guesser = Browser(with_redis.asgi, email=browser.email)
            guesser.password = password
            answer = await guesser.log_in()
            assert (answer.status, answer.code, answer.cookies) == (503, "unavailable", {})
            assert int(answer.header("retry-after")) >= 1
        assert (await browser.refresh()).status == 200
        assert (await browser.me()).status == 200
        assert (await browser.log_out()).status == 204
    finally:
        redis_server.start()


async def test_cancelled_requests_do_not_mix_up_replies(with_redis: Keyturn, attacker: Redis) -> None:
    """After requests that were cut off in mid-flight, everybody still gets their own answer (redis-py 2023)."""
    await followed(attacker)
    people = [await signed_up(with_redis) for _ in range(8)]

    async def cut_off(browser: Browser, checkpoints: int) -> None:
        log_in = Browser(with_redis.asgi, email=browser.email).log_in()
        asked = [asyncio.create_task(one) for one in (log_in, browser.copy().me(), browser.copy().sessions())]
        for _ in range(checkpoints):
            await asyncio.sleep(0)
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)

    for checkpoints in range(0, 40, 2):
        await cut_off(people[checkpoints % 8], checkpoints)
    async with anyio.create_task_group() as tasks:
        for person in people:
            tasks.start_soon(_own_answers, person)


async def _own_answers(person: Browser) -> None:
    for _ in range(3):
        assert (await person.me()).json()["user"]["email"] == person.email
        assert person.session_id in {one["id"] for one in await person.sessions()}
        fresh = Browser(person.application, email=person.email)
        assert (await fresh.log_in()).json()["user"]["email"] == person.email
