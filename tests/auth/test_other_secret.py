"""A secret that does not open the signing keys in the database: told at the start, and by a node that runs."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator

import pytest
from fastapi import FastAPI

from keyturn.core.errors import NoSession, Unavailable
from keyturn.core.model import SessionId
from keyturn.exchange import Cookies, SignedIn
from keyturn.fastapi import install
from keyturn.runtime import Keyturn
from keyturn.settings import Settings
from keyturn.signing import SecretDoesNotFit
from keyturn.stores.signing_keys import SqlSigningKeys
from keyturn.tokens.refresh_token import RefreshTokens
from keyturn.tokens.sealed_key import NONCE_BYTES, seal
from keyturn.tokens.secret_ring import SecretRing
from keyturn.tokens.signing_key import KEY_ENTROPY_BYTES, SigningKey
from tests.auth.test_leaked_key import CONTACT, sign_up
from tests.services import wait_until
from tests.web.wsgi import call

pytestmark = pytest.mark.anyio

PASSWORD = "correct horse battery"


def new_node(url: str) -> Keyturn:
    """Make a node with a secret of its own."""
    return Keyturn(Settings.load(env="development", database_url=url, secret=SecretRing.generate(os.urandom(32))))


@pytest.fixture
async def running(database_url: str) -> AsyncGenerator[Keyturn]:
    """A node whose key is in the database."""
    node = new_node(database_url)
    async with node.lifespan():
        yield node


async def test_application_with_another_secret(running: Keyturn, database_url: str) -> None:
    """An ASGI application does not start, and says why."""
    app = FastAPI()
    install(app, new_node(database_url))
    with pytest.raises(SecretDoesNotFit, match="KEYTURN_SECRET"):
        async with app.router.lifespan_context(app):
            pass
    assert await sign_up(running, "ada@example.com")


async def test_threads_with_another_secret(running: Keyturn, database_url: str) -> None:
    """A node of threads says why at its start and at each request: what is no outage is no 503 that asks to come back."""
    node = new_node(database_url)
    try:
        with pytest.raises(SecretDoesNotFit, match="KEYTURN_SECRET"):
            node.threaded.start()
        for path in ("/readyz", "/auth/me"):
            with pytest.raises(SecretDoesNotFit, match="KEYTURN_SECRET"):
                call(node.wsgi, "GET", path)
    finally:
        node.threaded.close()
    assert await sign_up(running, "ada@example.com")


async def test_keys_of_another_secret_under_a_running_node(
    database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It goes on with the keys it has, leaves those of the other, and says in its log that somebody has to act."""
    monkeypatch.setattr("keyturn.upkeep.UPKEEP_INTERVAL", 0.05)
    now = time.time()
    key = SigningKey.generate(os.urandom(KEY_ENTROPY_BYTES), created_at=now, publish_at=now, activate_at=now)
    foreign = [seal(key, SecretRing({1: os.urandom(32)}), os.urandom(NONCE_BYTES))]
    node = new_node(database_url)
    async with node.lifespan():
        token = await sign_up(node, "ada@example.com")
        store = SqlSigningKeys(node.engine)
        await store.change(lambda _found, _now: (foreign, ()))

        def is_told() -> bool:
            return any("operator: KEYTURN_SECRET opens no signing key" in entry.message for entry in caplog.records)

        await asyncio.to_thread(wait_until, is_told, 30, "the upkeep")
        assert (await store.load())[0] == foreign
        assert all((await node.ready()).values())
        later = await sign_up(node, "grace@example.com")
        assert [node.authenticate(each).amr for each in (token, later)] == [("pwd",)] * 2
    assert not any(entry.exc_info for entry in caplog.records)


async def test_first_line_that_another_node_has_alone(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is signed out where the steps of a new secret are taken in the wrong order, or one node is forgotten: the node
    that lacks the line is not ready, and what it cannot read there is a fault.
    """
    monkeypatch.setattr("keyturn.upkeep.UPKEEP_INTERVAL", 0.05)
    old, new = (SecretRing.generate(os.urandom(32), key_id) for key_id in (1, 2))
    behind, ahead = (
        Keyturn(Settings.load(env="development", database_url=database_url, secret=lines))
        for lines in (old, f"{new}\n{old}")
    )
    garbage = RefreshTokens({3: bytes(32)}, 3).minter(bytes(16))(SessionId(bytes(16)), 0, 1.0, bytes(8)).text
    async with behind.lifespan(), ahead.lifespan():
        before, after = await open_at(behind, "ada@example.com"), await open_at(ahead, "grace@example.com")
        async with asyncio.timeout(30):
            while (await behind.ready())["signing"]:
                pass
        for use in (
            lambda: behind.auth.refresh(after, CONTACT),
            lambda: behind.auth.render(after, CONTACT),
            lambda: behind.auth.log_out(after),
        ):
            with pytest.raises(Unavailable) as refused:
                await use()
            assert refused.value.dependency == "secret"
        assert (await ahead.ready())["signing"]
        for node, cookies in ((ahead, after), (ahead, before), (behind, before)):
            assert (await node.auth.refresh(cookies, CONTACT)).access_token
        with pytest.raises(NoSession):
            await behind.auth.refresh(Cookies((garbage.encode(),)), CONTACT)
        # The line is taken back: whoever starts with the old one as the first seals the keys under it again.
        await ahead.close()
        back = Settings.load(env="development", database_url=database_url, secret=f"{old}\n{new}")
        async with Keyturn(back).lifespan(), asyncio.timeout(30):
            while not (await behind.ready())["signing"]:
                pass


async def test_login_beside_a_cookie_that_another_node_can_read(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that cannot read the browser's cookie says so before it counts an attempt or signs anybody up."""
    monkeypatch.setattr("keyturn.upkeep.UPKEEP_INTERVAL", 0.05)
    old, new = (SecretRing.generate(os.urandom(32), key_id) for key_id in (1, 2))
    behind, ahead = (
        Keyturn(Settings.load(env="development", database_url=database_url, secret=lines))
        for lines in (old, f"{new}\n{old}")
    )
    async with behind.lifespan(), ahead.lifespan():
        await open_at(behind, "ada@example.com")
        cookies = await open_at(ahead, "grace@example.com")
        async with asyncio.timeout(30):
            while (await behind.ready())["signing"]:
                pass
        for _ in range(2 * behind.policy.account_failures):
            with pytest.raises(Unavailable):
                await log_in(behind, "ada@example.com", cookies)
        assert (await log_in(behind, "ada@example.com", Cookies())).refresh_token
        with pytest.raises(Unavailable):
            await open_at(behind, "new@example.com", cookies)
        assert (await open_at(ahead, "new@example.com", cookies)).refresh


async def open_at(node: Keyturn, email: str, cookies: Cookies = Cookies()) -> Cookies:  # noqa: B008 - it is frozen
    """Sign up and return the cookie."""
    opened = await node.auth.sign_up(
        email, PASSWORD, None, remember=False, device_name=None, contact=CONTACT, cookies=cookies
    )
    return Cookies((str(opened.refresh_token).encode(),))


async def log_in(node: Keyturn, email: str, cookies: Cookies) -> SignedIn:
    """Sign in with the right password."""
    return await node.auth.log_in(email, PASSWORD, remember=False, device_name=None, contact=CONTACT, cookies=cookies)
