"""What has happened to others, each as a test of its own; the name of the test is the lesson.

Incidents whose lesson is an attack of another file are listed in `spec/threats.md` with the test there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import bcrypt
import pytest
from fastapi import FastAPI

from keyturn.core.errors import InvalidToken, Unavailable
from keyturn.core.events import Event, EventType
from keyturn.core.model import RevokeReason
from keyturn.fastapi import CurrentPrincipal, router
from keyturn.runtime import Keyturn
from keyturn.stores.failover import start_healing
from keyturn.testing import FrozenClock
from keyturn.tokens.access_token import AccessTokenVerifier
from tests.attacks.conftest import lighten, settings_of
from tests.attacks.support import PASSWORD, SAFE, WRONG, Browser, query, send
from tests.databases import sqlite_database
from tests.tokens.forge import AUDIENCE, ISSUER, OTHER_KEY, forge

pytestmark = pytest.mark.anyio

SETTLE = 61


async def test_a_restart_forgets_nothing(database_url: str, clock: FrozenClock) -> None:
    """Revoked sessions, revoked access tokens and counted failures survive a restart (Keycloak CVE-2026-9802)."""
    first = Keyturn(settings_of(database_url), database_clock=clock)
    lighten(first)
    async with first.lifespan():
        browser = Browser(first.asgi)
        assert (await browser.sign_up()).status == 201
        victim = Browser(first.asgi)
        assert (await victim.sign_up()).status == 201
        gone = browser.copy()
        assert (await browser.log_out()).status == 204
        guesser = Browser(first.asgi, email=victim.email)
        guesser.password = WRONG
        for _ in range(10):
            assert (await guesser.log_in()).code == "invalid_credentials"
    second = Keyturn(settings_of(database_url), database_clock=clock)
    lighten(second)
    async with second.lifespan():
        for each in (gone, victim, guesser):
            each.application = second.asgi
        assert (await gone.me()).code == "invalid_token"
        with pytest.raises(InvalidToken):
            second.authenticate(gone.token)
        assert (await gone.refresh()).code == "session_ended:logout"
        assert (await guesser.log_in()).code == "throttled"
        assert (await victim.me()).status == 200
        assert (await victim.refresh()).status == 200


async def test_a_database_failover_revokes_no_session(node: Keyturn, ada: Browser, clock: FrozenClock) -> None:
    """A database that lost commits sees a token that is ahead of it: refused for now, never revoked (Keycloak #49213).

    When the operator says so, lost commits are believed and the session goes on.
    """
    row = "SELECT generation, token_hash, previous_hash, confirmed_at FROM keyturn_sessions WHERE user_id = :id"
    before = (await query(node, row, id=ada.user_id))[0]
    for _ in range(3):
        assert (await ada.refresh()).status == 200
        clock.advance(SETTLE)
        assert (await ada.refresh()).status == 200
    await query(
        node,
        "UPDATE keyturn_sessions SET generation = :generation, token_hash = :token_hash, previous_hash = NULL,"
        " confirmed_at = :confirmed_at WHERE user_id = :id",
        generation=before[0],
        token_hash=bytes(before[1]),
        confirmed_at=before[3],
        id=ada.user_id,
    )
    cookie = ada.cookie
    answer = await ada.refresh()
    assert (answer.status, answer.code, answer.cookies) == (401, "session_behind", {})
    assert ada.cookie == cookie
    alive = "SELECT revoked_at FROM keyturn_sessions WHERE user_id = :id"
    assert await query(node, alive, id=ada.user_id) == [(None,)]
    await start_healing(node.engine, 60, clock=clock)
    try:
        assert (await ada.refresh()).status == 200
    finally:
        await start_healing(node.engine, 0, clock=clock)
    assert await query(node, alive, id=ada.user_id) == [(None,)]


class Raising:
    """A subscriber of events that fails, as an application's may."""

    def __init__(self) -> None:
        self.told: list[EventType] = []

    async def emit(self, event: Event) -> None:
        """Note what has happened, and fail at what matters most."""
        self.told.append(event.type)
        if event.type in {EventType.REUSE_DETECTED, EventType.SESSION_ENDED}:
            raise RuntimeError("the subscriber failed")


async def test_the_answer_that_reports_a_revocation_does_not_roll_it_back(
    database_url: str, clock: FrozenClock
) -> None:
    """The revocation is committed before the 401 is built, also when a subscriber fails and inside FastAPI; it is told."""
    sink = Raising()
    keyturn = Keyturn(settings_of(database_url), sinks=[sink], database_clock=clock)
    lighten(keyturn)
    host = FastAPI()
    host.include_router(router(keyturn))
    async with keyturn.lifespan():
        browser = Browser(host)
        assert (await browser.sign_up()).status == 201
        thief = browser.copy()
        for _ in range(2):
            assert (await browser.refresh()).status == 200
            clock.advance(SETTLE)
            assert (await browser.refresh()).status == 200
        sink.told.clear()
        answer = await thief.refresh()
        assert (answer.status, answer.code) == (401, "session_ended:reuse_detected")
        assert sink.told == [EventType.REUSE_DETECTED, EventType.SESSION_ENDED, EventType.REFRESH_REFUSED]
        found = await query(
            keyturn, "SELECT revoked_reason FROM keyturn_sessions WHERE user_id = :id", id=thief.user_id
        )
        assert found == [(RevokeReason.REUSE_DETECTED.value,)]
        events = await query(keyturn, "SELECT count(*) FROM keyturn_events WHERE type = 'reuse_detected'")
        assert events == [(1,)]
        assert (await browser.refresh()).code == "session_ended:reuse_detected"


def test_no_key_is_no_fallback_to_the_tokens_own() -> None:
    """Without a key for its id a token is refused, whatever key it brings along (Authlib CVE-2026-27962)."""
    asked: list[str] = []

    def nobody(kid: str, _now: float) -> None:
        asked.append(kid)

    verifier = AccessTokenVerifier(nobody, ISSUER, AUDIENCE)
    with pytest.raises(InvalidToken):
        verifier.verify(forge(key=OTHER_KEY), 1_800_000_000)
    assert len(asked) == 1


@pytest.fixture
async def host(sqlite_node: Keyturn) -> FastAPI:
    """An application of its own around the node, with a guarded route."""
    app = FastAPI()
    app.include_router(router(sqlite_node))

    @app.get("/notes")
    async def notes(principal: CurrentPrincipal) -> dict[str, str]:
        return {"user": principal.user_id}

    return app


@pytest.mark.parametrize("path", ["/notes", "/auth/me"])
async def test_malformed_authorization_is_a_401_in_an_application(host: FastAPI, bob: Browser, path: str) -> None:
    """Whatever stands in the header, the guard answers 401 and raises nothing."""
    values = [
        "",
        "Bearer",
        "Bearer ",
        "bearer  x y",
        "Basic \xff\xfe",
        "\x00",
        "Bearer " + "é" * 10,
        "Bearer .",
        "=" * 9999,
    ]
    for value in values:
        answer = await send(host, "GET", path, headers=[("authorization", value)])
        assert (answer.status, answer.code) == (401, "invalid_token"), value
    doubled = [("authorization", f"Bearer {bob.token}")] * 2
    assert (await send(host, "GET", path, headers=doubled)).code == "invalid_token"
    assert (await send(host, "GET", path, headers=doubled[:1])).status == 200


@pytest.mark.parametrize(
    "header",
    [
        ("x-middleware-subrequest", "middleware:middleware:middleware:middleware:middleware"),
        ("host", "auth.test/healthz"),
        ("host", "auth.test/public?"),
        ("x-original-url", "/public"),
        ("x-forwarded-prefix", "/public"),
    ],
)
async def test_the_guard_is_at_the_route_and_not_in_front(host: FastAPI, header: tuple[str, str]) -> None:
    """No header takes a request past the guard (Next.js CVE-2025-29927, Starlette CVE-2026-48710)."""
    for path in ("/notes", "/auth/me", "/auth/sessions"):
        assert (await send(host, "GET", path, headers=[header])).status == 401


async def test_text_that_looks_like_json_is_not_read_in_an_application(host: FastAPI, bob: Browser) -> None:
    """The host's framework never parses our bodies (FastAPI CVE-2021-32677)."""
    body = b'{"email":"%s","password":"%s"}' % (bob.email.encode(), PASSWORD.encode())
    for content_type in ("text/plain", "text/plain; application/json", "application/x-www-form-urlencoded", ""):
        answer = await send(host, "POST", "/auth/login", headers=[*SAFE, ("content-type", content_type)], body=body)
        assert answer.code == "unsupported_media_type"
        assert answer.cookies == {}


async def test_a_session_that_ended_is_refused_at_once_in_an_application(host: FastAPI, sqlite_node: Keyturn) -> None:
    """The guard knows of a logout without asking the database."""
    browser = Browser(host)
    assert (await browser.sign_up()).status == 201
    bearer = [("authorization", f"Bearer {browser.token}")]
    assert (await send(host, "GET", "/notes", headers=bearer)).status == 200
    assert (await browser.log_out()).status == 204
    assert (await send(host, "GET", "/notes", headers=bearer)).code == "invalid_token"


async def test_answers_of_one_request_never_show_in_another(sqlite_node: Keyturn, bob: Browser) -> None:
    """Refusals are made anew for each request: of two hundred at once each carries its own id and code (Ory 2026)."""
    expected: list[tuple[str, Any, Any]] = []

    async def ask(number: int) -> None:
        identity = [("x-request-id", f"request-{number:08}")]
        kinds: list[tuple[str, Any]] = [
            ("no_session", send(sqlite_node.asgi, "POST", "/auth/refresh", headers=[*SAFE, *identity])),
            ("invalid_token", send(sqlite_node.asgi, "GET", "/auth/me", headers=identity)),
            ("csrf_refused", send(sqlite_node.asgi, "POST", "/auth/refresh", headers=identity)),
            ("not_found", send(sqlite_node.asgi, "GET", "/nothing", headers=identity)),
            ("method_not_allowed", send(sqlite_node.asgi, "PUT", "/auth/me", headers=identity)),
        ]
        for code, asked in kinds:
            answer = await asked
            expected.append((f"request-{number:08}", code, answer))

    async with anyio.create_task_group() as tasks:
        for number in range(40):
            tasks.start_soon(ask, number)
    assert len(expected) == 200
    for identity, code, answer in expected:
        assert answer.header("x-request-id") == identity
        assert answer.json()["request_id"] == identity
        assert answer.code == code
        names = [name for name, _ in answer.headers]
        assert len(names) - len(set(names)) == names.count(b"set-cookie") - bool(names.count(b"set-cookie"))


async def test_a_database_at_fault_signs_nobody_out(tmp_path: Path, clock: FrozenClock) -> None:
    """A database that cannot be opened is 503 with Retry-After: never a 401, never a cleared cookie."""
    keyturn = Keyturn(settings_of(sqlite_database(tmp_path)), database_clock=clock)
    lighten(keyturn)
    path = tmp_path / "keyturn.db"
    async with keyturn.lifespan():
        browser = Browser(keyturn.asgi)
        assert (await browser.sign_up()).status == 201
        await keyturn.engine.close()
        aside = tmp_path / "aside"
        for file in tmp_path.glob("keyturn.db*"):
            if not file.name.endswith(".secret"):
                file.rename(aside.with_name(f"aside{file.name.removeprefix('keyturn.db')}"))
        path.mkdir()
        jar = dict(browser.jar)
        answers = [
            await browser.refresh(),
            await browser.log_in(),
            await browser.log_out(),
            await browser.send("GET", "/auth/sessions", bearer=True),
            await browser.me(),
            await Browser(keyturn.asgi).sign_up(),
        ]
        for answer in answers:
            assert (answer.status, answer.code, answer.cookies) == (503, "unavailable", {})
            assert int(answer.header("retry-after")) >= 1
        assert browser.jar == jar
        path.rmdir()
        for file in tmp_path.glob("aside*"):
            file.rename(path.with_name(f"keyturn.db{file.name.removeprefix('aside')}"))
        assert (await browser.refresh()).status == 200


async def test_a_bcrypt_hash_does_not_open_by_its_first_72_bytes(node: Keyturn) -> None:
    """An imported hash of a scheme that reads 72 bytes is not opened by a longer password that begins alike."""
    browser = Browser(node.asgi)
    assert (await browser.sign_up()).status == 201
    stored = bcrypt.hashpw(b"p" * 72, bcrypt.gensalt(4)).decode()
    await query(node, "UPDATE keyturn_users SET password_hash = :hash WHERE id = :id", hash=stored, id=browser.user_id)
    other = Browser(node.asgi, email=browser.email)
    other.password = "p" * 72 + "anything"
    assert (await other.log_in()).code == "invalid_credentials"
    other.password = "p" * 72
    assert (await other.log_in()).status == 200


async def test_only_rows_that_changed_count_as_changed(node: Keyturn, ada: Browser) -> None:
    """A compare-and-set that matches nothing says so (found rows of MySQL were taken for changed rows)."""
    (stored,) = (await query(node, "SELECT password_hash FROM keyturn_users WHERE id = :id", id=ada.user_id))[0]
    assert await node.users.replace_password_hash(ada.user_id, stored, stored + "x")
    assert not await node.users.replace_password_hash(ada.user_id, stored, stored + "y")
    assert await node.auth.end_user_sessions(ada.user_id) == 1
    assert await node.auth.end_user_sessions(ada.user_id) == 0


def test_unavailable_is_no_sign_out() -> None:
    """The refusal for a fault never clears cookies and tells when to try again."""
    assert not Unavailable.clears_cookies
    assert Unavailable("database").retry_after
    assert Unavailable.status == 503
