"""Attacks on refresh tokens and sessions, over the real application on both kinds of database."""

from __future__ import annotations

import base64
import json
import secrets
import time
from dataclasses import replace

import anyio
import pytest

from keyturn.core.model import RevokeReason, SessionId
from keyturn.core.policy import Rotation
from keyturn.core.rotation import Decision
from keyturn.ports import Judge
from keyturn.runtime import Keyturn
from keyturn.stores.sql import SqlSessions
from keyturn.stores.users import SqlUsers
from keyturn.testing import FrozenClock
from keyturn.web.application import WebApplication
from keyturn.web.asgi import KeyturnASGI
from keyturn.web.server_credential import Signed, authorization
from tests.attacks.conftest import SSR_KEY, lighten, settings_of
from tests.attacks.support import (
    DEVICE,
    REFRESH,
    SAFE,
    Browser,
    query,
    refresh_tokens,
    send,
)
from tests.machine import Machine

pytestmark = pytest.mark.anyio

SETTLE = 61
MINUTE = 60
DAY = 86400


async def confirm(browser: Browser, clock: FrozenClock, times: int = 1) -> None:
    """Refresh until the browser's token has been replaced so many times."""
    for _ in range(times):
        assert (await browser.refresh()).status == 200
        clock.advance(SETTLE)
        assert (await browser.refresh()).status == 200


async def ended(browser: Browser) -> str:
    """Present what a browser has and return how it is refused; the cookie must be gone afterwards."""
    answer = await browser.refresh()
    assert answer.status == 401
    assert "access_token" not in answer.json()
    return answer.code


async def test_token_two_generations_old_ends_the_session(node: Keyturn, ada: Browser, clock: FrozenClock) -> None:
    """Whoever presents it: the session is revoked with an event that names both parties, and nobody goes on."""
    thief = ada.copy()
    await confirm(ada, clock, times=2)
    answer = await thief.refresh()
    assert (answer.status, answer.code) == (401, "session_ended:reuse_detected")
    assert answer.cookies == {REFRESH: "", "kt_hint": ""}
    assert await ended(ada) == "session_ended:reuse_detected"
    rows = await query(
        node, "SELECT data FROM keyturn_events WHERE type = 'reuse_detected' AND user_id = :user", user=ada.user_id
    )
    assert len(rows) == 1
    assert ada.peer in rows[0][0]
    assert thief.peer in rows[0][0]
    assert (await ada.me()).code == "invalid_token"


async def test_stolen_token_with_which_pages_are_rendered(node: Keyturn, ada: Browser, clock: FrozenClock) -> None:
    """Whoever never refreshes is found out as well; the event names them, and not the render server."""
    thief, render_server = ada.copy(), Browser(node.asgi)
    await confirm(ada, clock, times=2)
    body = json.dumps({"ip": thief.peer, "user_agent": thief.user_agent}).encode()
    signed = Signed("/auth/ssr", thief.cookie.encode(), body)
    headers = [
        ("authorization", authorization("next", SSR_KEY, int(clock.now), signed)),
        ("cookie", f"{REFRESH}={thief.cookie}"),
        ("content-type", "application/json"),
    ]
    answer = await render_server.send("POST", "/auth/ssr", headers=headers, safe=(), body=body)
    assert (answer.status, answer.code) == (401, "session_ended:reuse_detected")
    assert answer.cookies == {}
    [[data]] = await query(
        node, "SELECT data FROM keyturn_events WHERE type = 'reuse_detected' AND user_id = :user", user=ada.user_id
    )
    told = json.loads(data)
    assert (told["presenter_ip"], told["presenter_user_agent"]) == (thief.peer, thief.user_agent)
    assert (told["holder_ip"], told["holder_user_agent"]) == (ada.peer, ada.user_agent)
    assert await ended(ada) == "session_ended:reuse_detected"


async def test_cookie_copied_to_another_machine_is_found_out(ada: Browser, clock: FrozenClock) -> None:
    """Two holders cannot both go on: once either has advanced, the other's next presentation ends the session."""
    thief = ada.copy()
    await confirm(thief, clock)
    clock.advance(SETTLE)
    assert await ended(ada) == "session_ended:reuse_detected"
    assert await ended(thief) == "session_ended:reuse_detected"


