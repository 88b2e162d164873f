"""What the server renders, for whom, and what stands in it."""

from __future__ import annotations

import re
import secrets
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice

import httpx2
import pytest
from playwright.sync_api import expect

from keyturn.core.events import EventType
from tests.browser.client.proxy import Exchange, Fault
from tests.browser.conftest import Look
from tests.browser.next.conftest import MakeUser, MakeVisitor
from tests.browser.next.visitor import REFRESH, RSC, User, Visitor, fetch

pytestmark = pytest.mark.services
BOTH = pytest.mark.parametrize("front", ["next-16", "next-15"], indirect=True)
PRIVATE = ("/", "/account", "/live", "/api/hello")
FANNED_OUT = 20


@BOTH
def test_first_html_names_the_user(ada: Visitor) -> None:
    """The name stands in the document; the page takes it over without a complaint, and verifies it by one refresh."""
    with ada.page.expect_response("**/auth/refresh") as refreshed:
        response = ada.go("/")
    assert f"Hello, {ada.name}" in response.text()
    assert refreshed.value.status == 200
    expect(ada.page.get_by_role("heading", level=1)).to_have_text(f"Hello, {ada.name}")
    expect(ada.page.locator("#who")).to_have_text(ada.name)


@BOTH
def test_payload_holds_no_token(user: User) -> None:
    """Neither the document nor what the router fetches has an access token or a refresh token, and no file has a key."""
    payloads = user.payloads(*PRIVATE)
    assert {answer.headers["content-type"].partition(";")[0] for answer in payloads} >= {
        "text/html",
        "text/x-component",
    }
    for answer in payloads:
        assert user.name in answer.text, (answer.url, answer.text)
        assert answer.status_code == 200
        text = answer.text + repr(answer.headers)
        assert re.search(r"eyJ[\w-]{8,}|kt_rt_|Keyturn-HMAC|Bearer", text) is None
        assert user.cookies[REFRESH] not in text
    assert not {"keyturn-ssr-v1", "KEYTURN_SSR_KEYS"} & set(re.findall(r"[\w-]+", user.front.static_files()))


@BOTH
def test_client_page_asks_with_the_token_of_the_browser(ada: Visitor) -> None:
    """`auth.fetch` goes through the same origin."""
    ada.page.get_by_role("link", name="Live").click()
    expect(ada.page.locator("#answer")).to_contain_text(ada.email)


@BOTH
def test_server_action_acts_as_the_user(ada: Visitor, make_visitor: MakeVisitor) -> None:
    """It ends the user's other sessions and nobody else's."""
    bob = make_visitor()
    bob.sign_up()
    ada.log_in_elsewhere("Ada's phone")
    ada.page.reload()
    devices = ada.page.get_by_role("main").get_by_role("listitem")
    expect(devices).to_have_count(2)
    ada.page.get_by_role("button", name="End all others").click()
    expect(devices).to_have_count(1)
    expect(devices).to_contain_text("this device")
    bob.page.reload()
    bob.sees_devices()


def test_server_action_of_nobody_changes_nothing(ada: Visitor) -> None:
    """Without a session it leads to the login page."""
    ada.log_in_elsewhere("Ada's phone")
    ada.page.reload()
    ended = len(ada.front.site.happened(EventType.SESSION_ENDED))
    ada.context.clear_cookies(name="kt_hint")
    ada.page.get_by_role("button", name="End all others").click()
    ada.sees_login("/account")
    assert len(ada.front.site.happened(EventType.SESSION_ENDED)) == ended


@BOTH
def test_renders_with_an_expired_access_token_rotate_nothing(ada: Visitor) -> None:
    """One navigation and its 20 prefetches: a token each for a minute, no refresh, no cookie; the session lives on."""
    for number in range(FANNED_OUT - 1):
        ada.log_in_elsewhere(f"device {number}")
    site = ada.front.site
    with ada.page.expect_response("**/auth/refresh"):
        ada.go("/")
    ada.front.advance(700)
    before = (len(site.proxy.refreshes), len(site.happened(EventType.REFRESHED)), ada.cookies)
    # The router prefetches what is within sight.
    ada.page.set_viewport_size({"width": 1280, "height": 2400})
    renders, answers = len(ada.asked("/auth/ssr")), len(ada.responses)
    ada.page.get_by_role("link", name="Your devices").click()
    expect(ada.page.get_by_role("main").get_by_role("listitem")).to_have_count(FANNED_OUT)
    ada.until(lambda: len(ada.asked("/auth/ssr")) >= renders + FANNED_OUT + 1, "the prefetches")
    ada.until(lambda: site.proxy.idle, "their answers")
    assert (len(site.proxy.refreshes), len(site.happened(EventType.REFRESHED)), ada.cookies) == before
    assert {(one.status, one.set_cookie) for one in ada.asked("/auth/ssr")} == {(200, False)}
    assert [one.url for one in ada.responses[answers:] if "set-cookie" in one.all_headers()] == []
    with ada.page.expect_response("**/auth/refresh") as refreshed:
        ada.page.get_by_role("link", name="Live").click()
    assert refreshed.value.status == 200
    expect(ada.page.locator("#answer")).to_contain_text(ada.email)
    assert site.happened(EventType.REUSE_DETECTED) == []


