"""Signing out, and signing in as somebody else, over several tabs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest

from keyturn.core.events import EventType
from tests.browser.client.site import Site
from tests.browser.client.tabs import PASSWORD, Tab, Tabs

pytestmark = pytest.mark.services

ADA = "ada@example.com"
EVE = "eve@example.com"
WAITING = "navigator.locks.query().then(({ pending }) => pending.length)"


def shows_one_user_at_a_time(tab: Tab) -> bool:
    """Whether the page never showed one user's name beside another's data."""
    return all(data in {"", who} for _status, who, data in tab.run("log.shown"))


def test_logout_in_one_tab_signs_all_others_out(tabs: Tabs) -> None:
    """Each says why, once, has no token left, sends none, and a new tab asks nobody."""
    first = tabs.sign_up(ADA)
    others = tabs.open_signed_in(3, ADA)
    first.run("auth.logout()")
    first.is_anonymous("logout")
    for tab in others:
        tab.is_anonymous("logout_other_tab")
        assert tab.run("auth.getToken()") is None
        assert tab.load() == 401
        assert tab.events("signedOut") == ["logout_other_tab"]
    assert {one.bearer for one in tabs.site.proxy.to("/api/who")} == {None}
    assert tabs.cookie is None
    before = len(tabs.refreshes)
    tabs.open().is_anonymous("never")
    assert len(tabs.refreshes) == before


@pytest.mark.parametrize("where", ["same tab", "other tab"])
def test_refresh_in_flight_at_logout_brings_nobody_back(tabs: Tabs, where: str) -> None:
    """The late answer is discarded with its token and its cookie."""
    first = tabs.sign_up(ADA)
    [second] = tabs.open_signed_in(1, ADA)
    refreshing = first if where == "same tab" else second
    tabs.expire()
    hold = tabs.site.proxy.hold("/auth/refresh")
    refreshing.begin("load().then(() => {}, () => {})")
    hold.wait()
    first.run("auth.logout()")
    for tab, reason in ((first, "logout"), (second, "logout_other_tab")):
        tab.is_anonymous(reason)
    hold.release()
    refreshing.finish()
    for tab in (first, second):
        assert tab.run("auth.getToken()") is None
    # Chromium stores the cookie of an answer that nobody waits for any more; the client has it removed again.
    tabs.until(lambda: tabs.cookie is None, "removal of the late cookie")
    for tab, reason in ((first, "logout"), (second, "logout_other_tab")):
        tab.is_anonymous(reason)
    tabs.open().is_anonymous("never")
    assert tabs.site.happened(EventType.REUSE_DETECTED) == []


def test_refresh_in_flight_at_logout_does_not_harm_the_next_login(tabs: Tabs) -> None:
    """Whoever logs in while the late answer of the former session is under way stays signed in."""
    first = tabs.sign_up(ADA)
    [second] = tabs.open_signed_in(1, ADA)
    tabs.expire()
    hold = tabs.site.proxy.hold("/auth/refresh")
    second.begin("load().then(() => {}, () => {})")
    hold.wait()
    first.run("auth.logout()")
    first.begin(f"auth.signup({{ email: '{EVE}', password: '{PASSWORD}' }}).then(() => {{}})")
    hold.release()
    first.finish()
    for tab in (first, second):
        tab.is_signed_in(EVE)
    for _ in range(2):
        tabs.expire()
        first.page.reload()
        first.is_signed_in(EVE)


@pytest.mark.parametrize("where", ["same tab", "other tab"])
def test_login_in_flight_at_logout_signs_nobody_in(tabs: Tabs, where: str) -> None:
    """Its late answer brings a cookie of a session that nobody wants any more: the client ends that one, too."""
    first = tabs.sign_up(ADA)
    [second] = tabs.open_signed_in(1, ADA)
    hold = tabs.site.proxy.hold("/auth/signup")
    first.begin(f"auth.signup({{ email: '{EVE}', password: '{PASSWORD}' }}).catch(error => error.code)")
    hold.wait()
    leaving = first if where == "same tab" else second
    leaving.run("auth.logout()")
    hold.release()
    assert first.finish() == "session_changed"
    assert tabs.cookie is None
    assert len(tabs.site.happened(EventType.SESSION_ENDED)) == 2
    for tab in (first, second, tabs.open()):
        tab.shows(status="anonymous")
    # It is not in the way of the next one.
    second.enter("login", EVE)
    for tab in (first, second):
        tab.is_signed_in(EVE)


def test_logout_in_flight_in_one_tab_does_not_harm_a_login_in_another(tabs: Tabs) -> None:
    """The answer of a logout removes the cookies, also new ones, so a login waits until it is there."""
    first = tabs.sign_up(ADA)
    [second] = tabs.open_signed_in(1, ADA)
    hold = tabs.site.proxy.hold("/auth/logout")
    first.begin("auth.logout()")
    hold.wait()
    second.is_anonymous("logout_other_tab")
    second.begin(f"auth.signup({{ email: '{EVE}', password: '{PASSWORD}' }}).then(() => {{}})")
    tabs.until(lambda: second.run(WAITING) > 0 or second.says("status") == "authenticated", "the lock or the login")
    hold.release()
    first.finish()
    second.finish()
    for tab in (first, second):
        tab.is_signed_in(EVE)
    tabs.expire()
    second.page.reload()
    second.is_signed_in(EVE)


def test_data_in_flight_at_logout_is_not_shown(tabs: Tabs) -> None:
    """What one tab asked for before another signed out never reaches its page."""
    first = tabs.sign_up(ADA)
    [second] = tabs.open_signed_in(1, ADA)
    hold = tabs.site.proxy.hold("/api/who")
    second.begin("load()")
    hold.wait()
    first.run("auth.logout()")
    second.is_anonymous("logout_other_tab")
    hold.release()
    assert second.finish() == "session_changed"
    second.holds("data", "")


@pytest.mark.impossible("webkit", reason="WebKit's driver takes no network away")
def test_logout_without_network_counts_at_once_and_is_sent_later(tabs: Tabs) -> None:
    """The page is anonymous while offline, also after a reload; the server hears of it when the network is back."""
    tab = tabs.sign_up(ADA)
    tabs.context.set_offline(True)
    tab.run("auth.logout()")
    tab.is_anonymous("logout")
    assert "kt_hint" not in {one.get("name") for one in tabs.context.cookies()}
    assert tabs.site.happened(EventType.SESSION_ENDED) == []
    tabs.context.set_offline(False)
    tabs.until(lambda: len(tabs.site.happened(EventType.SESSION_ENDED)) == 1, "end of the session")
    tabs.until(lambda: tabs.cookie is None, "removal of the cookie")


def test_login_in_one_tab_signs_in_the_tab_with_the_form(tabs: Tabs) -> None:
    """The other tab goes from the form to the user without a request of its own."""
    form = tabs.open()
    form.is_anonymous("never")
    other = tabs.sign_up(ADA)
    form.is_signed_in(ADA)
    assert form.events("signedIn") == [ADA]
    assert form.token() == other.token()
    assert tabs.refreshes == []


def test_login_as_another_user_changes_all_tabs_once(tabs: Tabs) -> None:
    """`userChanged` once; the first user's data is never shown with the second user, not even a late answer."""
    first = tabs.sign_up(ADA)
    [second] = tabs.open_signed_in(1, ADA)
    assert first.load() == 200
    first.holds("data", ADA)
    hold = tabs.site.proxy.hold("/api/who")
    first.begin("load()")
    hold.wait()
    second.enter("signup", EVE)
    for tab in (first, second):
        tab.is_signed_in(EVE)
    hold.release()
    assert first.finish() == "session_changed"
    assert first.load() == 200
    first.holds("data", EVE)
    assert first.events("userChanged") == second.events("userChanged") == [EVE]
    assert shows_one_user_at_a_time(first)
    # The former session has ended by being replaced; nothing of it comes back with the next refresh.
    tabs.expire()
    assert first.load() == 200
    assert shows_one_user_at_a_time(first)
    assert tabs.site.happened(EventType.REUSE_DETECTED) == []