async def test_two_siblings_cannot_both_advance(ada: Browser, clock: FrozenClock) -> None:
    """A thief in the same window gets a child of the same parent: the one confirmed second ends the session."""
    thief = ada.copy()
    assert (await ada.refresh()).status == 200
    assert (await thief.refresh()).status == 200
    assert ada.cookie != thief.cookie
    clock.advance(SETTLE)
    assert (await ada.refresh()).status == 200
    assert await ended(thief) == "session_ended:reuse_detected"
    assert await ended(ada) == "session_ended:reuse_detected"


async def test_browser_that_changes_its_name_with_each_refresh_in_strict_mode(
    node: Keyturn, ada: Browser, clock: FrozenClock
) -> None:
    """It is noted once a minute, and not by an event kept with each refresh; and so is one that keeps the other name."""
    strict = replace(node.auth, policy=replace(node.policy, rotation=Rotation.STRICT))
    ada.application = KeyturnASGI(WebApplication(replace(node.services, auth=strict), node.settings.web_config()))
    names = [ada.copy().user_agent, ada.user_agent]

    async def noted(*used: str) -> list[str]:
        for name in used:
            ada.user_agent = name
            assert (await ada.refresh()).status == 200
        found = "SELECT data FROM keyturn_events WHERE type = 'device_drift' AND user_id = :user ORDER BY id"
        return [json.loads(data)["presenter_user_agent"] for (data,) in await query(node, found, user=ada.user_id)]

    assert await noted(*names * 5) == []
    clock.advance(MINUTE)
    assert await noted(*names * 5) == names[:1]
    clock.advance(MINUTE / 2)
    assert await noted(names[1]) == names[:1]
    clock.advance(MINUTE / 2)
    assert await noted(names[1]) == names


async def test_after_logout(ada: Browser) -> None:
    """Neither the refresh token nor the access token of before works."""
    before = ada.copy()
    assert (await ada.log_out()).status == 204
    assert await ended(before) == "session_ended:logout"
    assert (await before.me()).code == "invalid_token"


async def test_after_a_password_change(ada: Browser) -> None:
    """All other sessions end, this one goes on, and the old password is of no use (Strapi CVE-2026-22706)."""
    other = Browser(ada.application, email=ada.email)
    assert (await other.log_in()).status == 200
    old_token = other.token
    change = {"current_password": ada.password, "new_password": "quite another passphrase"}
    assert (await ada.send("POST", "/auth/password", change, bearer=True)).status == 204
    assert await ended(other) == "session_ended:password_changed"
    other.token = old_token
    assert (await other.me()).code == "invalid_token"
    assert (await ada.refresh()).status == 200
    assert (await Browser(ada.application, email=ada.email).log_in()).code == "invalid_credentials"


async def test_after_the_user_was_disabled(node: Keyturn, ada: Browser) -> None:
    """Everything of a disabled user is refused at once, also a new login, with nothing that tells why."""
    assert isinstance(node.users, SqlUsers)
    assert await node.users.set_disabled(ada.user_id, disabled=True)
    assert (await ada.me()).code == "invalid_token"
    assert await ended(ada) == "session_ended:user_disabled"
    assert (await ada.log_in()).code == "invalid_credentials"


async def test_after_the_user_was_disabled_in_the_table_alone(node: Keyturn, ada: Browser) -> None:
    """A refresh asks for the user each time, so an application that disables in its own table is heard."""
    await query(node, "UPDATE keyturn_users SET disabled_at = 1 WHERE id = :id", id=ada.user_id)
    thief, later = ada.copy(), ada.copy()
    # Before any refresh has ended the session.
    assert (await ada.me()).code == "invalid_token"
    assert await ended(ada) == "session_ended:user_disabled"
    assert await ended(thief) == "session_ended:user_disabled"
    assert (await thief.me()).code == "invalid_token"
    # It has ended the session, too, also where nobody asks for the user, and for good.
    assert node.denylist is not None
    assert ada.session_id in node.denylist
    await query(node, "UPDATE keyturn_users SET disabled_at = NULL WHERE id = :id", id=ada.user_id)
    assert await ended(later) == "session_ended:user_disabled"


async def test_after_the_user_was_deleted(node: Keyturn, ada: Browser) -> None:
    """Nothing of a deleted user works."""
    assert isinstance(node.users, SqlUsers)
    assert await node.users.delete(ada.user_id)
    assert (await ada.me()).code == "invalid_token"
    assert await ended(ada) == "session_ended:user_disabled"


