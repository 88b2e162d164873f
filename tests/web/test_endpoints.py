"""Every route doing what it is for, through the plain application and through FastAPI alike."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from keyturn.core.errors import InvalidToken
from keyturn.core.model import Session, User
from keyturn.core.policy import Policy
from keyturn.runtime import Keyturn
from keyturn.settings import Settings
from keyturn.stores.migrations import VERSION_TABLE, expected_level
from keyturn.stores.users import SqlUsers
from keyturn.web.application import WebApplication
from keyturn.web.asgi import KeyturnASGI
from keyturn.web.config import WebConfig
from tests.databases import sqlite_database
from tests.web.conftest import METRICS_TOKEN, ORIGIN, PASSWORD, Browser, set_cookies

pytestmark = pytest.mark.anyio

REFRESH, HINT, DEVICE = "__Host-kt_refresh", "kt_hint", "__Host-kt_device"
STANDARD = {
    "cache-control": "private, no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}


def code(answer: httpx.Response) -> tuple[int, str]:
    """Return status and code of a problem, after checking that it is one."""
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem.keys() >= {"type", "title", "status", "detail", "code", "request_id"}
    assert problem["type"] == f"urn:keyturn:error:{problem['code']}"
    assert problem["status"] == answer.status_code
    assert problem["request_id"] == answer.headers["x-request-id"]
    return answer.status_code, problem["code"]


async def test_sign_up_and_log_in(browser: Browser) -> None:
    """Both answer with the same members; sign-up says 201."""
    first = await browser.sign_up(name="Ada")
    second = await browser.log_in()
    assert (first.status_code, second.status_code) == (201, 200)
    for answer in (first, second):
        body = answer.json()
        assert list(body) == ["access_token", "token_type", "expires_in", "user", "session"]
        assert (body["token_type"], body["expires_in"]) == ("Bearer", 600)
        assert body["user"].keys() == {"id", "email", "name"}
        assert (body["user"]["email"], body["user"]["name"]) == (browser.email, "Ada")
        assert body["session"].keys() == {"id", "created_at", "inactivity_expires_in", "absolute_expires_in"}
        assert re.fullmatch("[0-9a-f]{32}", body["session"]["id"])
        assert 3590 <= body["session"]["inactivity_expires_in"] <= 3600
        assert 86390 <= body["session"]["absolute_expires_in"] <= 86400
        assert datetime.fromisoformat(body["session"]["created_at"]).utcoffset() is not None
    assert first.json()["session"]["id"] != second.json()["session"]["id"]


async def test_session_of_a_sign_up(ada: Browser) -> None:
    """It lasts as long as the person asked, has their name for it, and is on the device that the browser was known by."""
    ada.email, device = f"second.{ada.email}", ada.cookies[DEVICE]
    answer = await ada.sign_up(remember=True, device_name="Work laptop")
    cookies = set_cookies(answer)
    assert "Max-Age" in cookies[REFRESH]
    assert answer.cookies[DEVICE] == device
    [listed] = (await ada.get("/auth/sessions", headers=ada.bearer)).json()["sessions"]
    assert listed["device_name"] == "Work laptop"


async def test_sign_up_where_it_is_closed(node: Keyturn) -> None:
    """There is no such route, and nobody is made."""
    config = WebConfig(own_origins=frozenset({ORIGIN}), signup_open=False)
    async with Browser(KeyturnASGI(WebApplication(node.services, config))) as ada:
        assert code(await ada.sign_up()) == (404, "not_found")
        assert code(await ada.log_in()) == (401, "invalid_credentials")


async def test_refresh_token_only_in_its_cookie(browser: Browser) -> None:
    """The refresh token travels in one Set-Cookie and nowhere else."""
    for answer in (await browser.sign_up(), await browser.log_in(), await browser.post("/auth/refresh")):
        assert "kt_rt_" not in answer.text
        others = [value for name, value in answer.headers.multi_items() if name != "set-cookie"]
        assert not any("kt_rt_" in value for value in others)


@pytest.mark.parametrize("remember", [False, True])
async def test_cookies_of_a_login(ada: Browser, remember: bool) -> None:
    """Every attribute stands there; Max-Age only for who asked to be remembered, to the absolute end."""
    cookies = set_cookies(await ada.log_in(remember=remember))
    age = re.compile(r"; Max-Age=(\d+)$")
    assert age.sub("", cookies[REFRESH]) == "Path=/; Secure; HttpOnly; SameSite=Lax"
    assert age.sub("", cookies[HINT]) == "Path=/; Secure; SameSite=Lax"
    for name in (REFRESH, HINT):
        found = age.search(cookies[name])
        assert (found is not None) == remember
        assert found is None or 30 * 86400 - 10 <= int(found[1]) <= 30 * 86400


async def test_cookies_of_a_strict_site(node: Keyturn) -> None:
    """Whichever answer sets or clears them, no cookie is sent from elsewhere: a Lax one would undo the setting."""
    config = WebConfig(own_origins=frozenset({ORIGIN}), same_site="Strict")
    change = {"current_password": PASSWORD, "new_password": "another long and winding phrase"}
    async with Browser(KeyturnASGI(WebApplication(node.services, config))) as ada:
        answers = [
            await ada.sign_up(),
            await ada.post("/auth/refresh"),
            await ada.log_in(),
            await ada.post("/auth/password", json=change, headers=ada.bearer),
            await ada.post("/auth/logout"),
            await ada.post("/auth/refresh"),
        ]
    for answer in answers:
        cookies = set_cookies(answer)
        assert cookies.keys() >= {REFRESH, HINT}, answer.request.url
        assert all("; SameSite=Strict" in attributes for attributes in cookies.values()), answer.request.url


async def test_device_cookie_of_a_new_browser(browser: Browser) -> None:
    """A device is given its cookie for as long as browsers keep one, and the same again with each session."""
    answers = [await browser.sign_up(), await browser.log_in()]
    for answer in answers:
        assert set_cookies(answer)[DEVICE] == "Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=34560000"
    assert len({answer.cookies[DEVICE] for answer in answers}) == 1


@pytest.mark.parametrize("body", [None, {}, {"idle_seconds": 0}, {"idle_seconds": 12.5}, {"idle_seconds": None}])
async def test_refresh_with_every_body(ada: Browser, body: Any) -> None:
    """A refresh takes no body, or how long ago a person acted."""
    answer = await (ada.post("/auth/refresh") if body is None else ada.post("/auth/refresh", json=body))
    assert answer.status_code == 200
    assert answer.json()["session"] | {"inactivity_expires_in": 0, "absolute_expires_in": 0}
    assert set(set_cookies(answer)) == {REFRESH, HINT}


async def test_refresh_that_is_early_sets_no_cookie(ada: Browser) -> None:
    """A child younger than the settle time gets an access token and no Set-Cookie: a late one must not go back."""
    await ada.post("/auth/refresh")
    answer = await ada.post("/auth/refresh")
    assert answer.status_code == 200
    assert set_cookies(answer) == {}


async def test_refresh_without_session(browser: Browser) -> None:
    """No cookie is no session; the hint goes too, so that the next visit costs no request."""
    answer = await browser.post("/auth/refresh")
    assert code(answer) == (401, "no_session")
    assert set_cookies(answer).keys() == {REFRESH, HINT}
    assert all(attributes.endswith("Max-Age=0") for attributes in set_cookies(answer).values())


async def test_refresh_after_logout_elsewhere(ada: Browser, application: Any) -> None:
    """A copy of the cookie learns why its session ended."""
    async with Browser(application) as copy:
        copy.cookies.update(ada.cookies)
        assert (await ada.post("/auth/logout")).status_code == 204
        answer = await copy.post("/auth/refresh")
    assert code(answer) == (401, "session_ended")
    assert answer.json()["reason"] == "logout"
    assert set_cookies(answer).keys() == {REFRESH, HINT}


async def test_refresh_of_a_session_without_a_row(ada: Browser, node: Keyturn) -> None:
    """Long after its end nobody knows why that was: it is as if there were none, and the cookie goes."""
    async with node.engine.transaction() as connection:
        await connection.exec_driver_sql("DELETE FROM keyturn_sessions")
    answer = await ada.post("/auth/refresh")
    assert code(answer) == (401, "no_session")
    assert set_cookies(answer).keys() == {REFRESH, HINT}


async def test_refresh_of_a_replaced_session(ada: Browser, application: Any) -> None:
    """A login over an older session is a logout of that one, and clears nothing: the newer cookie shares the jar."""
    async with Browser(application) as copy:
        copy.cookies.update(ada.cookies)
        await ada.log_in()
        answer = await copy.post("/auth/refresh")
    assert code(answer) == (401, "session_ended")
    assert answer.json()["reason"] == "logout"
    assert set_cookies(answer) == {}


async def test_refresh_with_two_cookies(ada: Browser) -> None:
    """Of two cookies under one name one is planted: neither is used and neither is cleared."""
    token = ada.cookies[REFRESH]
    ada.cookies.clear()
    for header in (f"{REFRESH}=planted; {REFRESH}={token}", f"{REFRESH}={token}; {REFRESH}={token}"):
        answer = await ada.post("/auth/refresh", headers={"cookie": header})
        assert code(answer) == (401, "no_session")
        assert set_cookies(answer) == {}
    lookalike = {b"cookie": f"{REFRESH.lower()}={token}; \u2000{REFRESH}={token}".encode()}
    assert code(await ada.post("/auth/refresh", headers=lookalike)) == (401, "no_session")


@pytest.mark.parametrize("place", ["bearer", "query", "body"])
async def test_refresh_token_elsewhere(ada: Browser, place: str) -> None:
    """In cookie mode a refresh token is read from its cookie alone."""
    token = ada.cookies[REFRESH]
    ada.cookies.clear()
    query = {"refresh_token": token} if place == "query" else None
    headers = {"authorization": f"Bearer {token}"} if place == "bearer" else None
    if place == "body":
        answer = await ada.post("/auth/refresh", json={"refresh_token": token})
        assert code(answer) == (422, "invalid_request")
    else:
        answer = await ada.post("/auth/refresh", params=query, headers=headers)
        assert code(answer) == (401, "no_session")


async def test_logout_twice_and_with_nothing(ada: Browser) -> None:
    """A logout ends what there is and always succeeds, with both cookies cleared."""
    for body in (None, {}, {"everywhere": False}, {"everywhere": True}):
        answer = await (ada.post("/auth/logout") if body is None else ada.post("/auth/logout", json=body))
        assert (answer.status_code, answer.content) == (204, b"")
        assert set_cookies(answer) == {
            REFRESH: "Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0",
            HINT: "Path=/; Secure; SameSite=Lax; Max-Age=0",
        }


async def test_logout_with_the_cookies_of_many_sessions(browser: Browser) -> None:
    """It ends several, and not as many as there is room for in a request: each costs a turn at the database."""
    assert (await browser.sign_up()).status_code == 201
    tokens = [browser.cookies[REFRESH]]
    for _ in range(11):
        browser.cookies.clear()
        await browser.log_in()
        tokens.append(browser.cookies[REFRESH])
    browser.cookies.clear()
    cookies = [f"{REFRESH}={token}" for token in tokens]
    assert (await browser.post("/auth/logout", headers={"cookie": "; ".join(cookies)})).status_code == 204
    answers = [await browser.post("/auth/refresh", headers={"cookie": cookie}) for cookie in cookies]
    assert 1 < [answer.status_code for answer in answers].count(401) < len(cookies)


async def test_logout_everywhere(ada: Browser, application: Any) -> None:
    """Every session of the user ends."""
    async with Browser(application) as other:
        other.email = ada.email
        await other.log_in()
        await ada.post("/auth/logout", json={"everywhere": True})
        assert code(await other.post("/auth/refresh")) == (401, "session_ended")


async def test_me(ada: Browser) -> None:
    """The access token tells who it stands for."""
    answer = await ada.get("/auth/me", headers=ada.bearer)
    assert answer.status_code == 200
    assert answer.json().keys() == {"user", "session"}
    assert answer.json()["user"]["email"] == ada.email


async def test_access_token_elsewhere(ada: Browser) -> None:
    """An access token in a query, a form or a cookie is not looked at."""
    ada.cookies.set("access_token", ada.token)
    answer = await ada.get("/auth/me", params={"access_token": ada.token})
    assert code(answer) == (401, "invalid_token")
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'


async def test_sessions_listed(ada: Browser, application: Any) -> None:
    """The list shows the user's own sessions, newest first, and nothing that opens one."""
    async with Browser(application) as phone:
        phone.email = ada.email
        agent = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0"
        phone.headers["user-agent"] = agent
        await phone.log_in(device_name="Work laptop")
        answer = await ada.get("/auth/sessions", headers=ada.bearer)
    listed = answer.json()["sessions"]
    assert [one["current"] for one in listed] == [False, True]
    newest = listed[0]
    assert newest.keys() == {
        *("id", "current", "device_name", "device", "ip", "user_agent", "created_at", "last_seen_at", "expires_at")
    }
    assert (newest["device_name"], newest["device"]) == ("Work laptop", "Firefox on Windows")
    assert newest["ip"].startswith("10.")
    assert newest["user_agent"] == agent
    for name in ("created_at", "last_seen_at", "expires_at"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", newest[name])
    # Whichever end comes first.
    lasts = datetime.fromisoformat(newest["expires_at"]) - datetime.fromisoformat(newest["last_seen_at"])
    assert lasts.total_seconds() == pytest.approx(Policy().inactivity_timeout, abs=60.0)
    assert Policy().inactivity_timeout < Policy().absolute_lifetime


async def test_session_ended_by_its_owner(ada: Browser, application: Any) -> None:
    """One session ends, or all others; to end one's own is to log out."""
    async with Browser(application) as phone, Browser(application) as tablet:
        for other in (phone, tablet):
            other.email = ada.email
            await other.log_in()
        gone = (await phone.get("/auth/me", headers=phone.bearer)).json()["session"]["id"]
        assert (await ada.delete(f"/auth/sessions/{gone}", headers=ada.bearer)).status_code == 204
        assert code(await ada.delete(f"/auth/sessions/{gone}", headers=ada.bearer)) == (404, "not_found")
        assert code(await phone.get("/auth/me", headers=phone.bearer)) == (401, "invalid_token")
        answer = await phone.post("/auth/refresh")
        assert (code(answer), answer.json()["reason"]) == ((401, "session_ended"), "revoked")
        assert (await ada.delete("/auth/sessions", headers=ada.bearer)).status_code == 204
        assert code(await tablet.post("/auth/refresh")) == (401, "session_ended")
        assert (await ada.post("/auth/refresh")).status_code == 200
        own = (await ada.get("/auth/me", headers=ada.bearer)).json()["session"]["id"]
        assert (await ada.delete(f"/auth/sessions/{own}", headers=ada.bearer)).status_code == 204
        answer = await ada.post("/auth/refresh")
        assert (code(answer), answer.json()["reason"]) == ((401, "session_ended"), "logout")


async def test_session_of_somebody_else(ada: Browser, application: Any) -> None:
    """Another user's session is not there."""
    async with Browser(application) as eve:
        await eve.sign_up()
        theirs = (await ada.get("/auth/me", headers=ada.bearer)).json()["session"]["id"]
        assert code(await eve.delete(f"/auth/sessions/{theirs}", headers=eve.bearer)) == (404, "not_found")
    assert (await ada.post("/auth/refresh")).status_code == 200


async def test_password_changed(ada: Browser, application: Any) -> None:
    """All other sessions end; this one goes on with a new refresh token."""
    async with Browser(application) as other:
        other.email = ada.email
        await other.log_in()
        body = {"current_password": PASSWORD, "new_password": "another long and winding phrase"}
        answer = await ada.post("/auth/password", json=body, headers=ada.bearer)
        assert (answer.status_code, answer.content) == (204, b"")
        assert set_cookies(answer).keys() == {REFRESH, HINT}
        ended = await other.post("/auth/refresh")
        assert (code(ended), ended.json()["reason"]) == ((401, "session_ended"), "password_changed")
    assert (await ada.post("/auth/refresh")).status_code == 200
    assert code(await ada.log_in()) == (401, "invalid_credentials")


async def test_password_changed_just_before_the_user_is_disabled(tmp_path: Path) -> None:
    """A change that is done is no error: nobody could ask for it again with the password of before."""

    async def disable_after_the_change(user: User, _session: Session) -> Mapping[str, object]:
        if changing:
            assert isinstance(node.users, SqlUsers)
            await node.users.set_disabled(user.id, disabled=True)
        return {}

    changing = False
    settings = Settings.load(
        env="development", database_url=sqlite_database(tmp_path), base_url=ORIGIN, trusted_proxies=1
    )
    node = Keyturn(settings, claims=disable_after_the_change)
    async with node.lifespan(), Browser(node.asgi) as ada:
        await ada.sign_up()
        changing = True
        body = {"current_password": PASSWORD, "new_password": "another long and winding phrase"}
        answer = await ada.post("/auth/password", json=body, headers=ada.bearer)
        assert answer.status_code == 204
        assert set_cookies(answer).keys() == {REFRESH, HINT}
        assert code(await ada.post("/auth/refresh")) == (401, "session_ended")


async def test_password_changed_beside_the_cookie_of_another(ada: Browser, application: Any) -> None:
    """A browser in which somebody else has signed in meanwhile keeps their cookie."""
    async with Browser(application) as eve:
        await eve.sign_up()
        body = {"current_password": PASSWORD, "new_password": "another long and winding phrase"}
        answer = await eve.post("/auth/password", json=body, headers=ada.bearer)
        assert (answer.status_code, set_cookies(answer)) == (204, {})


async def test_password_change_with_the_wrong_one(ada: Browser, caplog: pytest.LogCaptureFixture) -> None:
    """The current password is asked for, and a wrong one changes nothing but is told: a stolen token may be behind it."""
    body = {"current_password": "not my password at all", "new_password": "another long and winding phrase"}
    me = (await ada.get("/auth/me", headers=ada.bearer)).json()
    with caplog.at_level("INFO", "keyturn.events"):
        assert code(await ada.post("/auth/password", json=body, headers=ada.bearer)) == (401, "invalid_credentials")
    [told] = [vars(record) for record in caplog.records if record.name == "keyturn.events"]
    assert (told["event"], told["user"]) == ("sign_in_refused", me["user"]["id"])
    assert told["session"] == sha256(bytes.fromhex(me["session"]["id"])).hexdigest()[:32]
    assert (await ada.log_in()).status_code == 200


async def test_events_say_who_sent_it(browser: Browser, caplog: pytest.LogCaptureFixture) -> None:
    """A sign-up, a wrong password and a dead cookie are told with the address.  Spec: OWASP ASVS 5.0 16.3.1."""
    address, agent = browser.headers["x-forwarded-for"], "Opera/9.80"
    browser.headers["user-agent"] = agent
    with caplog.at_level("INFO", "keyturn.events"):
        await browser.sign_up()
        dead = browser.cookies["__Host-kt_refresh"]
        await browser.post("/auth/logout")
        wrong = {"email": browser.email, "password": "x" * 15}
        assert (await browser.post("/auth/login", json=wrong)).json()["code"] == "invalid_credentials"
        browser.cookies.set("__Host-kt_refresh", dead)
        assert (await browser.post("/auth/refresh")).json()["code"] == "session_ended"
    told = {vars(record).get("event"): vars(record).get("data") for record in caplog.records}
    assert told["signed_up"] == {"ip": address}
    assert told["signed_in"] == {"ip": address, "user_agent": agent, "amr": "pwd"}
    assert told["sign_in_refused"] == {"ip": address, "user_agent": agent}
    assert told["refresh_refused"] == {"outcome": "ended", "ip": address}


async def test_sign_up_twice(ada: Browser) -> None:
    """An address is taken once, in any case."""
    ada.email = ada.email.upper()
    assert code(await ada.sign_up()) == (409, "conflict")


async def test_login_too_often(ada: Browser) -> None:
    """Guessing slows down, with the time to wait in a header."""
    ada.cookies.clear()
    answers = [
        await ada.post("/auth/login", json={"email": ada.email, "password": f"wrong guess {n}"}) for n in range(12)
    ]
    assert code(answers[0]) == (401, "invalid_credentials")
    assert code(answers[-1]) == (429, "throttled")
    assert int(answers[-1].headers["retry-after"]) >= 1


async def test_jwks(browser: Browser) -> None:
    """The public keys may be cached, and a cache may ask whether they have changed."""
    answer = await browser.get("/.well-known/jwks.json")
    assert answer.headers["cache-control"] == "public, max-age=300"
    assert all("d" not in key for key in answer.json()["keys"])
    for tag in (answer.headers["etag"], f'"x", W/{answer.headers["etag"]}', "*"):
        again = await browser.get("/.well-known/jwks.json", headers={"if-none-match": tag})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == answer.headers["etag"]
        assert again.headers["cache-control"] == answer.headers["cache-control"]
    twice = [("if-none-match", '"x"'), ("if-none-match", answer.headers["etag"])]
    assert (await browser.get("/.well-known/jwks.json", headers=twice)).status_code == 304
    assert (await browser.get("/.well-known/jwks.json", headers={"if-none-match": '"x"'})).status_code == 200


async def test_health_and_readiness(browser: Browser, node: Keyturn) -> None:
    """One says that the process runs, the other that all it needs is in order."""
    assert (await browser.get("/healthz")).json() == {"status": "ok"}
    assert (await browser.get("/readyz")).json() == {"status": "ready"}
    denylist = node.denylist
    assert denylist is not None
    await denylist.close()
    try:
        answer = await browser.get("/readyz")
    finally:
        await denylist.start()
    assert code(answer) == (503, "unavailable")
    assert answer.headers["retry-after"] == "1"
    assert "denylist" in answer.json()["detail"]


async def test_readiness_when_a_probe_gives_up(node: Keyturn) -> None:
    """Those who have asked with it are answered all the same."""
    impatient, patient = (asyncio.ensure_future(node.ready()) for _ in range(2))
    await asyncio.sleep(0)
    impatient.cancel()
    assert all((await patient).values())


@pytest.mark.parametrize(("level", "status"), [("9999", 200), ("0001", 503)], ids=["newer", "older"])
async def test_readiness_at_another_level(browser: Browser, node: Keyturn, level: str, status: int) -> None:
    """A node goes on when a newer version has migrated the database, and cannot work with that of an older one."""
    change = f"UPDATE {VERSION_TABLE} SET version_num = '{{}}'"
    async with node.engine.transaction() as connection:
        await connection.exec_driver_sql(change.format(level))
    try:
        assert (await browser.get("/readyz")).status_code == status
    finally:
        async with node.engine.transaction() as connection:
            await connection.exec_driver_sql(change.format(expected_level()))


@pytest.mark.parametrize("denylist", [True, False])
async def test_access_token_after_a_logout(tmp_path: Path, denylist: bool) -> None:
    """It is refused before it expires, unless that is switched off; what reads the session refuses it all the same, and the node is
    ready either way.
    """
    url = sqlite_database(tmp_path)
    node = Keyturn(Settings.load(env="development", database_url=url, base_url=ORIGIN, denylist=denylist))
    async with node.lifespan(), Browser(node.asgi) as ada:
        await ada.sign_up()
        await ada.post("/auth/logout")
        with pytest.raises(InvalidToken) if denylist else nullcontext():
            node.authenticate(ada.token)
        assert (await ada.get("/auth/me", headers=ada.bearer)).status_code == 401
        assert (await ada.get("/readyz")).status_code == 200


async def test_metrics(ada: Browser) -> None:
    """The counters are for whoever has the token."""
    assert code(await ada.get("/metrics")) == (401, "invalid_token")
    assert code(await ada.get("/metrics", headers={"authorization": "Bearer wrong"})) == (401, "invalid_token")
    assert code(await ada.get("/metrics", headers=ada.bearer)) == (401, "invalid_token")
    answer = await ada.get("/metrics", headers={"authorization": f"Bearer {METRICS_TOKEN}"})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    assert re.search(r'keyturn_requests_total\{route="sign_up",status="201"\} [1-9]', answer.text)
    assert ada.email not in answer.text


async def test_metrics_that_nobody_may_see(node: Keyturn) -> None:
    """Without a token there is no such page, whatever is counted; nor is there one where nothing is."""
    token = {"authorization": f"Bearer {METRICS_TOKEN}"}
    config = node.settings.web_config()
    for services, of in (
        (node.services, replace(config, metrics_token=None)),
        (replace(node.services, metrics=None), config),
    ):
        async with Browser(KeyturnASGI(WebApplication(services, of))) as browser:
            assert code(await browser.get("/metrics")) == (404, "not_found")
            assert code(await browser.get("/metrics", headers=token)) == (404, "not_found")


async def test_standard_headers_everywhere(ada: Browser) -> None:
    """No answer goes without the headers that keep it out of caches, frames and other origins."""
    answers = [
        await ada.get("/auth/me", headers=ada.bearer),
        await ada.get("/auth/me"),
        await ada.post("/auth/refresh"),
        await ada.post("/auth/refresh", headers={"x-keyturn": ""}),
        await ada.post("/auth/login", content=b"{", headers={"content-type": "application/json"}),
        await ada.get("/auth/login"),
        await ada.put("/auth/me"),
        await ada.head("/auth/me"),
        await ada.options("/auth/login"),
        await ada.get("/healthz"),
        await ada.post("/auth/logout"),
    ]
    for answer in answers:
        assert {name: answer.headers.get(name) for name in STANDARD} == STANDARD, answer.request.url
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
        assert not [name for name in answer.headers if name.startswith("access-control-")]


async def test_request_id_taken_over(browser: Browser) -> None:
    """A proxy's request id is in the answer and in the problem."""
    answer = await browser.get("/auth/me", headers={"x-request-id": "edge-1234567890"})
    assert code(answer) == (401, "invalid_token")
    assert answer.json()["request_id"] == "edge-1234567890"


METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"]
PATHS = {
    "/auth/signup": {"POST"},
    "/auth/login": {"POST"},
    "/auth/refresh": {"POST"},
    "/auth/logout": {"POST"},
    "/auth/password": {"POST"},
    "/auth/ssr": {"POST"},
    "/auth/me": {"GET", "HEAD"},
    "/auth/sessions": {"GET", "HEAD", "DELETE"},
    f"/auth/sessions/{'0' * 32}": {"DELETE"},
    "/.well-known/jwks.json": {"GET", "HEAD"},
    "/healthz": {"GET", "HEAD"},
    "/readyz": {"GET", "HEAD"},
    "/metrics": {"GET", "HEAD"},
}


@pytest.mark.parametrize("path", PATHS)
async def test_methods_of_every_path(browser: Browser, path: str) -> None:
    """A path has its methods, says which, and changes nothing on any other."""
    allowed = PATHS[path]
    for method in METHODS:
        answer = await browser.request(method, path)
        if method in allowed:
            assert answer.status_code != 405
            continue
        assert answer.status_code == 405, method
        assert set(answer.headers["allow"].split(", ")) == allowed | {"OPTIONS"}
        if method != "HEAD":
            assert code(answer) == (405, "method_not_allowed")
    options = await browser.options(path)
    assert (options.status_code, set(options.headers["allow"].split(", "))) == (204, allowed | {"OPTIONS"})


async def test_head_is_get_without_body(ada: Browser) -> None:
    """HEAD has the length of what GET would send, and sends nothing."""
    answer = await ada.head("/auth/sessions", headers=ada.bearer)
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) > 100