def test_end_of_the_session_at_the_server_is_told_with_its_reason(
    tabs: Tabs, site: Site, make_tabs: Callable[[Site], Tabs]
) -> None:
    """Another browser ends it: the next refresh says `revoked`, once in every tab."""
    first = tabs.sign_up(ADA)
    [second] = tabs.open_signed_in(1, ADA)
    elsewhere = make_tabs(site).open()
    elsewhere.enter("login", ADA)
    elsewhere.run("auth.fetch('/auth/sessions', { method: 'DELETE' }).then(() => {})")
    assert first.load() == 401
    for tab in (first, second):
        tab.is_anonymous("revoked")
        assert tab.events("signedOut") == ["revoked"]
    assert tabs.cookie is None
    elsewhere.is_signed_in(ADA)


@pytest.mark.page_cache
@pytest.mark.parametrize("ended", [True, False])
def test_page_back_from_the_page_cache_shows_nobody_before_it_is_verified(tabs: Tabs, ended: bool) -> None:
    """Not one painted frame shows the user while the server has not been asked again."""
    tab = tabs.sign_up(ADA)
    tab.load()
    tab.page.goto(f"{tabs.site.url}/elsewhere.html")
    if ended:
        headers = {"X-Keyturn": "1", "Content-Type": "application/json"}
        script = "headers => fetch('/auth/logout', { method: 'POST', headers }).then(({ status }) => status)"
        assert tab.run(script, headers) == 204
    hold = tabs.site.proxy.hold("/auth/refresh", "before")
    tab.begin("history.back()")
    tabs.until(tab.comes_to_say(persisted="true"), "the way back")
    if ended:
        # The hint is gone with the cookie: there is nothing to ask.
        tabs.until(tab.comes_to_say(status="anonymous", reason="logout_other_tab", who=""), "the end")
        assert set(tab.run("log.paints")) <= {""}
    else:
        hold.wait()
        assert tab.comes_to_say(status="unknown", who="")()
        tabs.until(lambda: tab.run("log.paints.length") > 1, "frames")
        assert set(tab.run("log.paints")) == {""}
        hold.release()
        tabs.until(tab.comes_to_say(status="authenticated", who=ADA), "the user")
        tabs.assert_nobody_was_signed_out()