async def test_after_an_administrator_revoked_it(node: Keyturn, ada: Browser) -> None:
    """An administrator's revocation ends every session of the user."""
    assert await node.auth.end_user_sessions(ada.user_id, RevokeReason.REVOKED) == 1
    assert (await ada.me()).code == "invalid_token"
    assert await ended(ada) == "session_ended:revoked"


async def test_after_the_device_was_removed(ada: Browser) -> None:
    """A session ended from the list of devices is dead on that device."""
    phone = Browser(ada.application, email=ada.email)
    assert (await phone.log_in(device_name="phone")).status == 200
    assert (await ada.send("DELETE", f"/auth/sessions/{phone.session_id}", bearer=True)).status == 204
    assert (await phone.me()).code == "invalid_token"
    assert await ended(phone) == "session_ended:revoked"
    assert (await ada.refresh()).status == 200


async def test_after_all_other_sessions_were_ended(ada: Browser) -> None:
    """Ending all others leaves the one that asks."""
    phone = Browser(ada.application, email=ada.email)
    assert (await phone.log_in()).status == 200
    assert (await ada.send("DELETE", "/auth/sessions", bearer=True)).status == 204
    assert await ended(phone) == "session_ended:revoked"
    assert (await ada.refresh()).status == 200


async def test_absolute_end_although_just_rotated(ada: Browser, clock: FrozenClock) -> None:
    """Rotation never extends the absolute end, however busy the session; no access token outlives it either."""
    await ada.log_in()
    start = clock.now
    while clock.now < start + DAY - 2000:
        clock.advance(1000)
        assert (await ada.refresh(json={"idle_seconds": 0})).status == 200
    clock.now = start + DAY - SETTLE - 10
    assert (await ada.refresh(json={"idle_seconds": 0})).status == 200
    clock.advance(SETTLE)
    answer = await ada.refresh(json={"idle_seconds": 0})
    assert answer.status == 200
    assert REFRESH in answer.cookies
    assert answer.json()["expires_in"] <= 10
    clock.now = start + DAY
    assert await ended(ada) == "session_ended:absolute"
    clock.advance(6)
    assert (await ada.me()).code == "invalid_token"


async def test_inactivity_although_refreshed_in_the_background(ada: Browser, clock: FrozenClock) -> None:
    """A background refresh is not a person: without one the session ends after an hour."""
    await ada.log_in()
    for _ in range(5):
        clock.advance(600)
        assert (await ada.refresh()).status == 200
    clock.advance(600)
    assert await ended(ada) == "session_ended:inactivity"


async def test_activity_claimed_after_the_deadline_revives_nothing(ada: Browser, clock: FrozenClock) -> None:
    """A browser that wakes too late cannot report itself active."""
    await ada.log_in()
    clock.advance(3600)
    assert (await ada.refresh(json={"idle_seconds": 0})).code == "session_ended:inactivity"


async def test_clock_set_back_on_a_node(database_url: str) -> None:
    """Sessions are judged by the database's clock, so a node whose own is hours late keeps nothing alive."""
    with Machine(-5 * 3600).here():
        late = Keyturn(settings_of(database_url))
    async with late.lifespan():
        browser = Browser(late.asgi)
        assert (await browser.sign_up()).status == 201
        # Over by the true time alone: by the node's own there are five hours left.
        await query(late, "UPDATE keyturn_sessions SET inactivity_expires_at = :past", past=time.time() - 1)
        assert (await browser.me()).code == "invalid_token"
        assert (await browser.refresh()).code == "session_ended:inactivity"


@pytest.mark.parametrize(
    "cookies",
    [
        ["{name}={token}; {name}={token}"],
        ["{name}={token}; {name}=kt_rt_planted"],
        ["{name}=kt_rt_planted; {name}={token}"],
        ["{name}={token}", "{name}=kt_rt_planted"],
        ["{name}=; {name}={token}"],
    ],
)
async def test_doubled_cookie_is_not_used(node: Keyturn, ada: Browser, cookies: list[str]) -> None:
    """Of two cookies under one name at least one is planted: neither is used, and the owner's is not cleared."""
    sent = [("cookie", one.format(name=REFRESH, token=ada.cookie)) for one in cookies]
    answer = await send(node.asgi, "POST", "/auth/refresh", headers=[*SAFE, *sent])
    assert (answer.status, answer.code, answer.cookies) == (401, "no_session", {})
    assert (await ada.refresh()).status == 200


