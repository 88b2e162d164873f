"""A Verifier that follows the server's revocations refuses a token whose session has ended."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import pytest

from keyturn.core.errors import InvalidToken, Unavailable
from keyturn.runtime import Keyturn
from keyturn.settings import Settings
from keyturn.stores.migrations import migrate
from keyturn.stores.redis import RedisFeed
from keyturn.stores.revocations import MemoryDenylist
from keyturn.verify import Verifier, background
from keyturn.verify.background import FollowedDenylist, Waits
from tests.attacks.support import Browser
from tests.machine import Machine
from tests.services import RedisServer, sqlite_url, wait_until
from tests.tokens.forge import SESSION_ID, sign
from tests.verify.conftest import no_threads
from tests.verify.publisher import PATIENCE, Publisher

pytestmark = pytest.mark.anyio

NOBODY = "redis://127.0.0.1:1"
"""A feed that is never there."""


def believed(verifier: Verifier, token: str) -> bool:
    """Say whether a token is believed, and not revoked; anything else is an error."""
    try:
        verifier.authenticate(token)
    except InvalidToken as refused:
        if refused.reason == "revoked":
            return False
        raise
    return True


def knows(verifier: Verifier, session_id: str) -> bool:
    """Say whether a revocation has arrived."""
    assert verifier._denylist is not None
    return session_id in verifier._denylist


@pytest.mark.parametrize("feed", ["sqlite", pytest.param("redis", marks=pytest.mark.services)])
async def test_logout(tmp_path: Path, publisher: Publisher, request: pytest.FixtureRequest, feed: str) -> None:
    """A logout at the server ends the token in a service beside it, by either feed, also when its clock is wrong for a while."""
    database = sqlite_url(tmp_path)
    redis = request.getfixturevalue("redis_url") if feed == "redis" else None
    settings = Settings.load(
        env="development", database_url=database, base_url="https://auth.test", denylist=True, redis_url=redis
    )
    node, machine = Keyturn(settings), Machine(0.0)
    async with node.lifespan():
        publisher.body, publisher.tagged = node.signing.jwks(node.clock()).body, False
        browser = Browser(node.asgi)
        assert (await browser.sign_up()).status == 201
        verifier = Verifier(
            "https://auth.test",
            jwks_url=f"{publisher.base}/.well-known/jwks.json",
            revocations=redis or database,
            timeout=PATIENCE,
            clock=machine,
        )
        try:
            assert await verifier.load_async()
            assert believed(verifier, browser.token)
            assert (await browser.log_out()).status == 204
            await asyncio.to_thread(
                wait_until, lambda: not believed(verifier, browser.token), PATIENCE, "the revocation"
            )
            # This service's clock jumps ahead, and is set right again: what was revoked stays so.
            other = Browser(node.asgi)
            assert (await other.sign_up()).status == 201
            assert believed(verifier, other.token)
            machine.wrong = 86400.0
            assert (await other.log_out()).status == 204
            await asyncio.to_thread(wait_until, lambda: knows(verifier, other.session_id), PATIENCE, "the revocation")
            machine.wrong = 0.0
            assert not believed(verifier, browser.token)
            assert not believed(verifier, other.token)
        finally:
            await asyncio.to_thread(verifier.close)


@contextmanager
def following(url: str, patience: float = 0.1) -> Iterator[FollowedDenylist]:
    """Follow a feed, with little patience."""
    denylist = FollowedDenylist(url, patience=patience, clock=time.time)
    try:
        yield denylist
    finally:
        denylist.close()


@pytest.mark.services
def test_feed_down_from_the_start(
    redis_server: RedisServer, redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Before anything is loaded nobody can tell what is revoked, and nobody waits twice for it. It is tried on, however long."""
    impatient: Callable[..., MemoryDenylist] = lambda url, clock: MemoryDenylist(  # noqa: E731
        RedisFeed(url, clock=clock), clock=clock, start_timeout=0.1
    )
    monkeypatch.setattr(background, "open_denylist", impatient)
    redis_server.kill9()
    with following(redis_url) as denylist:
        try:
            with pytest.raises(Waits) as waits:
                assert "x" in denylist
            waits.value.begin().wait()
            with pytest.raises(Unavailable) as refused:
                assert "x" in denylist
            assert not isinstance(refused.value, Waits)
            assert not denylist.is_loaded
            wait_until(
                lambda: "no revocations could be loaded yet" in caplog.messages, PATIENCE, "an end of the patience"
            )
        finally:
            redis_server.restart()
        wait_until(lambda: denylist.is_loaded, PATIENCE, "the feed")
        assert "x" not in denylist


def test_questions_while_the_first_load_is_under_way() -> None:
    """They wait for it as the first one does, and are not refused."""
    with following(NOBODY, PATIENCE) as denylist:
        with pytest.raises(Waits) as first:
            assert "x" in denylist
        pending = first.value.begin()
        with pytest.raises(Waits) as second:
            assert "x" in denylist
        assert second.value.begin() is pending


async def test_closed_and_used_again(caplog: pytest.LogCaptureFixture) -> None:
    """Closing stops the thread and what runs in it, also while there is nothing to follow; the next question begins anew."""
    with following(NOBODY) as denylist:
        for _ in range(2):
            with pytest.raises(Waits) as waits:
                assert "x" in denylist
            await waits.value.begin().wait_async()
            threads = [thread for thread in threading.enumerate() if thread.name == "keyturn revocations"]
            assert len(threads) == 1
            denylist.close()
            assert not threads[0].is_alive()
    gc.collect()
    assert "destroyed" not in caplog.text


