"""What comes in the middle of a use case: whoever asks again after a fault gets what they asked for, nobody is signed out
by one, and nobody is served who has gone.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from sqlalchemy.exc import OperationalError

from keyturn.core.errors import InvalidCredentials, InvalidToken, SessionEnded, Throttled, Unavailable
from keyturn.core.events import Event, EventType
from keyturn.core.model import Contact, Session, User
from keyturn.exchange import Cookies, SignedIn
from keyturn.runtime import Keyturn
from keyturn.settings import Settings
from keyturn.stores.engine import open_engine
from keyturn.stores.users import SqlUsers
from keyturn.tokens.secret_ring import SecretRing
from keyturn.web.messages import ClientGone
from tests.attacks.conftest import lighten

pytestmark = pytest.mark.anyio

EMAIL = "ada@example.com"
PASSWORD = "correct horse battery staple"
NEW_PASSWORD = "another horse, another staple"
CONTACT = Contact("203.0.113.7", "Mozilla/5.0", "Firefox on Windows")

# The database itself fails: at the second session that a login, a logout or a change of the password ends, or at an event.
_FAULT_SQLITE = (
    """CREATE TRIGGER fault BEFORE INSERT ON {table}
    WHEN (SELECT count(*) FROM {table}) >= {rows} BEGIN SELECT json('{{'); END""",
)
_FAULT_POSTGRES = (
    """CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF (SELECT count(*) FROM {table}) >= {rows} THEN RAISE SQLSTATE '58030'; END IF; RETURN NEW; END $$""",
    """CREATE TRIGGER fault BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION fail()""",
)

FAULT = (Unavailable, OperationalError)
"""SQLite has no trigger that fails as a disk does: this one is a mistake, and comes through as such."""


class Sink:
    """Remembers events."""

    def __init__(self) -> None:
        self.seen: list[Event] = []

    async def emit(self, event: Event) -> None:
        """Take one."""
        self.seen.append(event)

    def count(self, kind: EventType) -> int:
        """Count those of a kind."""
        return sum(event.type is kind for event in self.seen)


class Claims:
    """A claims hook that adds nothing, or fails as an application's code may."""

    fail = False

    async def __call__(self, _user: User, _session: Session) -> Mapping[str, object]:
        """Add claims."""
        if self.fail:
            raise RuntimeError("the application's own database is down")
        return {}


class Subject:
    """A running node, and a fault to switch on."""

    def __init__(self, node: Keyturn, sink: Sink, claims: Claims) -> None:
        self.node = node
        self.sink = sink
        self.claims = claims

    async def sign_up(self) -> SignedIn:
        """Create the user."""
        return await self.node.auth.sign_up(
            EMAIL, PASSWORD, None, remember=False, device_name=None, contact=CONTACT, cookies=Cookies()
        )

    async def log_in(self, password: str = PASSWORD, older: SignedIn | None = None) -> SignedIn:
        """Sign in, in a browser that may have an older session."""
        cookies = Cookies() if older is None else cookies_of(older)
        return await self.node.auth.log_in(
            EMAIL, password, remember=False, device_name=None, contact=CONTACT, cookies=cookies
        )

    async def is_alive(self, signed_in: SignedIn) -> bool:
        """Say whether a session can refresh."""
        try:
            await self.node.auth.refresh(cookies_of(signed_in), CONTACT)
        except SessionEnded:
            return False
        return True

    @asynccontextmanager
    async def fault(self, table: str = "keyturn_denylist", rows: int = 1) -> AsyncGenerator[None]:
        """Let the database fail when a table that has so many rows is given one more."""
        engine = self.node.engine
        postgres = engine.postgres
        async with engine.autocommit() as connection:
            for statement in _FAULT_POSTGRES if postgres else _FAULT_SQLITE:
                await connection.exec_driver_sql(statement.format(table=table, rows=rows))
        yield
        async with engine.autocommit() as connection:
            await connection.exec_driver_sql(f"DROP TRIGGER fault{f' ON {table}' if postgres else ''}")


def cookies_of(signed_in: SignedIn) -> Cookies:
    """Return what the browser sends."""
    assert signed_in.refresh_token is not None
    return Cookies([signed_in.refresh_token.encode()])


@pytest.fixture(params=["own", "application's"])
async def subject(request: pytest.FixtureRequest, database_url: str) -> AsyncGenerator[Subject]:
    """A node with the built-in directory, and one with a directory that it knows nothing about."""
    settings = Settings.load(env="development", database_url=database_url, secret=SecretRing.generate(os.urandom(32)))
    sink = Sink()

    engine = open_engine(database_url)
    users = None if request.param == "own" else SqlUsers(engine, denylist_lifetime=730.0)
    claims = Claims()
    node = Keyturn(settings, users=users, sinks=[sink], claims=claims)
    lighten(node)
    async with node.lifespan():
        yield Subject(node, sink, claims)
    await engine.close()


async def test_logout_everywhere_again_after_a_fault(subject: Subject) -> None:
    """When the database fails in the middle nothing has ended, and the second try ends everything."""
    one, other = await subject.sign_up(), await subject.log_in()
    async with subject.fault():
        with pytest.raises(FAULT):
            await subject.node.auth.log_out(cookies_of(one), everywhere=True)
    await subject.node.auth.log_out(cookies_of(one), everywhere=True)
    assert not await subject.is_alive(other)
    assert not await subject.is_alive(one)
    assert subject.sink.count(EventType.SESSION_ENDED) == 2