@pytest.mark.parametrize(
    "cookie",
    [
        "{lower}={token}",
        "{upper}={token}",
        "\u00a0{name}={token}",
        "{name}\u00a0={token}",
        "{name} ={token}",
        "\x0b{name}={token}",
        "{name}%3D={token}",
        '{name}="{token}"',
        "Host-kt_refresh={token}",
        "__Secure-kt_refresh={token}",
        "kt_refresh={token}",
        "x={name}={token}",
        "x={token}, {name}={token}",
        "$Version=1, $Path=/, {name}={token}",
        "{name}{token}",
    ],
)
async def test_look_alike_cookie_is_not_used(sqlite_node: Keyturn, bob: Browser, cookie: str) -> None:
    """A name that only looks like ours is another cookie, whatever other parsers make of it; nor does it spoil ours."""
    names = {"name": REFRESH, "lower": REFRESH.lower(), "upper": REFRESH.upper(), "token": bob.cookie}
    planted = cookie.format(**names)
    answer = await send(sqlite_node.asgi, "POST", "/auth/refresh", headers=[*SAFE, ("cookie", planted)])
    assert (answer.status, answer.code) == (401, "no_session")
    both = f"{planted}; {REFRESH}={bob.cookie}"
    answer = await send(sqlite_node.asgi, "POST", "/auth/refresh", headers=[*SAFE, ("cookie", both)])
    # With quotes the name is ours, so there are two of it.
    assert answer.status == (401 if '"' in cookie else 200)


@pytest.mark.parametrize("copies", [True, False], ids=["of one session", "of many sessions"])
async def test_hundreds_of_authentic_cookies_in_one_request(
    node: Keyturn, ada: Browser, monkeypatch: pytest.MonkeyPatch, copies: bool
) -> None:
    """Whoever has collected tokens of their own has one request ask the database a few times, and not six hundred."""
    mint = refresh_tokens().minter(secrets.token_bytes(16))
    others = [mint(SessionId(secrets.token_bytes(16)), 0, time.time(), bytes(8)).text for _ in range(499)]
    held = [ada.cookie] * 500 if copies else [ada.cookie, *others]
    asked: list[SessionId] = []
    present = SqlSessions.present

    async def counted(self: SqlSessions, session_id: SessionId, judge: Judge) -> Decision:
        asked.append(session_id)
        return await present(self, session_id, judge)

    monkeypatch.setattr(SqlSessions, "present", counted)
    crowd = ("cookie", "; ".join(f"{REFRESH}={token}" for token in held))
    ada.jar = {}
    for path, body in (
        ("logout", {}),
        ("logout", {"everywhere": True}),
        ("login", {"email": ada.email, "password": ada.password}),
    ):
        asked.clear()
        assert (await ada.send("POST", f"/auth/{path}", body, headers=[crowd])).status in {200, 204}
        assert len(asked) <= (1 if copies else 8)
    assert [session["id"] for session in await ada.sessions()] == [ada.session_id]


async def test_cookie_planted_before_the_login_is_replaced(node: Keyturn, ada: Browser, eve: Browser) -> None:
    """A login makes a new session and ends the one of the cookie it came with, so nothing planted stays (fixation)."""
    planted = eve.copy()
    planted.email = ada.email
    assert planted.session_id == eve.session_id
    answer = await planted.log_in()
    assert answer.status == 200
    assert planted.user_id == ada.user_id
    assert planted.session_id not in {eve.session_id, ada.session_id}
    assert planted.cookie != eve.cookie
    assert await ended(eve) == "session_ended:logout"


async def test_forged_cookie_before_the_login_changes_nothing(ada: Browser) -> None:
    """A made-up cookie neither names the new session nor stands in the way of the login."""
    fixed = "kt_rt_" + base64.urlsafe_b64encode(bytes(66)).decode()
    victim = Browser(ada.application, email=ada.email)
    victim.jar = {REFRESH: fixed, DEVICE: "kt_dv_" + "A" * 46}
    assert (await victim.log_in()).status == 200
    assert victim.cookie != fixed
    assert victim.session_id != "0" * 32
    assert (await ada.refresh()).status == 200


