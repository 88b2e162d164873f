"""A node that is started again after its end: on another event loop, as an application's own tests do it, or by a later version."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from keyturn.core.errors import UnsafeSettings
from keyturn.core.events import Event, EventType
from keyturn.core.model import Contact
from keyturn.devices import describe
from keyturn.exchange import Cookies
from keyturn.fastapi import CurrentPrincipal, install
from keyturn.runtime import Keyturn
from keyturn.stores.migrations import migrate
from tests.attacks.conftest import settings_of
from tests.attacks.support import ORIGIN
from tests.services import sqlite_url, wait_until
from tests.verify.publisher import PATIENCE
from tests.web.conftest import BROWSER, PASSWORD

LIVES = 2
CONTACT = Contact("203.0.113.7", "Mozilla/5.0", "Firefox on Windows")


def test_application_under_two_test_clients(database_url: str) -> None:
    """One `with TestClient(app)` may follow upon another: users, sessions and tokens stay, and what ends them works."""
    app = FastAPI()
    install(app, Keyturn(settings_of(database_url, denylist=True)), operations=True)

    @app.get("/hello")
    async def hello(me: CurrentPrincipal) -> str:
        return me.user_id

    credentials = {"email": "ada@example.com", "password": PASSWORD}
    with TestClient(app, base_url=ORIGIN, headers=BROWSER) as client:
        first = client.post("/auth/signup", json=credentials)
        assert first.status_code == 201
    for _ in range(LIVES):
        with TestClient(app, base_url=ORIGIN, headers=BROWSER) as client:
            assert client.get("/readyz").status_code == 200
            second = client.post("/auth/login", json=credentials)
            assert second.status_code == 200
            assert client.post("/auth/refresh").status_code == 200
            assert client.post("/auth/logout").status_code == 204
            for answer, status in ((first, 200), (second, 401)):
                bearer = {"authorization": f"Bearer {answer.json()['access_token']}"}
                assert client.get("/hello", headers=bearer).status_code == status


def test_two_browsers_at_once(tmp_path: Path) -> None:
    """A second test client on the event loop of the first is another browser, as `docs/guides/application.md` says."""
    app = FastAPI()
    install(app, Keyturn(settings_of(sqlite_url(tmp_path))))
    credentials = {"email": "ada@example.com", "password": PASSWORD}
    with TestClient(app, base_url=ORIGIN, headers=BROWSER) as ada:
        bob = TestClient(app, base_url=ORIGIN, headers=BROWSER)
        bob.portal = ada.portal
        assert ada.post("/auth/signup", json=credentials).status_code == 201
        assert bob.post("/auth/refresh").status_code == 401
        assert bob.post("/auth/login", json=credentials).status_code == 200
        assert [browser.post("/auth/refresh").status_code for browser in (ada, bob)] == [200, 200]


@pytest.mark.parametrize("redis", [False, pytest.param(True, marks=pytest.mark.services)])
def test_whatever_waits(database_url: str, redis: bool, request: pytest.FixtureRequest) -> None:
    """Hashes, writers, groups and key changes wait for each other, and the upkeep for a leak, on whichever loop it is."""
    redis_url = request.getfixturevalue("redis_url") if redis else None
    settings = settings_of(database_url, denylist=True, redis_url=redis_url)
    node, other = Keyturn(settings), Keyturn(settings)

    async def sign_up(name: str) -> None:
        email = f"{name}@example.com"
        await node.auth.sign_up(
            email, PASSWORD, None, remember=False, device_name=None, contact=CONTACT, cookies=Cookies()
        )

    async def live(number: int) -> None:
        async with node.lifespan(), other.lifespan():
            await asyncio.gather(*(sign_up(f"ada{number}-{each}") for each in range(8)))
            event = Event(EventType.CONTROL_FAULT, node.clock(), data={})
            await asyncio.gather(*(node.sessions.record(event) for _ in range(8)))
            await asyncio.gather(*(node.signing.refresh() for _ in range(8)))
            leaked = node.signing.signing_key(node.clock()).kid
            await other.signing.rotate(compromised=True)
            await asyncio.to_thread(
                wait_until, lambda: leaked not in {key.kid for key in node.signing.ring.keys}, PATIENCE, "the new key"
            )

    for number in range(LIVES):
        asyncio.run(live(number))


@pytest.mark.anyio
async def test_starts_that_come_together(database_url: str) -> None:
    """Two parts of an application may start a node at once: it is started once, and its end leaves nothing behind."""
    before = asyncio.all_tasks()
    node = Keyturn(settings_of(database_url, denylist=True))
    await asyncio.gather(node.start(), node.start())
    upkeep = [task for task in asyncio.all_tasks() - before if task.get_name() == "keyturn upkeep"]
    await node.close()
    assert len(upkeep) == 1
    assert upkeep[0].done()


def test_names_of_devices_before_the_first_login(tmp_path: Path) -> None:
    """What they are made of is loaded soon after a start, without anybody who waits for it."""
    node = Keyturn(settings_of(sqlite_url(tmp_path)))
    describe.cache_clear()

    async def live() -> None:
        async with node.lifespan(), asyncio.timeout(PATIENCE):
            while not describe.cache_info().currsize:  # noqa: ASYNC110 - nobody tells of it
                await asyncio.sleep(0.01)

    asyncio.run(live())


def test_event_loop_that_is_not_its_own(database_url: str) -> None:
    """Whoever asks a running node from another event loop is told what to do, and harms nobody who asks it on its own."""
    node = Keyturn(settings_of(database_url))

    async def ask() -> None:
        assert await asyncio.gather(*(node.users.find(f"ada{each}@example.com") for each in range(8))) == [None] * 8
        assert await node.auth.end_user_sessions("1") == 0

    def elsewhere(use: Callable[[], Coroutine[Any, Any, None]]) -> None:
        asyncio.run(use())

    async def live() -> None:
        async with node.lifespan():
            await ask()
            for use in (ask, node.start, node.close):
                with pytest.raises(RuntimeError, match=r"another event loop.*run_coroutine_threadsafe"):
                    await asyncio.to_thread(elsewhere, use)
            await ask()

    asyncio.run(live())
    asyncio.run(live())


@pytest.mark.parametrize("begin", [lambda node: node.start(), lambda node: node.users.find("ada@example.com")])
def test_node_that_was_not_closed(tmp_path: Path, begin: Callable[[Keyturn], Coroutine[Any, Any, object]]) -> None:
    """The next event loop is told so, and not that a loop is closed; once it was closed on its own, the node starts there."""
    url = sqlite_url(tmp_path)
    asyncio.run(migrate(url))
    node = Keyturn(settings_of(url))
    with asyncio.Runner() as first:
        first.run(begin(node))
        with pytest.raises(RuntimeError, match=r"another event loop.*await node\.close"):
            live_shortly(node)
        first.run(node.close())
    live_shortly(node)


def live_shortly(node: Keyturn) -> None:
    """Start a node and close it, as an ASGI host does."""

    async def live() -> None:
        async with node.lifespan():
            pass

    asyncio.run(live())


@pytest.mark.parametrize("start", [live_shortly, lambda node: node.threaded.start()], ids=["lifespan", "threaded"])
def test_start_after_one_that_failed(tmp_path: Path, start: Callable[[Keyturn], None]) -> None:
    """A node that could not start lets go of the file that it found, so that the next try may find another in its place."""
    there, made = tmp_path / "there", tmp_path / "made"
    there.mkdir()
    made.mkdir()
    node = Keyturn(settings_of(sqlite_url(there), migrate=False))
    (there / "keyturn.db").touch()
    with pytest.raises(UnsafeSettings, match="database_not_migrated"):
        start(node)
    asyncio.run(migrate(sqlite_url(made)))
    (made / "keyturn.db").replace(there / "keyturn.db")
    start(node)
    node.threaded.close()


def test_tokens_of_an_earlier_version(tmp_path: Path) -> None:
    """A node with the same master secret knows what one of today has given out: else an upgrade signs everybody out."""
    auth = Keyturn(settings_of(sqlite_url(tmp_path))).auth
    refresh_token = auth.refresh_tokens.read(
        b"kt_rt_AQEQERITFBUWFxgZGhscHR4fAAAAB2VT8QAAAQIDBAUGBwABAgMEBQYHCAkKCwwNDg_-uLqHwZGRbfVxdkfBzRDi"
    )
    assert refresh_token is not None
    assert (refresh_token.session_id, refresh_token.generation) == (bytes(range(16, 32)), 7)
    assert auth.device_tokens.read(b"kt_dv_AQEAAQIDBAUGBwgJCgsMDQ4PqlnCaxXaOoqlCbDwrUuxmA") == bytes(range(16))
