"""One origin: what the rewrites of Next.js pass on, there and back."""

from __future__ import annotations

import httpx2
import pytest

from tests.browser.next.visitor import REFRESH, User, Visitor

pytestmark = pytest.mark.services
BOTH = pytest.mark.parametrize("front", ["next-16", "next-15"], indirect=True)


@BOTH
def test_refresh_of_the_browser_arrives_as_it_was_sent(ada: Visitor) -> None:
    """The cookies, our header, Origin and Fetch Metadata arrive; the new cookie comes back."""
    before = ada.cookies[REFRESH]
    ada.front.advance(100)
    with ada.page.expect_response("**/auth/refresh") as refreshed:
        ada.page.reload()
    sent = ada.front.site.proxy.refreshes[-1]
    assert sent.headers["x-keyturn"] == "1"
    assert sent.headers["origin"] == ada.front.url
    assert sent.headers["sec-fetch-site"] == "same-origin"
    assert f"{REFRESH}={before}" in sent.headers["cookie"].split("; ")
    assert refreshed.value.header_value("cache-control") == "private, no-store"
    assert sent.set_cookie
    ada.until(lambda: ada.cookies[REFRESH] != before, "the new cookie")


@BOTH
def test_address_of_the_client_is_neither_added_nor_changed(user: User) -> None:
    """Next.js passes `X-Forwarded-For` on as it comes: it does not count as a proxy that is trusted."""
    url, proxy = f"{user.front.url}/auth/me", user.front.site.proxy
    httpx2.get(url, timeout=30)
    assert "x-forwarded-for" not in proxy.to("/auth/me")[-1].headers
    httpx2.get(url, headers={"x-forwarded-for": "198.51.100.7, 203.0.113.9"}, timeout=30)
    assert proxy.to("/auth/me")[-1].headers["x-forwarded-for"] == "198.51.100.7, 203.0.113.9"


@BOTH
def test_refresh_in_flight_survives_a_navigation(ada: Visitor) -> None:
    """The page is gone when the answer comes through Next.js, and the browser keeps the cookie all the same."""
    before = ada.cookies[REFRESH]
    ada.front.advance(100)
    hold = ada.front.site.proxy.hold("/auth/refresh")
    ada.page.reload()
    hold.wait()
    ada.page.goto(f"{ada.front.url}/.well-known/jwks.json")
    hold.release()
    ada.until(lambda: ada.cookies[REFRESH] != before, "the new cookie")


@BOTH
def test_answers_about_a_user_are_cached_nowhere(user: User) -> None:
    """Every answer under /auth, and every page and its data, says so."""
    payloads = user.payloads("/", "/account", "/live", "/login", "/api/hello")
    with user.client(**{"X-Keyturn": "1", "Origin": user.front.url}) as client:
        auth = [client.get("/auth/me"), client.post("/auth/refresh"), client.post("/auth/login", json={})]
        auth += [client.post("/auth/ssr"), client.get("/auth/login"), client.post("/auth/logout")]
        keys = client.get("/.well-known/jwks.json")
    for answer in payloads:
        assert {"private", "no-store"} <= set(answer.headers["cache-control"].split(", ")), answer.url
    assert [answer.status_code for answer in auth] == [401, 200, 422, 403, 405, 204]
    assert {answer.headers["cache-control"] for answer in auth} == {"private, no-store"}
    assert keys.headers["cache-control"].startswith("public")