async def test_guessed_session_ids_are_refused_before_any_database_work(database_url: str, clock: FrozenClock) -> None:
    """Knowing the session id is of no use without the key: a forged token is refused even where there is no table."""
    keyturn = Keyturn(settings_of(database_url), database_clock=clock)
    lighten(keyturn)
    async with keyturn.lifespan():
        ada = Browser(keyturn.asgi)
        assert (await ada.sign_up()).status == 201
        owner = refresh_tokens().read(ada.cookie.encode())
        assert owner is not None
        await query(keyturn, "DROP TABLE keyturn_sessions")
        for _ in range(300):
            raw = bytes((1, 1)) + owner.session_id + bytes(16) + secrets.token_bytes(32)
            cookie = f"{REFRESH}=kt_rt_{base64.urlsafe_b64encode(raw).decode()}"
            assert (
                await send(keyturn.asgi, "POST", "/auth/refresh", headers=[*SAFE, ("cookie", cookie)])
            ).status == 401
        # The same request with the real token does go to the database.
        assert (await ada.refresh()).status == 503


async def test_one_flipped_bit_is_no_token(sqlite_node: Keyturn, bob: Browser) -> None:
    """Every byte of a refresh token is covered by its tag."""
    for position in range(66):
        raw = bytearray(base64.urlsafe_b64decode(bob.cookie.removeprefix("kt_rt_")))
        raw[position] ^= 1
        cookie = f"{REFRESH}=kt_rt_{base64.urlsafe_b64encode(bytes(raw)).decode()}"
        answer = await send(sqlite_node.asgi, "POST", "/auth/refresh", headers=[*SAFE, ("cookie", cookie)])
        assert answer.code == "no_session", position
    assert (await bob.refresh()).status == 200


async def test_hash_column_presented_as_a_token(node: Keyturn, ada: Browser, clock: FrozenClock) -> None:
    """What the table holds is no token, in whatever spelling."""
    await confirm(ada, clock)
    (row,) = await query(
        node,
        "SELECT id, token_hash, previous_hash, device_id FROM keyturn_sessions WHERE user_id = :id",
        id=ada.user_id,
    )
    for value in map(bytes, row):
        for text in (value.hex(), base64.b64encode(value).decode(), base64.urlsafe_b64encode(value).decode()):
            for token in (text, "kt_rt_" + text, "kt_rt_" + text.rstrip("=")):
                answer = await send(
                    node.asgi, "POST", "/auth/refresh", headers=[*SAFE, ("cookie", f"{REFRESH}={token}")]
                )
                assert answer.code == "no_session"
                bearer = ("authorization", f"Bearer {token}")
                assert (await send(node.asgi, "GET", "/auth/me", headers=[bearer])).code == "invalid_token"
    assert (await ada.refresh()).status == 200


async def test_row_edited_without_the_key(node: Keyturn, ada: Browser, eve: Browser, clock: FrozenClock) -> None:
    """Who can write the table but has no key can end a session, and not take it over: no token fits what they write."""
    row = "SELECT token_hash, generation FROM keyturn_sessions WHERE user_id = :id"
    (hash_before, _) = (await query(node, row, id=eve.user_id))[0]
    await query(
        node,
        "UPDATE keyturn_sessions SET token_hash = :hash, generation = 7 WHERE user_id = :id",
        hash=bytes(hash_before),
        id=ada.user_id,
    )
    # Eve's own token goes on opening Eve's session and no other: the session id is under the tag.
    answer = await eve.refresh()
    assert answer.json()["user"]["id"] == eve.user_id
    assert await ended(ada) == "session_ended:reuse_detected"


async def test_row_inserted_without_the_key(node: Keyturn, ada: Browser) -> None:
    """A token made up for a row that was inserted without the key is refused before the row is read."""
    forged = "kt_rt_" + base64.urlsafe_b64encode(bytes((1, 1)) + b"s" * 16 + bytes(48)).decode()
    await query(
        node,
        "INSERT INTO keyturn_sessions SELECT :new, user_id, generation, token_hash, previous_hash, confirmed_at,"
        " created_at, last_seen_at, last_active_at, inactivity_expires_at, absolute_expires_at, revoked_at,"
        " revoked_reason, device_id, device_name, device, ip, user_agent, amr, authenticated_at, remember"
        " FROM keyturn_sessions WHERE user_id = :id",
        new=b"s" * 16,
        id=ada.user_id,
    )
    answer = await send(node.asgi, "POST", "/auth/refresh", headers=[*SAFE, ("cookie", f"{REFRESH}={forged}")])
    assert answer.code == "no_session"


