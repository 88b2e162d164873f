"""What happens to an account between the check of a password and the session it opens."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import AsyncGenerator
from dataclasses import replace
from hashlib import pbkdf2_hmac
from pathlib import Path

import pytest

from keyturn.auth import Auth
from keyturn.core.errors import InvalidCredentials
from keyturn.core.model import Contact, RevokeReason, Session
from keyturn.exchange import Cookies, SignedIn
from keyturn.ports import Credential
from keyturn.runtime import Keyturn
from keyturn.settings import Settings
from keyturn.tokens.secret_ring import SecretRing
from tests.attacks.conftest import lighten
from tests.auth.interrupted_users import InterruptedUsers

pytestmark = pytest.mark.anyio

EMAIL = "ada@example.com"
PASSWORD = "correct horse battery staple"
NEW_PASSWORD = "another horse, another staple"
CONTACT = Contact("203.0.113.7", "Mozilla/5.0", "Firefox on Windows")


@pytest.fixture(params=["apart", "together"])
async def node(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[tuple[Keyturn, InterruptedUsers]]:
    """A node over SQLite with a directory that can be interrupted, asked after the sessions or read together with them."""
    settings = Settings.load(env="development", database_url=f"sqlite:///{tmp_path}/keyturn.db")
    with_engine = Keyturn(settings)
    users = InterruptedUsers(with_engine.engine, denylist_lifetime=with_engine.policy.denylist_lifetime)
    node = Keyturn(settings, users=users)
    lighten(node)
    if request.param == "together":
        node.auth = replace(node.auth, with_users=node.sessions, openings=node.sessions)
    async with with_engine.lifespan(), node.lifespan():
        yield node, users


async def _sign_up(auth: Auth) -> SignedIn:
    return await auth.sign_up(
        EMAIL, PASSWORD, None, remember=False, device_name=None, contact=CONTACT, cookies=Cookies()
    )


async def _log_in(auth: Auth, password: str = PASSWORD) -> SignedIn:
    return await auth.log_in(EMAIL, password, remember=False, device_name=None, contact=CONTACT, cookies=Cookies())


async def _live(node: Keyturn, user_id: str) -> list[Session]:
    return list((await node.sessions.list_live(user_id)).sessions)


@pytest.mark.parametrize("how", ["disabled", "deleted"])
async def test_login_that_races_a_disabling(node: tuple[Keyturn, InterruptedUsers], how: str) -> None:
    """A user who is disabled or deleted after their password was read gets no session, and none is left behind."""
    keyturn, users = node
    user = (await _sign_up(keyturn.auth)).user

    async def take_away(credential: Credential) -> None:
        id_ = credential.user.id
        assert await (users.delete(id_) if how == "deleted" else users.set_disabled(id_, disabled=True))

    users.then = take_away
    with pytest.raises(InvalidCredentials):
        await _log_in(keyturn.auth)
    assert await _live(keyturn, user.id) == []


async def test_login_that_races_a_password_change(node: tuple[Keyturn, InterruptedUsers]) -> None:
    """A login with the old password, checked before the change and opened after it, does not survive it; who changed it does."""
    keyturn, users = node
    first = await _sign_up(keyturn.auth)
    user = first.user

    async def change(credential: Credential) -> None:
        assert credential.password_hash is not None
        changed = await keyturn.passwords.hash(NEW_PASSWORD)
        assert await users.replace_password_hash(user.id, credential.password_hash, changed)
        await keyturn.sessions.revoke(user.id, RevokeReason.PASSWORD_CHANGED, keep=first.session.id)

    users.then = change
    with pytest.raises(InvalidCredentials):
        await _log_in(keyturn.auth)
    assert [session.id for session in await _live(keyturn, user.id)] == [first.session.id]
    assert (await _log_in(keyturn.auth, NEW_PASSWORD)).user.id == user.id


@pytest.mark.parametrize("imported", [False, True])
async def test_login_that_races_an_administrator(node: tuple[Keyturn, InterruptedUsers], imported: bool) -> None:
    """A login with the password that somebody replaces meanwhile gets nowhere, also where its hash is made anew; the new one does."""
    keyturn, users = node
    user = (await _sign_up(keyturn.auth)).user
    if imported:
        digest = b64encode(pbkdf2_hmac("sha256", PASSWORD.encode(), b"salt", 1000)).decode()
        assert await users.set_password(user.id, f"pbkdf2_sha256$1000$salt${digest}", {})

    async def set_password(credential: Credential) -> None:
        assert await users.set_password(user.id, await keyturn.passwords.hash(NEW_PASSWORD), {})

    users.then = set_password
    with pytest.raises(InvalidCredentials):
        await _log_in(keyturn.auth)
    assert await _live(keyturn, user.id) == []
    assert (await _log_in(keyturn.auth, NEW_PASSWORD)).user.id == user.id


async def test_login_between_the_steps_of_a_password_change(node: tuple[Keyturn, InterruptedUsers]) -> None:
    """Whoever signs in with the old password after the others have been ended, and before it is changed, is ended too."""
    keyturn, users = node
    first = await _sign_up(keyturn.auth)
    late: list[SignedIn] = []

    async def log_in() -> None:
        late.append(await _log_in(keyturn.auth))

    users.before_change = log_in
    principal = keyturn.authenticate(first.access_token)
    await keyturn.auth.change_password(principal, PASSWORD, NEW_PASSWORD, Cookies(), CONTACT)
    assert len(late) == 1
    assert [session.id for session in await _live(keyturn, first.user.id)] == [first.session.id]


async def test_login_that_races_another_rehash(node: tuple[Keyturn, InterruptedUsers]) -> None:
    """A hash made anew from the same password meanwhile is no reason to refuse."""
    keyturn, users = node
    user = (await _sign_up(keyturn.auth)).user

    async def rehash(credential: Credential) -> None:
        assert credential.password_hash is not None
        again = await keyturn.passwords.hash(PASSWORD)
        assert await users.replace_password_hash(user.id, credential.password_hash, again)

    users.then = rehash
    assert (await _log_in(keyturn.auth)).user.id == user.id
    assert len(await _live(keyturn, user.id)) == 2


async def test_logins_of_whoever_knows_the_password(node: tuple[Keyturn, InterruptedUsers]) -> None:
    """They count against nobody, however many there are."""
    keyturn, _ = node
    keyturn.auth = replace(keyturn.auth, policy=replace(keyturn.policy, account_failures=2))
    await _sign_up(keyturn.auth)
    for _ in range(4):
        await _log_in(keyturn.auth)


async def test_logins_beyond_the_most_sessions(database_url: str) -> None:
    """Each ends the session that was quiet the longest, whichever way it goes in; the most there may be is the most there are."""
    settings = Settings.load(env="development", database_url=database_url, secret=SecretRing.generate(os.urandom(32)))
    node = Keyturn(settings)
    node.auth = replace(node.auth, policy=replace(node.policy, max_sessions=2))
    async with node.lifespan():
        opened = [await _sign_up(node.auth)]
        for _ in range(4):
            opened.append(await _log_in(node.auth))
            live = {session.id for session in await _live(node, opened[0].user.id)}
            assert live == {each.session.id for each in opened[-2:]}


async def test_login_over_a_session_of_the_most(database_url: str) -> None:
    """It takes the place of its browser's own session and pushes nobody out; nor does the other one end so that it clears cookies."""
    settings = Settings.load(env="development", database_url=database_url, secret=SecretRing.generate(os.urandom(32)))
    node = Keyturn(settings)
    node.auth = replace(node.auth, policy=replace(node.policy, max_sessions=2))
    async with node.lifespan():
        own, elsewhere = await _sign_up(node.auth), await _log_in(node.auth)
        assert own.refresh_token is not None
        again = await node.auth.log_in(
            EMAIL,
            PASSWORD,
            remember=False,
            device_name=None,
            contact=CONTACT,
            cookies=Cookies(refresh=[own.refresh_token.encode()]),
        )
        live = {session.id for session in await _live(node, own.user.id)}
        assert live == {elsewhere.session.id, again.session.id}
        ended, _ = await node.sessions.get(own.session.id)
        assert ended is not None
        assert ended.revoked_reason is RevokeReason.REPLACED
