"""What the application brings and does not answer in time, or whose answer is lost: its user table, its claims, its sinks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from keyturn.access import AccessTokens
from keyturn.apart import Bounded
from keyturn.core.errors import InvalidToken, NoSession, SessionEnded, Unavailable
from keyturn.core.events import Event
from keyturn.core.model import RevokeReason, Session, User
from keyturn.runtime import Keyturn
from keyturn.sinks import BoundedSink
from keyturn.testing import FrozenClock
from tests.attacks.conftest import lighten, settings_of
from tests.attacks.support import PASSWORD, Browser
from tests.auth.interrupted_users import InterruptedUsers
from tests.databases import sqlite_database

pytestmark = pytest.mark.anyio


class Users(InterruptedUsers):
    """A table that answers no look-up by id while `hangs`, loses the answer to a change while `loses`, and takes all for one by `mistaken_for`."""

    hangs = False
    loses = False
    raises: BaseException | None = None
    mistaken_for: str | None = None

    async def get(self, user_id: str) -> User | None:
        """Read, or hang, or raise."""
        if self.hangs:
            await asyncio.Event().wait()
        if self.raises is not None:
            raise self.raises
        return await super().get(self.mistaken_for or user_id)

    async def replace_password_hash(self, user_id: str, old: str, new: str) -> bool:
        """Change it, and lose the answer if a test wants it."""
        changed = await super().replace_password_hash(user_id, old, new)
        if self.loses:
            assert changed
            raise ConnectionResetError
        return changed


class Claims:
    """A hook that hangs while `hangs`, and raises while `raises`."""

    hangs = False
    raises = False

    async def __call__(self, _user: User, _session: Session) -> dict[str, object]:
        """Add nothing, or hang, or raise."""
        if self.hangs:
            await asyncio.Event().wait()
        if self.raises:
            raise ConnectionResetError
        return {}


@asynccontextmanager
async def serving(directory: Path) -> AsyncGenerator[tuple[Keyturn, Users, Claims]]:
    """Run a node with a directory and a hook of the application's."""
    settings = settings_of(sqlite_database(directory))
    home = Keyturn(settings)
    users, claims = Users(home.engine, denylist_lifetime=home.policy.denylist_lifetime), Claims()
    node = Keyturn(settings, users=users, claims=claims)
    lighten(node)
    async with home.lifespan(), node.lifespan():
        yield node, users, claims


async def test_logins_while_claims_are_at_fault(tmp_path: Path) -> None:
    """They leave no session that nobody has: one try after another would push out those of the user's other browsers."""
    async with serving(tmp_path) as (node, _, claims):
        first = Browser(node.asgi)
        late = Browser(node.asgi, email=first.email)
        assert (await first.sign_up()).status == 201
        claims.raises = True
        for _ in range(node.policy.max_sessions):
            assert (await late.log_in()).status == 503
        claims.raises = False
        assert [session["current"] for session in await first.sessions()] == [True]
        assert (await first.refresh()).status == 200
        assert (await late.log_in()).status == 200


async def test_password_change_while_claims_are_at_fault(tmp_path: Path) -> None:
    """It is done, and told so: an error would have somebody try again with a password that is none any more."""
    async with serving(tmp_path) as (node, _, claims):
        browser = Browser(node.asgi)
        assert (await browser.sign_up()).status == 201
        claims.raises = True
        body = {"current_password": PASSWORD, "new_password": "another horse, another staple"}
        answer = await browser.send("POST", "/auth/password", body, bearer=True)
        assert (answer.status, answer.cookies) == (204, {})
        claims.raises = False
        assert (await browser.refresh()).status == 200
        browser.password = "another horse, another staple"
        assert (await browser.log_in()).status == 200


