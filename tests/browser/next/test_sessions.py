"""Signing in and out, sessions that end, and a Keyturn server that is out of order."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from keyturn.core.events import EventType
from keyturn.core.model import RevokeReason
from tests.browser.next.conftest import MakeVisitor
from tests.browser.next.visitor import PASSWORD, REFRESH, RSC, User, Visitor, fetch, post

pytestmark = pytest.mark.services
BOTH = pytest.mark.parametrize("front", ["next-16", "next-15"], indirect=True)


def end_all(visitor: Visitor) -> None:
    """End all sessions of a user at the server, as an operator does."""
    user_id = visitor.log_in_elsewhere().json()["user"]["id"]
    visitor.front.site.call(lambda node: node.sessions.revoke(user_id, RevokeReason.REVOKED))


def loses_their_name(visitor: Visitor) -> None:
    """See the user's name, and a document without it after a navigation once all sessions have ended."""
    expect(visitor.page.locator("#who")).to_have_text(visitor.name)
    visitor.mark()
    end_all(visitor)
    visitor.page.get_by_role("link", name="Account").click()
    visitor.sees_login("/account")
    assert not visitor.marked


@BOTH
def test_form_signs_up_and_leads_to_where_they_wanted_to_go(visitor: Visitor) -> None:
    """From a private page to the login page and back, as the new user."""
    visitor.go("/live")
    visitor.sees_login("/live")
    visitor.fill_in("Sign up")
    visitor.page.wait_for_url(f"{visitor.front.url}/live")
    expect(visitor.page.locator("#who")).to_have_text(visitor.name)
    expect(visitor.page.locator("#answer")).to_contain_text(visitor.email)


def test_form_says_what_was_wrong(visitor: Visitor) -> None:
    """A refusal is no reason to load anything."""
    visitor.go("/login")
    visitor.fill_in("Log in")
    expect(visitor.page.get_by_role("alert").filter(has_text="not right")).to_be_visible()


@BOTH
def test_logout_leaves_nothing_private_behind(ada: Visitor) -> None:
    """What the router had cached is gone: Back leads to the login page."""
    ada.page.get_by_role("link", name="Live").click()
    expect(ada.page.locator("#answer")).to_contain_text(ada.email)
    ada.page.get_by_role("link", name="Account").click()
    ada.sees_devices()
    ada.log_out()
    ada.sees_login("/account")
    ada.until(lambda: REFRESH not in ada.cookies, "the end of the cookie")
    for page in ("/live", "/account"):
        ada.page.go_back()
        ada.sees_login(page)
        expect(ada.page.get_by_text(ada.email)).to_have_count(0)


@BOTH
def test_logout_leads_to_the_address_that_is_put_in_place_before(ada: Visitor) -> None:
    """The document that is loaded anew is that of the address: a private page need not lead to the login page."""
    ada.page.evaluate("history.replaceState(null, '', '/')")
    ada.log_out()
    ada.sees("Hello")
    assert ada.documents[-1].url == f"{ada.front.url}/"
    expect(ada.page.get_by_text(ada.name)).to_have_count(0)


def test_logout_in_another_tab_reaches_this_one(ada: Visitor) -> None:
    """Its document is loaded anew, as nobody's."""
    other = ada.context.new_page()
    other.goto(f"{ada.front.url}/")
    other.get_by_role("button", name="Log out").click()
    ada.sees_login("/account")


def test_login_of_another_user_in_another_tab_reaches_this_one(ada: Visitor, make_visitor: MakeVisitor) -> None:
    """This tab shows the other user's devices, and never both at once."""
    eve = make_visitor()
    eve.sign_up()
    other = ada.context.new_page()
    with other.expect_response("**/auth/refresh"):
        other.goto(f"{ada.front.url}/live")
    assert post(other, "/auth/login", {"email": eve.email, "password": PASSWORD}) == 200
    other.reload()
    ada.sees(f"Devices of {eve.name}")
    expect(ada.page.locator("#who")).to_have_text(eve.name)


@BOTH
def test_document_of_an_ended_session_leads_to_login_and_back(ada: Visitor) -> None:
    """The login page knows the way back, and leads there."""
    end_all(ada)
    ada.page.reload()
    ada.sees_login("/account")
    ada.fill_in("Log in")
    ada.sees_devices()


@BOTH
def test_navigation_of_an_ended_session_loads_a_document(ada: Visitor) -> None:
    """The router alone would leave the user's name in the layout: the login page has a document of its own."""
    ada.go("/")
    loses_their_name(ada)