@pytest.mark.parametrize("path", ["/auth/refresh", "/auth/logout"])
async def test_token_in_body_header_or_query(node: Keyturn, ada: Browser, path: str) -> None:
    """In cookie mode the refresh token travels in its cookie and no other way; everywhere else it is not looked at."""
    json = [("content-type", "application/json"), *SAFE]
    bodies = [b'{"refresh_token":"%s"}' % ada.cookie.encode(), b'{"token":"%s"}' % ada.cookie.encode()]
    for body in bodies:
        assert (await send(node.asgi, "POST", path, headers=json, body=body)).code == "invalid_request"
    headers = [("authorization", f"Bearer {ada.cookie}"), ("x-refresh-token", ada.cookie), (REFRESH, ada.cookie)]
    query_string = f"refresh_token={ada.cookie}&{REFRESH}={ada.cookie}".encode()
    answer = await send(node.asgi, "POST", path, headers=[*SAFE, *headers], query=query_string)
    assert answer.code == ("no_session" if path == "/auth/refresh" else "204")
    assert (await ada.refresh()).status == 200


async def test_refresh_token_never_stands_in_a_body(node: Keyturn, ada: Browser, clock: FrozenClock) -> None:
    """It is in one Set-Cookie, `__Host-`, HttpOnly, Secure, for the whole site and nowhere else."""
    clock.advance(SETTLE)
    answers = [await ada.log_in(), await ada.refresh(), await ada.me()]
    for answer in answers:
        assert b"kt_rt_" not in answer.body
        for value in answer.values("set-cookie"):
            assert len(value.partition(";")[0]) < 4096
            attributes = value.split("; ")[1:]
            assert "Secure" in attributes
            assert "Path=/" in attributes
            assert "SameSite=Lax" in attributes
            assert not any(one.lower().startswith("domain") for one in attributes)
            assert ("HttpOnly" in attributes) == value.startswith("__Host-")


async def test_log_out_with_nothing_and_twice(ada: Browser) -> None:
    """Both are 204 and clear the cookies."""
    for browser in (Browser(ada.application), ada, ada):
        answer = await browser.log_out()
        assert answer.status == 204
        assert answer.cookies == {REFRESH: "", "kt_hint": ""}


async def test_log_out_with_a_dead_token_ends_only_its_own_session(ada: Browser) -> None:
    """Who holds a token of an ended session cannot end the others with `everywhere`."""
    old = ada.copy()
    await ada.log_out()
    again = Browser(ada.application, email=ada.email)
    assert (await again.log_in()).status == 200
    assert (await old.log_out(everywhere=True)).status == 204
    assert (await again.refresh()).status == 200


async def test_log_out_with_a_stolen_old_token_ends_the_session(ada: Browser, clock: FrozenClock) -> None:
    """Any authentic token of a session may end it: ending is safe, going on is not."""
    old = ada.copy()
    await confirm(ada, clock, times=2)
    assert (await old.log_out()).status == 204
    assert await ended(ada) == "session_ended:logout"


@pytest.mark.parametrize("attempt", range(3))
async def test_log_out_everywhere_racing_a_refresh_leaves_no_survivor(
    ada: Browser, clock: FrozenClock, attempt: int
) -> None:
    """Eighteen refreshes of six sessions, and one logout everywhere, at once: afterwards nothing works."""
    others = [Browser(ada.application, email=ada.email) for _ in range(6)]
    for other in others:
        assert (await other.log_in()).status == 200
        assert (await other.refresh()).status == 200
    clock.advance(SETTLE)
    async with anyio.create_task_group() as tasks:
        for index, other in enumerate([*others, *others, *others]):
            if index == 4 * attempt:
                tasks.start_soon(lambda: ada.log_out(everywhere=True))
            tasks.start_soon(other.refresh)
    for other in others:
        if REFRESH in other.jar:
            assert (await ended(other)).startswith("session_ended:")
        assert (await other.me()).code == "invalid_token"


