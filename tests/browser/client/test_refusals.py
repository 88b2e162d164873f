"""Documents without an origin of their own: storage, cookies and locks throw there."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from playwright.sync_api import Page, Route

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


def without_origin(tabs: Tabs, site: Site, kind: str) -> Page:
    """Open such a document in the browser; scripts may be loaded from the site all the same."""

    def pass_on(route: Route) -> None:
        answer = route.fetch()
        policy = "sandbox allow-scripts" if kind == "sandbox" else ""
        more = {"content-security-policy": policy, "access-control-allow-origin": "*"}
        route.fulfill(response=answer, headers={**answer.headers, **more, "cross-origin-resource-policy": ""})

    tabs.context.route(f"{site.url}/*.html", pass_on)
    tabs.context.route(f"{site.url}/keyturn/*", pass_on)
    page = tabs.context.new_page()
    document = "<!doctype html><title>a document</title>"
    page.goto(f"{site.url}/elsewhere.html" if kind == "sandbox" else f"data:text/html,{quote(document)}")
    assert page.evaluate("self.origin") == "null"
    return page


@pytest.mark.parametrize("kind", ["sandbox", "data"])
def test_document_without_an_origin_is_signed_out(tabs: Tabs, site: Site, kind: str, family: str) -> None:
    """It starts, asks nobody, fails a login by a code, and leaves the session of the site alone."""
    tab = tabs.sign_up(ADA)
    page = without_origin(tabs, site, kind)
    refused = page.evaluate(REFUSED)
    # A `data:` document of Firefox takes cookies and has none.
    cookies = "" if (kind, family) == ("data", "firefox") else "SecurityError"
    assert refused[:3] == ["SecurityError", cookies, cookies]
    asked = len(site.proxy.exchanges)
    assert page.evaluate(START, site.url) == {"status": "anonymous", "reason": "never"}
    assert page.evaluate("auth.getToken()") is None
    paths = {one.path for one in site.proxy.exchanges[asked:]}
    assert {path for path in paths if path.startswith("/auth")} == set()
    login = "auth.login({ email: 'a@example.com', password: 'x' }).catch(({ code }) => code)"
    assert page.evaluate(login) == "network"
    page.evaluate("auth.logout()")
    assert page.evaluate("auth.getSnapshot().status") == "anonymous"
    page.close()
    tabs.context.unroute_all()
    tab.page.reload()
    tab.is_signed_in(ADA)
    # Firefox takes an answer that CORS hides for an error of the page.
    blocked = f"Cross-Origin Request Blocked: The Same Origin Policy disallows reading the remote resource at {site.url}/auth/login."
    tabs.errors[:] = [error for error in tabs.errors if not error.startswith(blocked)]
