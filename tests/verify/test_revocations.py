"""A Verifier that follows the server's revocations refuses a token whose session has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from keyturn.core.errors import InvalidToken, Unavailable
from keyturn.runtime import Keyturn
from keyturn.settings import Settings
from keyturn.verify import Verifier
from tests.attacks.support import Browser
from tests.services import RedisServer, sqlite_url, wait_until
from tests.tokens.forge import sign
from tests.verify.publisher import Publisher

pytestmark = pytest.mark.anyio


def believed(verifier: Verifier, token: str) -> bool:
    """Say whether a token is believed, and not revoked; anything else is an error."""
    try:
        verifier.authenticate(token)
    except InvalidToken as refused:
        if refused.reason == "revoked":
            return False
        raise
    return True


@pytest.mark.parametrize("feed", ["sqlite", pytest.param("redis", marks=pytest.mark.services)])
async def test_logout(tmp_path: Path, publisher: Publisher, request: pytest.FixtureRequest, feed: str) -> None:
    """A logout at the server ends the token in a service beside it, by either feed."""
    database = sqlite_url(tmp_path)
    redis = request.getfixturevalue("redis_url") if feed == "redis" else None
    settings = Settings.load(
        env="development", database_url=database, base_url="https://auth.test", denylist=True, redis_url=redis
    )
    node = Keyturn(settings)
    async with node.lifespan():
        publisher.body, publisher.tagged = node.signing.jwks(node._clock()).body, False
        browser = Browser(node.asgi)
        assert (await browser.sign_up()).status == 201
        verifier = Verifier(
            "https://auth.test", jwks_url=f"{publisher.base}/.well-known/jwks.json", revocations=redis or database
        )
        try:
            assert await verifier.load_async()
            assert believed(verifier, browser.token)
            assert (await browser.log_out()).status == 204
            await asyncio.to_thread(wait_until, lambda: not believed(verifier, browser.token), 10, "the revocation")
        finally:
            await asyncio.to_thread(verifier.close)


@pytest.mark.services
async def test_feed_down_from_the_start(
    make_verifier: Callable[..., Verifier], redis_server: RedisServer, redis_url: str
) -> None:
    """Before anything is loaded no token is believed, and none refused: nobody can tell. It is tried on."""
    redis_server.kill9()
    verifier = make_verifier(revocations=redis_url, timeout=0.1)
    try:
        with pytest.raises(Unavailable):
            verifier.authenticate(sign())
        with pytest.raises(Unavailable):
            await verifier.authenticate_async(sign())
        assert not verifier.is_ready()
    finally:
        redis_server.restart()
    wait_until(verifier.is_ready, 30, "the feed")
    assert believed(verifier, sign())


def test_closed_and_used_again(make_verifier: Callable[..., Verifier], tmp_path: Path) -> None:
    """Closing stops the thread, also while there is nothing to follow yet; the next token begins anew."""
    verifier = make_verifier(revocations=sqlite_url(tmp_path / "missing"), timeout=0.05)
    for _ in range(2):
        with pytest.raises(Unavailable):
            verifier.authenticate(sign())
        verifier.close()


def test_feed_of_another_kind(make_verifier: Callable[..., Verifier]) -> None:
    """A URL that nobody can follow is told when the Verifier is made."""
    with pytest.raises(ValueError, match="mysql"):
        make_verifier(revocations="mysql://db/keyturn")
