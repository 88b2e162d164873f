"""A signing key that leaked: what it has signed, and signs from then on, counts nowhere."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import NamedTuple

import anyio
import pytest

from keyturn.core.errors import InvalidToken
from keyturn.core.model import Contact
from keyturn.exchange import Cookies
from keyturn.runtime import Keyturn
from keyturn.settings import Settings
from keyturn.stores.revocations import open_denylist
from keyturn.tokens.access_token import AccessTokenVerifier
from keyturn.tokens.secret_ring import SecretRing
from keyturn.tokens.verified_cache import VerifiedTokenCache
from keyturn.upkeep import UPKEEP_INTERVAL
from keyturn.verify.keys import KEEP_TIME
from tests.attacks.support import query
from tests.services import wait_until

pytestmark = pytest.mark.anyio

CONTACT = Contact("203.0.113.7", "Mozilla/5.0", "Firefox on Windows")


class Nodes(NamedTuple):
    """Two running nodes over one database."""

    url: str
    one: Keyturn
    other: Keyturn


@pytest.fixture(params=[None, pytest.param("redis_url", marks=pytest.mark.services)], ids=["database", "redis"])
async def nodes(database_url: str, request: pytest.FixtureRequest) -> AsyncGenerator[Nodes]:
    """Start both, with a Redis or without."""
    redis_url = request.getfixturevalue(request.param) if request.param else None
    settings = Settings.load(
        env="development",
        database_url=database_url,
        redis_url=redis_url,
        secret=SecretRing.generate(os.urandom(32)),
    )
    async with AsyncExitStack() as stack:
        one, other = Keyturn(settings), Keyturn(settings)
        for node in (one, other):
            await stack.enter_async_context(node.lifespan())
        yield Nodes(database_url, one, other)


async def sign_up(node: Keyturn, email: str) -> str:
    """Create a user and return their access token."""
    signed_in = await node.auth.sign_up(
        email, "correct horse battery", None, remember=False, device_name=None, contact=CONTACT, cookies=Cookies()
    )
    return signed_in.access_token


def believes(node: Keyturn | VerifiedTokenCache, token: str, now: float) -> bool:
    """Say whether an access token is accepted."""
    try:
        node.authenticate(token) if isinstance(node, Keyturn) else node.authenticate(token, now)
    except InvalidToken:
        return False
    return True


async def test_leak(nodes: Nodes) -> None:
    """The other node and a service refuse the leaked key's tokens long before the next upkeep, and the node signs with the
    new key, which both accept.
    """
    _, one, other = nodes
    token = await sign_up(other, "ada@example.com")
    leaked = other.signing.signing_key(other.auth.clock())
    denylist = open_denylist(nodes.url)
    await denylist.start()
    # A service that goes on with the keys it once fetched, as one does that cannot reach the server.
    keys = {leaked.kid: leaked.public_key}
    issuer = one.settings.issuer_or_default
    service = VerifiedTokenCache(AccessTokenVerifier(keys, issuer, one.settings.audience_or_default), revoked=denylist)
    now = other.auth.clock()
    assert believes(one, token, now)
    assert believes(other, token, now)
    assert believes(service, token, now)

    new = await one.signing.rotate(compromised=True)
    [(denied, lasts)] = await query(one, "SELECT id, expires_at - created_at FROM keyturn_denylist")
    # For as long as such a service goes by those keys.
    assert (denied, round(lasts)) == (leaked.kid, KEEP_TIME)

    def is_gone() -> bool:
        refused = not believes(other, token, now) and not believes(service, token, now)
        return refused and other.signing.signing_key(now).kid == new.kid

    await asyncio.to_thread(wait_until, is_gone, UPKEEP_INTERVAL / 4, "the end of the leaked key")
    assert not believes(one, token, now)
    token = await sign_up(other, "grace@example.com")
    assert believes(one, token, now)
    assert believes(other, token, now)
    await denylist.close()


async def test_leak_while_a_node_prunes(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long that takes, it goes on to the new key at once: what it signs with the leaked one is refused everywhere."""
    settings = Settings.load(env="development", database_url=postgres_url, secret=SecretRing.generate(os.urandom(32)))
    one, pruning = Keyturn(settings), Keyturn(settings)
    waiting = "SELECT waitstart FROM pg_locks WHERE relation = 'keyturn_counters'::regclass AND waitstart IS NOT NULL"

    async def wait_until_it_prunes() -> object:
        while not (found := await query(one, waiting)):  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.01)
        return found

    async def wait_until_it_signs_with(kid: str) -> None:
        while pruning.signing.signing_key(pruning.clock()).kid != kid:  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.01)

    async with one.lifespan():
        await query(one, "SELECT 1")  # by then its own upkeep has begun to wait
        monkeypatch.setattr("keyturn.upkeep.UPKEEP_INTERVAL", 0.05)
        async with pruning.lifespan(), one.engine.transaction() as connection:
            await connection.exec_driver_sql("LOCK TABLE keyturn_counters")
            with anyio.fail_after(30):
                since = await wait_until_it_prunes()
                await wait_until_it_signs_with((await one.signing.rotate(compromised=True)).kid)
            assert await query(one, waiting) == since


async def test_rotation_without_a_leak(nodes: Nodes) -> None:
    """It denies nothing: the old key's tokens live on."""
    _, one, other = nodes
    token = await sign_up(other, "ada@example.com")
    await one.signing.rotate()
    assert await query(one, "SELECT id FROM keyturn_denylist") == []
    await other.signing.refresh()
    assert believes(other, token, other.auth.clock())