async def test_refresh_that_waits_for_the_application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a 503 and no request for ever; the browser keeps its session, and goes on with it once there is an answer."""
    async with serving(tmp_path) as (node, users, claims):
        browser = Browser(node.asgi)
        assert (await browser.sign_up()).status == 201
        for part in (users, claims):
            part.hangs = True
            with monkeypatch.context() as impatient:
                for bounded in (Bounded, AccessTokens):
                    impatient.setattr(bounded, "patience", 0.05)
                async with asyncio.timeout(10):
                    assert (await browser.refresh()).code == "unavailable"
            part.hangs = False
            assert (await browser.refresh()).status == 200


async def test_sink_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It changes no answer, and keeps neither the start nor the upkeep from going on; the log says what it was not told."""

    class Hanging:
        async def emit(self, event: Event) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr(BoundedSink, "patience", 0.05)
    clock = FrozenClock()
    node = Keyturn(settings_of(sqlite_database(tmp_path)), sinks=[Hanging()], database_clock=clock)
    lighten(node)
    async with asyncio.timeout(30), node.lifespan():
        browser = Browser(node.asgi)
        assert (await browser.sign_up()).status == 201
        assert (await browser.refresh()).status == 200
        clock.advance(node.policy.key_rotation_period)
        await node.signing.refresh()
    untold = [getattr(record, "event_type", None) for record in caplog.records if record.msg == "event sink failed"]
    assert untold == ["key_rotated", "signed_up", "signed_in", "refreshed", "key_rotated"]


async def test_directory_that_tells_of_somebody_else(tmp_path: Path) -> None:
    """It is a fault of the application: nobody is shown another user, and no password is compared with theirs or changed."""
    async with serving(tmp_path) as (node, users, _):
        ada, eve = Browser(node.asgi), Browser(node.asgi)
        for browser in (ada, eve):
            assert (await browser.sign_up()).status == 201
        users.mistaken_for = eve.user_id
        body = {"current_password": PASSWORD, "new_password": "another horse, another staple"}
        answers = [await ada.me(), await ada.refresh(), await ada.send("POST", "/auth/password", body, bearer=True)]
        assert [answer.code for answer in answers] == ["internal"] * 3
        users.mistaken_for = None
        assert (await ada.refresh()).status == 200
        for browser in (ada, eve):
            assert (await browser.log_in()).status == 200


class EmptyUsers(InterruptedUsers):
    """A table that can say how many are in it."""

    def __len__(self) -> int:
        return 0


async def test_directory_that_is_empty(tmp_path: Path) -> None:
    """It counts as false in Python, and is the application's all the same."""
    home = Keyturn(settings_of(sqlite_database(tmp_path)))
    users = EmptyUsers(home.engine, denylist_lifetime=home.policy.denylist_lifetime)
    node = Keyturn(settings_of(sqlite_database(tmp_path)), users=users)
    assert node.users is users
    for each in (home, node):
        await each.close()


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (asyncio.CancelledError(), 503),
        (Unavailable("users"), 503),
        (InvalidToken("of another service"), 500),
        (NoSession(), 500),
        (SessionEnded(RevokeReason.REVOKED), 500),
        (KeyError("id"), 500),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
async def test_refresh_while_the_directory_raises(tmp_path: Path, fault: BaseException, status: int) -> None:
    """Whatever it is: what it awaits was cancelled, or refused to it. The request is answered, and nobody is signed out."""
    async with serving(tmp_path) as (node, users, _):
        browser = Browser(node.asgi)
        assert (await browser.sign_up()).status == 201
        users.raises = fault
        for answer in (await browser.refresh(), await browser.send("GET", "/auth/me", bearer=True)):
            assert answer.status == status
            assert answer.cookies == {}
        users.raises = None
        assert (await browser.refresh()).status == 200


async def test_password_change_whose_answer_is_lost(tmp_path: Path) -> None:
    """The password may be another one by now: whoever signed in with the old one meanwhile is out as well."""
    async with serving(tmp_path) as (node, users, _):
        browser = Browser(node.asgi)
        other = Browser(node.asgi, email=browser.email)
        assert (await browser.sign_up()).status == 201
        users.before_change, users.loses = other.log_in, True
        body = {"current_password": PASSWORD, "new_password": "another horse, another staple"}
        answer = await browser.send("POST", "/auth/password", body, bearer=True)
        assert answer.status in {500, 503}
        assert (await other.refresh()).status == 401
        assert (await browser.refresh()).status == 200
