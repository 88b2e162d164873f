"""A refresh that is slow, lost, doubled or overtaken: the cookie of its answer is kept, and nobody is signed out."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.browser.client.conftest import MakeSite
from tests.browser.client.proxy import Moment
from tests.browser.client.site import Site
from tests.browser.client.tabs import Tabs

pytestmark = pytest.mark.services

ADA = "ada@example.com"
HOUR = 3600


@pytest.mark.parametrize("way", ["navigation", "reload", "close"])
def test_refresh_in_flight_keeps_its_cookie_over(way: str, tabs: Tabs) -> None:
    """The page is gone, its request goes on, and the cookie of the answer is stored."""
    tab = tabs.sign_up(ADA)
    other = tabs.context.new_page()
    tabs.expire()
    hold = tabs.site.proxy.hold("/auth/refresh")
    tab.begin("load()")
    hold.wait()
    if way == "close":
        tab.close()
    elif way == "reload":
        tab.page.reload()
        tab.is_signed_in(ADA)
    else:
        tab.page.goto(f"{tabs.site.url}/elsewhere.html")
    before = tabs.cookie
    hold.release()
    tabs.until_cookie_is_not(before)
    other.close()
    tabs.settle()
    tabs.open().is_signed_in(ADA)
    tabs.assert_nobody_was_signed_out()


@pytest.mark.page_cache
def test_page_that_left_in_the_middle_of_a_refresh_comes_back_signed_in(tabs: Tabs) -> None:
    """Also where the page cache keeps it, with what has been asked and may never be answered, and beside another tab."""
    tab = tabs.sign_up(ADA)
    [other] = tabs.open_signed_in(1, ADA)
    tabs.expire()
    hold = tabs.site.proxy.hold("/auth/refresh")
    tab.begin("load().then(() => {}, () => {})")
    hold.wait()
    tab.page.goto(f"{tabs.site.url}/elsewhere.html")
    before = tabs.cookie
    hold.release()
    tabs.until_cookie_is_not(before)
    tab.begin("history.back()")
    tabs.until(tab.comes_to_say(status="authenticated", who=ADA), "the user")
    assert [tab.load(), other.load()] == [200, 200]
    tabs.settle()
    tabs.expire()
    assert [tab.load(), other.load()] == [200, 200]
    tabs.assert_nobody_was_signed_out()


@pytest.mark.parametrize("last", ["slow", "fast"])
@pytest.mark.parametrize("engine", ["sqlite_database_url", "postgres_url"])
def test_two_refreshes_under_way_at_once_and_either_cookie_works(
    engine: str,
    last: str,
    request: pytest.FixtureRequest,
    make_site: MakeSite,
    make_tabs: Callable[[Site], Tabs],
) -> None:
    """A slow one of the page before and a fast one of the new page: whichever lands last, the next refreshes work."""
    site = make_site(database_url=request.getfixturevalue(engine))
    tabs = make_tabs(site)
    tab = tabs.sign_up(ADA)
    tabs.expire()
    slow = site.proxy.hold("/auth/refresh")
    tab.begin("load()")
    slow.wait()
    fast = site.proxy.hold("/auth/refresh")
    tab.begin("location.reload()")
    fast.wait()
    for hold in (slow, fast) if last == "fast" else (fast, slow):
        before = tabs.cookie
        hold.release()
        tabs.until_cookie_is_not(before)
    tab.is_signed_in(ADA)
    for _ in range(3):
        tabs.expire()
        tab.page.reload()
        tab.is_signed_in(ADA)
    assert {one.status for one in tabs.refreshes} == {200}
    tabs.assert_nobody_was_signed_out()


def test_straggler_with_a_used_token_changes_nothing(tabs: Tabs) -> None:
    """A refresh that reaches the server after its child has been confirmed is answered without a cookie."""
    tab = tabs.sign_up(ADA)
    tabs.expire()
    straggler = tabs.site.proxy.hold("/auth/refresh", "before")
    tab.begin("load()")
    straggler.wait()
    tab.page.reload()
    tab.is_signed_in(ADA)
    tabs.settle()
    tab.page.reload()
    tab.is_signed_in(ADA)
    straggler.release()
    assert [one.status for one in straggler.reached] == [200]
    assert [one.set_cookie for one in straggler.reached] == [False]
    tabs.expire()
    tab.page.reload()
    tab.is_signed_in(ADA)
    tabs.assert_nobody_was_signed_out()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_lost_refresh_is_repaired_three_hours_later(tabs: Tabs, moment: Moment) -> None:
    """While it fails the page shows the user as `degraded`; three hours later the user is signed in as before."""
    tab = tabs.sign_up(ADA, remember=True)
    tabs.expire()
    # Chromium itself repeats a request whose connection broke, so more than one is lost.
    tabs.site.proxy.drop("/auth/refresh", moment, times=100)
    assert tab.load() == "network"
    tab.shows(status="degraded")
    tabs.site.proxy.calm()
    tabs.site.clock.ahead += 3 * HOUR
    tab.page.reload()
    tab.is_signed_in(ADA)
    tabs.expire()
    assert tab.load() == 200
    tabs.assert_nobody_was_signed_out()


def test_doubled_refreshes_sign_nobody_out(tabs: Tabs) -> None:
    """A request that something on the way sends twice is as good as one, also when it confirms."""
    tab = tabs.sign_up(ADA)
    tabs.site.proxy.fault("/auth/refresh", double=True, times=4)
    for _ in range(4):
        tabs.expire()
        assert tab.load() == 200
    tabs.assert_nobody_was_signed_out()


@pytest.mark.parametrize("status", [403, 429, 502])
def test_answer_of_a_gateway_signs_nobody_out(tabs: Tabs, status: int) -> None:
    """An HTML answer is not the server's word: the user stays, and the first refresh after the cool-down succeeds."""
    tab = tabs.sign_up(ADA)
    tabs.expire()
    tabs.site.proxy.fault("/auth/refresh", status=status, retry_after=1)
    assert tab.load() == "unexpected_answer"
    tab.shows(status="degraded")
    tabs.until(lambda: tab.load() == 200, "end of the cool-down")
    tab.is_signed_in(ADA)
    tabs.assert_nobody_was_signed_out()


def test_outage_at_load_shows_nobody_as_signed_out(tabs: Tabs) -> None:
    """With the server away the page does not know; it never says anonymous, and signs in when the server is back."""
    tabs.sign_up(ADA).close()
    tabs.site.proxy.drop("/auth/refresh", "before", times=1000)
    tab = tabs.open()
    tabs.until(lambda: tab.events("degraded") != [], "first failure")
    tab.shows(status="unknown")
    tabs.site.proxy.calm()
    tab.is_signed_in(ADA)
    assert {status for status, _who, _data in tab.run("log.shown")} == {"unknown", "authenticated"}
    tabs.assert_nobody_was_signed_out()
