"""Sleep, frozen tabs and idle people. The time of the pages and of the server is moved, never waited for."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import pytest

from keyturn.core.events import EventType
from tests.browser.client.conftest import MakeSite
from tests.browser.client.proxy import Exchange
from tests.browser.client.site import Site
from tests.browser.client.tabs import Tab, Tabs

pytestmark = pytest.mark.services

ADA = "ada@example.com"
HOUR = 3600
TIMEOUT = 1200
STEP = 30


@pytest.fixture
def sleepers(tabs: Tabs) -> Tabs:
    """A browser whose time is in hand."""
    tabs.fake_time()
    return tabs


@pytest.fixture
def idlers(make_site: MakeSite, make_tabs: Callable[[Site], Tabs]) -> Tabs:
    """The same on a site that signs out after twenty minutes without a person."""
    tabs = make_tabs(make_site(inactivity_timeout=TIMEOUT))
    tabs.fake_time()
    return tabs


def was_expired(exchange: Exchange) -> bool:
    """Whether a request carried an access token that had expired when it came."""
    if exchange.bearer is None:
        return False
    payload = exchange.bearer.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return bool(exchange.at >= claims["exp"])


def act(tab: Tab) -> None:
    """Do what a person does."""
    tab.page.bring_to_front()
    for x in (10, 60):
        tab.page.mouse.move(x, 20)


def test_device_that_slept_for_three_hours_sends_no_expired_token(sleepers: Tabs) -> None:
    """Each tab is signed in as before with at most two refreshes in all; the API never saw an expired token."""
    awake = [sleepers.sign_up(ADA, remember=True), *sleepers.open_signed_in(2, ADA)]
    before = len(sleepers.refreshes)
    sleepers.sleep(3 * HOUR)
    sleepers.order(awake, "load", 200)
    for tab in awake:
        tab.is_signed_in(ADA)
    assert 1 <= len(sleepers.refreshes) - before <= 2
    assert not any(map(was_expired, sleepers.site.proxy.to("/api/who")))
    assert all(one.status == 200 for one in sleepers.site.proxy.to("/api/who"))
    sleepers.assert_nobody_was_signed_out()


@pytest.mark.impossible("webkit", reason="WebKit's driver takes no network away")
def test_device_that_wakes_without_network_refreshes_once_it_is_up(sleepers: Tabs) -> None:
    """Nothing is cleared meanwhile, no request is made, and callers are told `offline`."""
    tab = sleepers.sign_up(ADA, remember=True)
    before = len(sleepers.refreshes)
    sleepers.context.set_offline(True)
    sleepers.sleep(3 * HOUR)
    assert tab.load() == "offline"
    tab.shows(status="degraded")
    assert len(sleepers.refreshes) == before
    sleepers.context.set_offline(False)
    tab.is_signed_in(ADA)
    assert len(sleepers.refreshes) == before + 1
    assert tab.load() == 200
    assert not any(map(was_expired, sleepers.site.proxy.to("/api/who")))
    sleepers.assert_nobody_was_signed_out()


@pytest.mark.impossible("firefox", "webkit", reason="only Chromium's driver can freeze a page")
def test_tab_frozen_for_half_an_hour_refreshes_before_its_first_request(sleepers: Tabs) -> None:
    """While it is frozen it does nothing; its first request has a fresh token."""
    tab = sleepers.sign_up(ADA)
    before = len(sleepers.refreshes)
    session = sleepers.context.new_cdp_session(tab.page)
    session.send("Page.setWebLifecycleState", {"state": "frozen"})
    sleepers.sleep(HOUR / 2)
    session.send("Page.setWebLifecycleState", {"state": "active"})
    assert tab.load() == 200
    assert len(sleepers.refreshes) == before + 1
    assert not any(map(was_expired, sleepers.site.proxy.to("/api/who")))
    sleepers.assert_nobody_was_signed_out()


def test_activity_in_one_tab_keeps_all_tabs_without_a_warning(idlers: Tabs) -> None:
    """Three times the timeout passes; the person is only ever in the first tab."""
    first = idlers.sign_up(ADA)
    [second] = idlers.open_signed_in(1, ADA)
    for _ in range(3 * TIMEOUT // 120):
        act(first)
        idlers.advance(120)
    for tab in (first, second):
        assert tab.events("idleWarning") == []
        tab.is_signed_in(ADA)
    assert second.load() == 200
    idlers.assert_nobody_was_signed_out()


def test_reader_who_only_turns_the_wheel_is_active(idlers: Tabs) -> None:
    """Browsers tell of no pointer while a page moves below one that rests, as with two fingers on a touch pad."""
    tab = idlers.sign_up(ADA)
    act(tab)
    for _ in range(2 * TIMEOUT // 120):
        tab.page.mouse.wheel(0, 100)
        idlers.advance(120)
    assert tab.events("idleWarning") == []
    tab.is_signed_in(ADA)
    idlers.assert_nobody_was_signed_out()


def test_warning_comes_a_minute_before_and_stay_in_one_tab_closes_all(idlers: Tabs) -> None:
    """Both tabs warn once; one answer closes both, tells the server once, and the session goes on."""
    first = idlers.sign_up(ADA)
    began = idlers.site.clock()
    [second] = idlers.open_signed_in(1, ADA)
    # The page load of the second is no activity: the twenty minutes run since the first signed up.
    idlers.advance_until(began + TIMEOUT - 90, STEP)
    assert [tab.says("warning") for tab in (first, second)] == ["", ""]
    idlers.advance(45)
    for tab in (first, second):
        tab.shows(warning="inactivity")
        assert tab.events("idleWarning") == ["inactivity"]
    # A mouse that trembles is no answer.
    act(first)
    assert first.says("warning") == "inactivity"
    before, answered = len(idlers.refreshes), idlers.site.clock()
    second.run("auth.stay()")
    for tab in (first, second):
        tab.shows(warning="")
    idlers.advance(1)
    [told] = idlers.refreshes[before:]
    # Not a whole second, unless the request took one to leave a busy machine.
    assert told.json.keys() == {"idle_seconds"}
    assert 0 <= told.json["idle_seconds"] <= round(told.at - answered)
    idlers.advance_until(answered + TIMEOUT - 120, STEP)
    for tab in (first, second):
        assert tab.events("idleWarning") == ["inactivity"]
        tab.is_signed_in(ADA)
    idlers.assert_nobody_was_signed_out()


def test_refresh_while_a_warning_stands_is_no_answer_and_no_second_warning(idlers: Tabs) -> None:
    """Both tabs go on showing what they were told once, though the end is told anew."""
    first = idlers.sign_up(ADA)
    [second] = idlers.open_signed_in(1, ADA)
    for tab in (first, second):
        tab.run("auth.warnAt(300)")
    for _ in range((TIMEOUT - 300) // STEP + 1):
        idlers.advance(STEP)
    for tab in (first, second):
        tab.shows(warning="inactivity")
    before = len(second.events("refreshed"))
    first.run("auth.getToken().then(token => auth.renew(token)).then(() => {})")
    idlers.until(lambda: len(second.events("refreshed")) > before, "the new token in the other tab")
    for tab in (first, second):
        assert tab.says("warning") == "inactivity"
        assert tab.events("idleWarning") == ["inactivity"]


def test_refreshes_alone_do_not_extend_the_session(idlers: Tabs) -> None:
    """Without a person the session ends on time, after the warning, although it was refreshed until then."""
    first = idlers.sign_up(ADA)
    [second] = idlers.open_signed_in(1, ADA)
    before = len(idlers.refreshes)
    for _ in range(TIMEOUT // STEP + 4):
        idlers.advance(STEP)
    for tab in (first, second):
        tab.is_anonymous("inactivity")
        assert tab.events("idleWarning") == ["inactivity"]
        assert tab.events("signedOut") == ["inactivity"]
    assert len(idlers.refreshes) - before >= 2
    [ended] = idlers.site.happened(EventType.SESSION_ENDED)
    assert ended.data["reason"] == "inactivity"


def test_device_that_slept_past_the_limit_is_signed_out_without_a_warning(idlers: Tabs) -> None:
    """At wake there is no countdown and no user on the page, only the reason."""
    first = idlers.sign_up(ADA)
    [second] = idlers.open_signed_in(1, ADA)
    idlers.sleep(3 * HOUR)
    for tab in (first, second):
        tab.is_anonymous("inactivity")
        assert tab.events("idleWarning") == []
        assert tab.events("signedOut") == ["inactivity"]