@BOTH
def test_navigation_after_a_login_by_the_form_does_so_too(visitor: Visitor) -> None:
    """The login page was loaded anew for that session before, when it began; now it is for its end."""
    visitor.go("/login?returnTo=/")
    visitor.fill_in("Sign up")
    visitor.page.wait_for_url(f"{visitor.front.url}/")
    loses_their_name(visitor)


def test_page_that_the_server_renders_for_nobody_is_loaded_once_more_and_no_oftener(ada: Visitor) -> None:
    """Where the two servers disagree about who is signed in, the page does not load itself for ever."""
    with ada.client(cookie="") as client:
        html = client.get("/").text
    ada.page.route("**/", lambda route: route.fulfill(body=html, content_type="text/html"))
    documents = len(ada.documents)
    with ada.page.expect_response("**/auth/refresh"), ada.page.expect_response("**/auth/refresh"):
        ada.go("/")
    ada.sees("Hello")
    expect(ada.page.locator("#who")).to_have_text(ada.name)
    assert len(ada.documents) - documents == 2


@pytest.mark.parametrize("evil", ["//evil.example", "/\\evil.example", "https://evil.example", "/.//evil.example"])
def test_way_back_stays_on_the_site(user: User, evil: str) -> None:
    """Whatever the link says, who is signed in is sent to a page of this site."""
    with user.client() as client:
        answer = client.get("/login", params={"returnTo": evil})
    assert (answer.status_code, answer.headers["location"]) == (307, "/account")


@BOTH
def test_fault_of_the_server_is_an_error_page_and_no_logout(ada: Visitor) -> None:
    """A page says what is wrong; no cookie is removed; when the server is back, the user is still there."""
    proxy, jar = ada.front.site.proxy, ada.cookies
    proxy.drop("/auth/ssr", "before", times=100)
    response = ada.go("/account")
    assert response.status == 500
    assert ada.name not in response.text()
    ada.sees("We cannot tell who you are")
    assert ada.cookies == jar
    proxy.calm()
    ada.page.get_by_role("button", name="Try again").click()
    ada.sees_devices()
    # What the page threw is what it showed.
    assert ada.complaints
    ada.complaints.clear()


@pytest.mark.parametrize("status", [500, 502, 503, 429, 403])
def test_no_answer_of_a_gateway_is_a_logout(user: User, status: int) -> None:
    """The render fails, and is nobody's."""
    user.front.site.proxy.fault("/auth/ssr", status=status)
    with user.client() as client:
        answer = client.get("/api/hello")
        assert answer.status_code == 500
        assert "set-cookie" not in answer.headers
        assert client.get("/api/hello").json() == {"hello": user.name}


def test_refresh_through_a_server_that_is_down_signs_nobody_out(ada: Visitor) -> None:
    """The rewrite answers with a status of its own: the page stays, the cookie stays."""
    proxy = ada.front.site.proxy
    with ada.page.expect_response("**/auth/refresh"):
        ada.page.reload()
    fault = proxy.drop("/auth/refresh", "before")
    jar = ada.cookies
    with ada.page.expect_response("**/auth/refresh") as refreshed:
        ada.page.reload()
    assert refreshed.value.status == 500
    assert len(fault.reached) == 1
    ada.sees_devices()
    assert ada.cookies == jar


def test_request_headers_of_the_framework_open_nothing(user: User) -> None:
    """Past the gate, or with a hint that anybody can write, a private page still asks who it is."""
    names = ("middleware", "src/middleware", "proxy", "src/proxy")
    spoofed = [{"x-middleware-subrequest": ":".join([name] * 5)} for name in names]
    for headers in [*spoofed, {"x-middleware-next": "1"}, {"x-middleware-rewrite": "/account"}]:
        for cookie in ("", "kt_hint=1; __Host-kt_refresh=kt_rt_x"):
            with user.client(cookie=cookie, **headers) as client:
                for kind in ({}, RSC):
                    answer = fetch(client, "/account", kind)
                    assert answer.status_code in {200, 307}
                    assert "Devices of" not in answer.text
                    assert "/login?returnTo=%2Faccount" in answer.text + answer.headers.get("location", "")


def test_gate_spares_the_render(user: User) -> None:
    """Without a hint the answer comes before the page, names the way back, and is not cached."""
    with user.client(cookie="") as client:
        answer = client.get("/account/x?a=b")
    assert answer.status_code == 307
    assert answer.headers["location"] == "/login?returnTo=%2Faccount%2Fx%3Fa%3Db"
    assert answer.headers["cache-control"] == "private, no-store"
    with user.client() as client:
        assert client.get("/account").status_code == 200
    assert user.front.site.happened(EventType.REUSE_DETECTED) == []