@pytest.mark.page_cache
@pytest.mark.impossible("firefox", "webkit", reason="only Chromium keeps the answer of a page in its page cache")
def test_answer_that_waited_in_the_page_cache_is_not_shown_before_the_page_is_verified(tabs: Tabs) -> None:
    """It comes back with the page, when nobody knows yet whether its user is still there."""
    tab = tabs.sign_up(ADA)
    answer = tabs.site.proxy.hold("/api/who")
    tab.begin("load().then(outcome => { globalThis.outcome = outcome })")
    answer.wait()
    tab.page.goto(f"{tabs.site.url}/elsewhere.html")
    answer.release()
    hold = tabs.site.proxy.hold("/auth/refresh", "before")
    tab.begin("history.back()")
    tabs.until(tab.comes_to_say(persisted="true"), "the way back")
    hold.wait()
    tabs.until(lambda: tab.run("globalThis.outcome") is not None, "the answer")
    assert tab.run("outcome") == "session_changed"
    assert {data for _status, _who, data in tab.run("log.shown")} == {""}
    hold.release()
    tabs.until(tab.comes_to_say(status="authenticated", who=ADA), "the user")
    tabs.assert_nobody_was_signed_out()


@pytest.mark.parametrize("late", ["before", "after"])
def test_logout_that_a_page_load_cut_off_takes_the_next_login_if_its_answer_is_later_still(
    tabs: Tabs, late: Literal["before", "after"]
) -> None:
    """The limit that client/README.md names: the next page cannot know of that answer, and its own logout overtakes it.

    Whoever it happens to is signed out, no more: nobody else's session is touched, and the next login works.
    """
    tab = tabs.sign_up(ADA)
    hold = tabs.site.proxy.hold("/auth/logout", late)
    tab.begin("auth.logout()")
    hold.wait()
    tab.page.reload()
    tab.is_anonymous("never")
    tab.enter("signup", EVE)
    tab.is_signed_in(EVE)
    # The next page has sent the logout again, and its login has waited for that one.
    own = [one.path for one in tabs.site.proxy.exchanges if one not in hold.reached and one.path.startswith("/auth")]
    assert own == ["/auth/signup", "/auth/logout", "/auth/signup"]
    hold.release()
    tabs.until(lambda: tabs.cookie is None, "removal of the cookie by the late answer")
    tab.page.reload()
    tab.is_anonymous("never")
    tab.enter("login", EVE)
    tab.is_signed_in(EVE)
    assert tabs.site.happened(EventType.REUSE_DETECTED) == []