@BOTH
def test_users_rendered_at_once_never_mix(make_user: MakeUser) -> None:
    """Many parallel renders of two users and nobody, while the Keyturn server answers late and out of order."""
    ada, bob = users = make_user(), make_user()
    delays = cycle([0.05, 0.0, 0.11, 0.02, 0.08])

    def late(exchange: Exchange) -> Fault | None:
        return Fault(exchange.path, delay=next(delays)) if exchange.path in {"/auth/ssr", "/auth/sessions"} else None

    def get(request: tuple[User | None, str, dict[str, str]]) -> tuple[User | None, str]:
        who, path, headers = request
        return who, fetch(clients[who], path, headers).text

    ada.front.site.proxy.chaos = late
    people = islice(cycle([ada, bob, None]), 18)
    requests = [(who, path, headers) for who in people for path in ("/", "/account") for headers in ({}, RSC)]
    with ada.client() as adas, bob.client() as bobs, ada.client(cookie="") as nobodys, ThreadPoolExecutor(12) as pool:
        clients = {ada: adas, bob: bobs, None: nobodys}
        for who, text in pool.map(get, requests):
            assert [one for one in users if one.name in text or one.email in text] == ([who] if who else [])


@pytest.mark.parametrize(
    "cookies",
    [
        pytest.param("{refresh}", id="no hint"),
        pytest.param("kt_hint=1", id="no refresh cookie"),
        pytest.param("kt_hint=1; {refresh}; {refresh}", id="twice"),
        pytest.param("kt_hint=1; \u2000{refresh}", id="look-alike"),
        pytest.param("kt_hint=1; __host-kt_refresh={value}", id="other case"),
        pytest.param("kt_hint=1; __Host-kt_refresh=%6b%74", id="encoded"),
        pytest.param("", id="none"),
    ],
)
def test_cookie_that_is_not_ours_is_nobody(user: User, cookies: str) -> None:
    """The server renders for nobody; where the cookies say so already it asks nobody either."""
    value = user.cookies[REFRESH]
    header = cookies.format(refresh=f"{REFRESH}={value}", value=value).encode()
    mark = secrets.token_hex(8)
    headers = [(b"cookie", header), (b"user-agent", mark.encode())]
    assert httpx2.get(f"{user.front.url}/api/hello", headers=headers, timeout=30).json() == {"hello": None}
    asked = [one for one in user.front.site.proxy.to("/auth/ssr") if mark in one.json.values()]
    assert len(asked) == ("%6b" in cookies)


def test_render_tells_who_the_browser_is(user: User) -> None:
    """The exchange carries one cookie, the person's user agent, and the address that the trusted proxy has seen."""
    agent = f"Mozilla/5.0 (X11; Linux) {secrets.token_hex(8)}"
    with user.client(**{"user-agent": agent, "x-forwarded-for": f"203.0.113.66, {user.address}"}) as client:
        client.get("/account")
    # One for the layout, the page and its own requests together.
    [asked] = [one for one in user.front.site.proxy.to("/auth/ssr") if agent in one.json.values()]
    assert asked.headers["cookie"] == f"{REFRESH}={user.cookies[REFRESH]}"
    assert asked.json == {"ip": user.address, "user_agent": agent}


@pytest.mark.parametrize("path", ["/login", "/", "/account", "/live"])
def test_page_is_accessible(ada: Visitor, make_visitor: MakeVisitor, look: Look, path: str) -> None:
    """Axe finds nothing, light and dark."""
    person = make_visitor() if path == "/login" else ada
    person.go(path)
    expect(person.page.get_by_role("heading", level=1)).to_be_visible()
    look(person.page)