@pytest.mark.parametrize("asked", ["to end", "to list"])
async def test_flood_of_one_user_who_asks_for_sessions(node: Keyturn, ada: Browser, eve: Browser, asked: str) -> None:
    """Hundreds of requests of one user take turns among themselves: whoever comes after them waits for one of them."""
    done: list[str] = []

    async def ask(user_id: str) -> None:
        if asked == "to list":
            await node.sessions.list_live(user_id)
        else:
            await node.sessions.revoke(user_id, RevokeReason.REVOKED, only=SessionId(bytes(16)))
        done.append(user_id)

    async with anyio.create_task_group() as tasks:
        for user_id in (*[eve.user_id] * 100, ada.user_id):
            tasks.start_soon(ask, user_id)
    assert done.index(ada.user_id) < 50


async def test_another_users_session_cannot_be_listed_or_ended(ada: Browser, eve: Browser) -> None:
    """It is not in the list, and ending it is the 404 of one that does not exist."""
    assert ada.session_id not in {one["id"] for one in await eve.sessions()}
    theirs = await eve.send("DELETE", f"/auth/sessions/{ada.session_id}", bearer=True)
    nobodys = await eve.send("DELETE", f"/auth/sessions/{secrets.token_hex(16)}", bearer=True)
    assert (theirs.status, theirs.code) == (404, "not_found")
    assert theirs.comparable() == nobodys.comparable()
    assert (await ada.refresh()).status == 200
    assert (await eve.send("DELETE", "/auth/sessions", bearer=True)).status == 204
    assert (await ada.refresh()).status == 200


@pytest.mark.parametrize(
    "session_id", ["*", "%2a", "0" * 31, "0" * 33, "G" * 32, "' OR '1'='1", "..", "0" * 32 + "/", "A" * 32, "null"]
)
async def test_session_id_of_another_form(bob: Browser, session_id: str) -> None:
    """Anything but 32 lower-case hex digits is the same 404."""
    assert (await bob.send("DELETE", f"/auth/sessions/{session_id}", bearer=True)).code == "not_found"
    assert (await bob.me()).status == 200


async def test_list_shows_no_token_and_no_hash(node: Keyturn, ada: Browser) -> None:
    """The list of sessions, `me` and every answer hold no refresh token, no hash, no device id of any kind."""
    (row,) = await query(node, "SELECT token_hash, device_id FROM keyturn_sessions WHERE user_id = :id", id=ada.user_id)
    answer = await ada.send("GET", "/auth/sessions", bearer=True)
    assert set(answer.json()["sessions"][0]) == {
        *("id", "current", "device_name", "device", "ip", "user_agent", "created_at", "last_seen_at", "expires_at")
    }
    for value in map(bytes, row):
        for spelled in (value.hex(), base64.b64encode(value).decode(), base64.urlsafe_b64encode(value).decode()):
            assert spelled.rstrip("=").encode() not in answer.body
    assert ada.cookie.encode() not in answer.body
    assert ada.token.encode() not in answer.body


async def test_render_server_credential_is_needed(node: Keyturn, ada: Browser) -> None:
    """A cookie without the server's signature gets nothing from the render route, and never a Set-Cookie."""
    for header in ((), (("authorization", "Keyturn-HMAC key=next, time=1, signature=" + "A" * 43),)):
        answer = await ada.send("POST", "/auth/ssr", headers=header)
        assert (answer.status, answer.code, answer.cookies) == (403, "forbidden", {})
    assert (await ada.refresh()).status == 200


async def test_thief_at_a_render_server_writes_nothing_odd(node: Keyturn, ada: Browser, clock: FrozenClock) -> None:
    """The event that names a thief holds no control character of theirs, which a terminal or a mail would obey."""
    thief = ada.copy()
    await confirm(ada, clock, times=2)
    stolen = thief.jar[REFRESH]
    body = json.dumps({"ip": "198.51.100.9\x1b[2J", "user_agent": "Mozilla/5.0 \x1b[2J\x9b31m"}).encode()
    signed = Signed("/auth/ssr", stolen.encode(), body)
    credential = authorization("next", SSR_KEY, int(clock()), signed)
    headers = [("authorization", credential), ("cookie", f"{REFRESH}={stolen}"), ("content-type", "application/json")]
    answer = await send(node.asgi, "POST", "/auth/ssr", headers=headers, body=body)
    assert answer.code == "session_ended:reuse_detected"
    ((data,),) = await query(
        node, "SELECT data FROM keyturn_events WHERE type = 'reuse_detected' AND user_id = :user", user=ada.user_id
    )
    told = json.loads(data)
    assert "Mozilla/5.0" in told["presenter_user_agent"]
    assert all(value.isprintable() for value in told.values())