def test_verifier_without_its_feed(make_verifier: Callable[..., Verifier]) -> None:
    """A token is neither believed nor refused while nobody can tell whether it was revoked."""
    verifier = make_verifier(revocations=NOBODY, timeout=0.1)
    with pytest.raises(Unavailable):
        verifier.authenticate(sign())
    assert not verifier.is_ready()


@pytest.fixture
def database(tmp_path: Path) -> str:
    """A database in which nothing is revoked yet."""
    url = sqlite_url(tmp_path)
    asyncio.run(migrate(url))
    return url


def test_first_token(database: str, make_verifier: Callable[..., Verifier]) -> None:
    """It waits for the keys, and then for the revocations, in either way of asking."""
    assert believed(make_verifier(revocations=database), sign())
    assert asyncio.run(make_verifier(revocations=database).authenticate_async(sign())).user_id == "ada"


def revoke(directory: Path) -> None:
    """Put the session of the tokens on the list, as the server does."""
    with closing(sqlite3.connect(directory / "keyturn.db")) as connection, connection:
        now = time.time()
        row = (SESSION_ID.hex(), now, now + 600)
        connection.execute("INSERT INTO keyturn_denylist (id, created_at, expires_at) VALUES (?, ?, ?)", row)


def test_forked_worker(database: str, tmp_path: Path, make_verifier: Callable[..., Verifier]) -> None:
    """A worker whose parent had loaded the revocations before it forked follows them by itself."""
    verifier = make_verifier(revocations=database)
    assert verifier.load()
    assert believed(verifier, sign())
    child = os.fork()
    if child == 0:
        status = 1
        try:
            wait_until(lambda: not believed(verifier, sign()), PATIENCE, "the revocation")
            status = 0
        finally:
            os._exit(status)
    revoke(tmp_path)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_probe_of_a_forked_worker(database: str, make_verifier: Callable[..., Verifier]) -> None:
    """A worker to which nothing is sent before it is ready follows revocations from the first probe on."""
    verifier = make_verifier(revocations=database)
    assert verifier.load()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            assert not verifier.is_ready()
            wait_until(verifier.is_ready, PATIENCE, "the revocations")
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_revoked_token_while_the_verifier_is_closed(
    database: str, tmp_path: Path, make_verifier: Callable[..., Verifier]
) -> None:
    """Whoever checks it between any two lines of closing never finds it good, as threads may at the end of a program."""
    revoke(tmp_path)
    verifier = make_verifier(revocations=database)
    denylist = verifier._denylist
    assert denylist is not None
    assert verifier.load()
    answers: list[bool] = []

    def check(frame: FrameType, _event: str, _argument: object) -> Any:
        if frame.f_code is FollowedDenylist.forget.__code__:
            with suppress(Unavailable):
                answers.append(SESSION_ID.hex() in denylist)
        return check

    former = sys.gettrace()
    sys.settrace(check)
    try:
        denylist.close()
    finally:
        sys.settrace(former)
    assert set(answers) == {True}


def test_closed_by_several_threads(database: str, make_verifier: Callable[..., Verifier]) -> None:
    """Each of them comes back, and nothing goes on; it may be used again."""
    verifier = make_verifier(revocations=database)
    for _ in range(10):
        assert verifier.load()
        with ThreadPoolExecutor(4) as threads:
            for closed in [threads.submit(verifier.close) for _ in range(4)]:
                closed.result(PATIENCE)
        assert not [thread for thread in threading.enumerate() if thread.name == "keyturn revocations"]
    assert believed(verifier, sign())


def test_process_that_closes_nothing(database: str, publisher: Publisher) -> None:
    """It ends all the same."""
    program = """
import sys
from keyturn.verify import Verifier

print(Verifier("https://auth.test", jwks_url=sys.argv[1], revocations=sys.argv[2], timeout=30).load())
"""
    command = [sys.executable, "-c", program, f"{publisher.base}/.well-known/jwks.json", database]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE, check=True)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_no_thread_to_follow_in(database: str, make_verifier: Callable[..., Verifier]) -> None:
    """Where the system gives no thread it is a fault like any other, nothing is left open, and the next token tries anew."""
    verifier = make_verifier(revocations=database)
    verifier._fetching.begin().wait()
    before = psutil.Process().num_fds()
    with no_threads():
        for _ in range(2):
            with pytest.raises(Unavailable) as refused:
                verifier.authenticate(sign())
            assert refused.value.dependency == "revocations"
        assert not verifier.load()
        verifier.close()
    assert psutil.Process().num_fds() <= before
    assert believed(verifier, sign())


def test_no_file_to_follow_with(make_verifier: Callable[..., Verifier], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is it a fault of another kind where the process has all the files open that it may."""
    verifier = make_verifier(revocations="redis://127.0.0.1:1/0")
    verifier._fetching.begin().wait()

    def refuse() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patched:
        patched.setattr(asyncio, "new_event_loop", refuse)
        with pytest.raises(Unavailable) as refused:
            verifier.authenticate(sign())
        assert refused.value.dependency == "revocations"
        assert not verifier.load()
    assert verifier._denylist is not None
    assert not verifier._denylist.begin().future.done()


def test_feed_of_another_kind(make_verifier: Callable[..., Verifier]) -> None:
    """A URL that nobody can follow is told when the Verifier is made."""
    with pytest.raises(ValueError, match="mysql"):
        make_verifier(revocations="mysql://db/keyturn")


@pytest.mark.parametrize(("kind", "driver"), [("postgresql", "asyncpg"), ("sqlite", "aiosqlite")])
def test_driver_that_is_not_installed(
    kind: str, driver: str, make_verifier: Callable[..., Verifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told when the Verifier is made: the feed took it for a database that is away, and every token was a 503."""
    monkeypatch.setitem(sys.modules, driver, None)
    with pytest.raises(ModuleNotFoundError, match=driver):
        make_verifier(revocations=f"{kind}:///keyturn")