def test_logout_that_is_waited_for_before_the_page_load_leaves_the_next_login_alone(tabs: Tabs) -> None:
    """What client/README.md advises: with its answer there, nothing is under way that could remove a cookie."""
    tab = tabs.sign_up(ADA)
    hold = tabs.site.proxy.hold("/auth/logout")
    tab.begin("auth.logout().then(() => location.reload())")
    hold.wait()
    tab.is_anonymous("logout")
    hold.release()
    tab.is_anonymous("never")
    tab.enter("signup", EVE)
    tab.is_signed_in(EVE)
    assert len(tabs.site.proxy.to("/auth/logout")) == 1
    tabs.expire()
    tab.page.reload()
    tab.is_signed_in(EVE)


@pytest.mark.parametrize(
    ("cut", "late"),
    [
        ("reload", "before"),
        ("reload", "after"),
        ("close", "before"),
        ("close", "after"),
        pytest.param("time", "after", marks=pytest.mark.waits),
    ],
)
def test_login_that_was_cut_off_signs_nobody_in_afterwards(
    tabs: Tabs, cut: str, late: Literal["before", "after"]
) -> None:
    """Whoever tried has left: with a page that is gone, or has given up, the browser drops the cookie of the answer.

    Who logs in there meanwhile stays who they are.
    """
    for email in (ADA, EVE):
        tabs.sign_up(email).run("auth.logout()")
    tab, other = tabs.open(), tabs.open()
    hold = tabs.site.proxy.hold("/auth/login", late)
    tab.begin(f"auth.login({{ email: '{ADA}', password: '{PASSWORD}' }}).catch(error => error.code)")
    hold.wait()
    if cut == "time":
        assert tab.finish() == "timeout"
    elif cut == "reload":
        tab.page.reload()
    else:
        tab.close()
    other.is_anonymous("never")
    other.enter("login", EVE)
    hold.release()
    for _ in range(2):
        tabs.expire()
        other.page.reload()
        other.is_signed_in(EVE)


def test_answer_that_the_browser_keeps_is_the_next_users_unless_it_varies(tabs: Tabs, family: str) -> None:
    """The limit that client/README.md names, and what it advises: the cache looks at no token unless it is told to."""
    tab = tabs.sign_up(ADA)
    ask = "vary => auth.fetch(`/api/kept?vary=${vary}`).then(response => response.json())"
    for vary in ("", "Authorization"):
        assert tab.run(ask, vary) == {"email": ADA}
    tab.run("auth.logout()")
    tab.enter("signup", EVE)
    tab.is_signed_in(EVE)
    assert tab.run(ask, "") == {"email": EVE if family == "webkit" else ADA}
    assert tab.run(ask, "Authorization") == {"email": EVE}
