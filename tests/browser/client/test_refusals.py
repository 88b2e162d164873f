"""Documents without an origin of their own: storage, cookies and locks throw there."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from playwright.sync_api import Page

from tests.browser.client.site import Site
from tests.browser.client.tabs import Tabs

pytestmark = pytest.mark.services

ADA = "ada@example.com"
REFUSED = """async () => {
    const refused = async (use) => { try { await use(); return "" } catch ({ name }) { return name } };
    return [
        await refused(() => localStorage),
        await refused(() => document.cookie),
        await refused(() => { document.cookie = "a=b" }),
        await refused(() => navigator.locks?.request("a", () => {})),
    ];
}"""
START = """async (server) => {
    const { createAuthClient } = await import(`${server}/keyturn/index.js`);
    globalThis.auth = createAuthClient({ baseUrl: `${server}/auth` });
    auth.start();
    return auth.getSnapshot();
}"""


def without_origin(tabs: Tabs, kind: str, family: str) -> Page:
    """Open such a document in the browser; scripts may be loaded from the site all the same."""
    if family not in {"firefox", "webkit"}:
        # Chromium lets no `data:` document ask this machine; what its driver has fetched it takes. That of Firefox would
        # fetch for all tests from then on, without a cache and with the token at a redirect.
        tabs.context.route(f"{tabs.site.url}/keyturn/*", lambda route: route.fulfill(response=route.fetch()))
    page = tabs.context.new_page()
    document = "<!doctype html><title>a document</title>"
    page.goto(f"{tabs.site.url}/sandbox.html" if kind == "sandbox" else f"data:text/html,{quote(document)}")
    assert page.evaluate("self.origin") == "null"
    return page


@pytest.mark.parametrize("kind", ["sandbox", "data"])
def test_document_without_an_origin_is_signed_out(tabs: Tabs, site: Site, kind: str, family: str) -> None:
    """It starts, asks nobody, fails a login by a code, and leaves the session of the site alone."""
    tab = tabs.sign_up(ADA)
    page = without_origin(tabs, kind, family)
    refused = page.evaluate(REFUSED)
    # A `data:` document of Firefox or WebKit takes cookies and has none.
    cookies = "" if kind == "data" and family in {"firefox", "webkit"} else "SecurityError"
    assert refused[:3] == ["SecurityError", cookies, cookies]
    asked = len(site.proxy.exchanges)
    assert page.evaluate(START, site.url) == {"status": "anonymous", "reason": "never"}
    assert page.evaluate("auth.getToken()") is None
    paths = {one.path for one in site.proxy.exchanges[asked:]}
    assert {path for path in paths if path.startswith("/auth")} == set()
    tabs.expect_blocked("/auth/login")
    login = "auth.login({ email: 'a@example.com', password: 'x' }).catch(({ code }) => code)"
    assert page.evaluate(login) == "network"
    page.evaluate("auth.logout()")
    assert page.evaluate("auth.getSnapshot().status") == "anonymous"
    page.close()
    tab.page.reload()
    tab.is_signed_in(ADA)
