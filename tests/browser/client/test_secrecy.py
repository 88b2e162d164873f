"""What a script in the page can find, and under which policy the client runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser.client.site import CSP
from tests.browser.client.tabs import REFRESH_COOKIE, Tab, Tabs

pytestmark = pytest.mark.services

ADA = "ada@example.com"
SCAN = (Path(__file__).parent / "scan.js").read_text()


def found(tab: Tab, *secrets: str) -> list[str]:
    """Return where in the page any of these texts can be read."""
    places: list[str] = tab.run(SCAN, list(secrets))
    return places


def test_no_token_is_reachable_from_window_storage_or_cookies(tabs: Tabs) -> None:
    """After login, refresh, fetch and a broadcast neither token is anywhere a script can look; a planted one is seen."""
    first = tabs.sign_up(ADA)
    [second] = tabs.open_signed_in(1, ADA)
    tabs.expire()
    for tab in (first, second):
        assert tab.load() == 200
    cookie = tabs.cookie
    assert cookie is not None
    for tab in (first, second):
        assert found(tab, tab.token(), cookie) == []
        assert REFRESH_COOKIE not in tab.run("document.cookie")
    first.run("token => { globalThis.planted = { deep: new Map([[1, { token }]]) } }", first.token())
    assert found(first, first.token()) != []
    first.run("delete globalThis.planted, localStorage.setItem('planted', 'a' + 'b')")
    assert found(first, "ab") != []


def test_client_runs_under_a_strict_policy_with_trusted_types(tabs: Tabs) -> None:
    """The page of all these tests has such a policy; nothing the client did violated it, and it is really in force."""
    assert "require-trusted-types-for 'script'" in CSP
    tab = tabs.sign_up(ADA)
    tabs.expire()
    assert tab.load() == 200
    tab.run("auth.logout()")
    tab.is_anonymous("logout")
    assert tab.run("log.violations") == []
    refused = "() => { try { document.body.innerHTML = '<b>x</b>' } catch (error) { return error.name } }"
    assert tab.run(refused) == "TypeError"
    assert tab.run("log.violations") == ["require-trusted-types-for"]


def test_base_that_somebody_planted_gets_no_token(tabs: Tabs) -> None:
    """Markup without a script can lead every relative address of a page elsewhere; the token does not go with it."""
    tabs.sign_up(ADA).close()
    # The policy of the other pages forbids that; many have none.
    tab = tabs.open("/framed")
    tab.is_signed_in(ADA)
    elsewhere = tabs.site.url.replace("localhost", "127.0.0.1")
    tab.run("url => document.head.insertAdjacentHTML('beforeend', `<base href='${url}/'>`)", elsewhere)
    tabs.expect_blocked("/api/who", elsewhere)
    tab.load()
    [asked] = tabs.site.proxy.to("/api/who")
    assert asked.headers["host"] == elsewhere.partition("//")[2]
    assert asked.bearer is None


def test_api_that_redirects_to_another_origin_takes_no_token_there(tabs: Tabs) -> None:
    """That one, which somebody else may have chosen, lets scripts send it one; it is the browser that leaves it behind."""
    tabs.sign_up(ADA).close()
    # The policy of the other pages forbids that; many have none.
    tab = tabs.open("/framed")
    tab.is_signed_in(ADA)
    elsewhere = f"{tabs.site.url.replace('localhost', '127.0.0.1')}/elsewhere.html"
    assert tab.run("to => auth.fetch(`/api/away?to=${to}`).then(({ url }) => url)", elsewhere) == elsewhere
    [asked] = tabs.site.proxy.to("/api/away")
    assert asked.bearer == tab.token()
    led = tabs.site.proxy.to("/elsewhere.html")[-1]
    assert led.headers["host"] == elsewhere.split("/")[2]
    assert "authorization" not in led.headers