async def test_logout_everywhere_with_a_session_that_had_ended(subject: Subject) -> None:
    """Its token is authentic, and proves nothing about the other sessions."""
    one, other = await subject.sign_up(), await subject.log_in()
    await subject.node.auth.log_out(cookies_of(one))
    assert subject.sink.count(EventType.SESSION_ENDED) == 1
    await subject.node.auth.log_out(cookies_of(one), everywhere=True)
    assert subject.sink.count(EventType.SESSION_ENDED) == 1
    assert await subject.is_alive(other)


async def test_password_change_again_after_a_fault(subject: Subject) -> None:
    """Sessions that cannot be ended keep the password from changing, so that the same change can be asked for again."""
    one, others = await subject.sign_up(), [await subject.log_in() for _ in range(2)]
    auth, principal = subject.node.auth, subject.node.authenticate(one.access_token)
    async with subject.fault():
        with pytest.raises(FAULT):
            await auth.change_password(principal, PASSWORD, NEW_PASSWORD, cookies_of(one), CONTACT)
    with pytest.raises(InvalidCredentials):
        await subject.log_in(NEW_PASSWORD)
    assert await auth.change_password(principal, PASSWORD, NEW_PASSWORD, cookies_of(one), CONTACT)
    assert await subject.is_alive(one)
    assert not [each for each in others if await subject.is_alive(each)]
    assert subject.sink.count(EventType.SESSION_ENDED) == len(others)
    assert subject.sink.count(EventType.PASSWORD_CHANGED) == 1


async def test_password_change_that_fails_late(subject: Subject) -> None:
    """What fails when the password is changed already is no answer: the browser goes on with the cookie that it has."""
    one = await subject.sign_up()
    auth, principal = subject.node.auth, subject.node.authenticate(one.access_token)
    subject.claims.fail = True
    assert await auth.change_password(principal, PASSWORD, NEW_PASSWORD, cookies_of(one), CONTACT) is None
    subject.claims.fail = False
    assert await subject.is_alive(one)
    assert await subject.log_in(NEW_PASSWORD)


@pytest.mark.parametrize("subject", ["own"], indirect=True)
async def test_sign_up_again_after_a_fault(subject: Subject) -> None:
    """A user whose event cannot be kept is not created either, so that the same address can be asked for again."""
    async with subject.fault("keyturn_events", rows=0):
        with pytest.raises(FAULT):
            await subject.sign_up()
    assert subject.sink.count(EventType.SIGNED_UP) == 0
    created = (await subject.sign_up()).user.id
    assert [each.user_id for each in subject.sink.seen if each.type is EventType.SIGNED_UP] == [created]


async def test_login_that_fails_late(subject: Subject) -> None:
    """A fault of the claims hook leaves the browser the session that it has."""
    older = await subject.sign_up()
    subject.claims.fail = True
    with pytest.raises(Unavailable):
        await subject.log_in(older=older)
    subject.claims.fail = False
    assert await subject.is_alive(older)
    newer = await subject.log_in(older=older)
    assert not await subject.is_alive(older)
    assert await subject.is_alive(newer)


async def test_sinks_of_somebody_who_guesses(subject: Subject) -> None:
    """They hear of each password that was refused, whose it was to be and from where, and when there was no trying on."""
    node = subject.node
    node.auth = replace(node.auth, policy=replace(node.policy, account_failures=2))
    one = await subject.sign_up()
    for refused in (InvalidCredentials, InvalidCredentials, Throttled):
        with pytest.raises(refused):
            await subject.log_in(NEW_PASSWORD)
    told = [each for each in subject.sink.seen if each.type is EventType.SIGN_IN_REFUSED]
    assert [(each.user_id, each.data["ip"]) for each in told] == [(one.user.id, CONTACT.ip)] * 2
    stopped = [each.data["ip"] for each in subject.sink.seen if each.type is EventType.THROTTLED]
    assert stopped == [CONTACT.ip]


async def test_browser_that_has_gone_away(subject: Subject) -> None:
    """Nothing is decided for a request whose answer nobody waits for."""

    def gone() -> None:
        raise ClientGone

    one = await subject.sign_up()
    before, _ = await subject.node.sessions.get(one.session.id)
    cookies = cookies_of(one)._replace(ensure_awaited=gone)
    for ask in (subject.node.auth.refresh, subject.node.auth.render):
        with pytest.raises(ClientGone):
            await ask(cookies, CONTACT)
    assert (await subject.node.sessions.get(one.session.id))[0] == before
    assert subject.sink.count(EventType.REFRESHED) == 0


async def test_access_token_that_outlives_its_session(subject: Subject) -> None:
    """Whoever still has one, where it is not denied yet, learns and ends nothing with it."""
    one, other = await subject.sign_up(), await subject.log_in()
    auth, principal = subject.node.auth, subject.node.authenticate(one.access_token)
    await auth.log_out(cookies_of(one))
    for ask in (
        auth.me(principal),
        auth.list_sessions(principal),
        auth.end_session(principal, other.session.id),
        auth.end_other_sessions(principal),
        auth.change_password(principal, PASSWORD, NEW_PASSWORD, Cookies(), CONTACT),
    ):
        with pytest.raises(InvalidToken):
            await ask
    assert await subject.is_alive(other)
    assert (await subject.log_in()).user == one.user
