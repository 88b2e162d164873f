"""Several tabs of one browser: how often they refresh, and that nobody is ever signed out by it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.browser.client.conftest import MakeSite
from tests.browser.client.site import Site
from tests.browser.client.tabs import Tab, Tabs

pytestmark = pytest.mark.services

ADA = "ada@example.com"
CHANNEL = "new BroadcastChannel(`${location.origin}/auth`)"
WAITING = "navigator.locks.query().then(({ pending }) => pending.length)"
HOSTILE = """() => {
  const answer = (access_token, more) => ({
    access_token, expires_in: 600, user: { id: "1", email: "eve@example.com", name: null },
    session: { id: "0".repeat(32), created_at: "2999-01-01T00:00:00.000Z", inactivity_expires_in: 1,
               absolute_expires_in: 1 }, ...more });
  const proto = JSON.parse('{"__proto__": {"type": "granted"}, "constructor": 1}');
  return [null, undefined, 0, NaN, "", "granted", [], [[]], {}, proto, new Map([["type", "ended"]]), new Date(), /x/,
    { type: "granted" }, { type: "granted", at: 0 }, { type: "granted", at: 0, answer: null },
    { type: "granted", at: "0", answer: answer("x") }, { type: "granted", at: NaN, answer: answer("x") },
    { type: "granted", at: 0, answer: answer("") }, { type: "granted", at: 0, answer: answer({ length: 1 }) },
    { type: "granted", at: 0, answer: answer("x", { expires_in: "600" }) },
    { type: "granted", at: 0, answer: answer("x", { expires_in: Infinity }) },
    { type: "granted", at: 0, answer: answer("x", { expires_in: -1 }) },
    { type: "granted", at: 0, answer: answer("x", { user: null }) },
    { type: "granted", at: 0, answer: answer("x", { user: { id: 1 } }) },
    { type: "granted", at: 0, answer: answer("x", { session: [] }) },
    { type: "granted", at: 0, answer: answer("x", { session: { id: "1", created_at: 1 } }) },
    { type: "ended" }, { type: "ended", reason: "logout" }, { type: "ended", at: 0, id: 1, reason: "logout" },
    { type: "ended", at: 0, id: null }, { type: "ended", at: 0, id: null, reason: {} },
    { type: "ended", at: 0, id: "f".repeat(32), reason: "logout" }, { type: "ended", at: 0, id: null, reason: "expired" },
    { type: "acted" }, { type: "acted", at: "now" }, { type: "acted", at: -1 }, { type: "constructor" },
    { type: "hide" }, { type: "failed", error: {} }, { type: "tick", at: 1e15 }, { type: "acted", at: 1e15, own: true },
    { type: "GRANTED", at: 0, answer: answer("x") }, { type: ["ended"], id: null, reason: "logout" }, "x".repeat(1e6)];
}"""


@pytest.mark.parametrize("engine", ["sqlite_database_url", "postgres_url"])
def test_eight_tabs_restored_at_once_make_at_most_two_refreshes(
    engine: str, request: pytest.FixtureRequest, make_site: MakeSite, make_tabs: Callable[[Site], Tabs]
) -> None:
    """All of them are signed in at the end, and when all their tokens are refused at once, two refreshes do again."""
    site = make_site(database_url=request.getfixturevalue(engine))
    tabs = make_tabs(site)
    tabs.sign_up(ADA).close()
    restored = [tabs.open(manual=1) for _ in range(8)]
    before = len(tabs.refreshes)
    tabs.order(restored, "start", "done")
    for tab in restored:
        tab.is_signed_in(ADA)
    assert 1 <= len(tabs.refreshes) - before <= 2

    tabs.expire()
    before, asked = len(tabs.refreshes), len(site.proxy.to("/api/who"))
    tabs.order(restored, "load", 200)
    assert 1 <= len(tabs.refreshes) - before <= 2
    # Each asked once with the old token and once with the new one; the last may have heard of that before it asked.
    assert 9 <= len(site.proxy.to("/api/who")) - asked <= 16
    assert len({tab.token() for tab in restored}) == 1
    tabs.assert_nobody_was_signed_out()


@pytest.mark.parametrize("lacks", ["locks", "channel", "locks,channel"])
def test_tabs_without_locks_or_channel_work_with_more_refreshes(tabs: Tabs, lacks: str) -> None:
    """Each tab may refresh for itself; the server settles that, now and when the settle time has passed."""
    tabs.sign_up(ADA).close()
    restored = [tabs.open(manual=1, no=lacks) for _ in range(4)]
    tabs.order(restored, "start", "done")
    for tab in restored:
        tab.is_signed_in(ADA)
    tabs.expire()
    tabs.order(restored, "load", 200)
    tabs.assert_nobody_was_signed_out()


def test_tab_that_holds_the_lock_is_closed_and_the_next_one_refreshes(tabs: Tabs) -> None:
    """The other tab gets the lock at once; the answer to the closed one still counts when it arrives."""
    first = tabs.sign_up(ADA)
    [second] = tabs.open_signed_in(1, ADA)
    tabs.expire()
    hold = tabs.site.proxy.hold("/auth/refresh")
    first.begin("load()")
    hold.wait()
    second.begin("load()")
    tabs.until(lambda: second.run(WAITING) == 1, "second tab waiting for the lock")
    first.close()
    assert second.finish() == 200
    before = tabs.cookie
    hold.release()
    tabs.until_cookie_is_not(before)
    tabs.settle()
    tabs.open().is_signed_in(ADA)
    tabs.assert_nobody_was_signed_out()


@pytest.mark.waits
def test_frozen_tab_that_holds_the_lock_does_not_stop_the_others(tabs: Tabs) -> None:
    """Waiting for the lock ends after a while; the refresh goes on without it and steals nothing."""
    first = tabs.sign_up(ADA)
    [second] = tabs.open_signed_in(1, ADA)
    first.begin("navigator.locks.request(`${location.origin}/auth`, () => new Promise(() => {}))")
    tabs.expire()
    assert second.load() == 200
    tabs.assert_nobody_was_signed_out()


def test_lock_that_is_stolen_under_a_refresh_stops_neither_tab(tabs: Tabs) -> None:
    """The browser tells the tab that its lock is gone: its refresh goes on, and another tab's goes beside it."""
    first = tabs.sign_up(ADA)
    [second] = tabs.open_signed_in(1, ADA)
    tabs.expire()
    before = len(tabs.refreshes)
    hold = tabs.site.proxy.hold("/auth/refresh")
    first.begin("load()")
    hold.wait()
    second.begin("load()")
    tabs.until(lambda: second.run(WAITING) == 1, "second tab waiting for the lock")
    second.run("navigator.locks.request(`${location.origin}/auth`, { steal: true }, () => {})")
    assert second.finish() == 200
    hold.release()
    assert first.finish() == 200
    assert len(tabs.refreshes) - before == 2
    tabs.settle()
    tabs.expire()
    assert [first.load(), second.load()] == [200, 200]
    tabs.assert_nobody_was_signed_out()


def test_older_broadcast_is_ignored(tabs: Tabs) -> None:
    """A token that was overtaken by a newer one changes nothing when its message comes late."""
    first = tabs.sign_up(ADA)
    [second] = tabs.open_signed_in(1, ADA)
    second.begin(f"(globalThis.heard = [], {CHANNEL}).onmessage = e => e.data.type === 'granted' && heard.push(e.data)")
    for _ in range(2):
        tabs.expire()
        assert first.load() == 200
    tabs.until(lambda: second.run("heard.length") == 2, "broadcasts")
    token = second.token()
    assert token == first.token() != second.run("heard[0].answer.access_token")
    before = second.run("log.shown.length")
    second.run(f"(c => {{ c.postMessage(heard[0]); c.postMessage(heard[0]); c.close() }})({CHANNEL})")
    _let_messages_through(first, second)
    assert first.token() == second.token() == token
    assert second.run("log.shown.length") == before
    assert second.events("userChanged") == []


def test_hostile_broadcasts_are_ignored(tabs: Tabs) -> None:
    """Whatever else a script of the origin says on the channel, no tab changes its mind or throws."""
    first = tabs.sign_up(ADA)
    [second] = tabs.open_signed_in(1, ADA)
    tokens = [first.token(), second.token()]
    shown = [tab.run("log.shown") for tab in (first, second)]
    second.run(f"(c => {{ for (const message of ({HOSTILE})()) c.postMessage(message); c.close() }})({CHANNEL})")
    _let_messages_through(second, first)
    for tab, token, before in zip((first, second), tokens, shown, strict=True):
        assert tab.run("log.shown") == before
        assert tab.token() == token
        assert tab.load() == 200
    assert tabs.errors == []


def test_frame_of_another_site_signs_nobody_out(tabs: Tabs, site: Site, family: str) -> None:
    """It is sent without cookies; the driver's Chromium lets it hear of the tabs' tokens, as no other does by default."""
    first = tabs.sign_up(ADA)
    around = tabs.open_elsewhere(f"{site.url.replace('localhost', '127.0.0.1')}/around.html")
    framed = around.frame()
    framed.is_anonymous("never")
    first.run("auth.getToken().then(auth.renew)")
    if family in {"shell", "chromium"}:
        framed.shows(status="authenticated")
    assert framed.run("auth.getToken().then((token) => token && auth.renew(token))") is None
    framed.shows(status="anonymous")
    around.close()
    assert first.load() == 200
    assert first.events("signedOut") == []
    first.page.reload()
    first.is_signed_in(ADA)


def _let_messages_through(sender: Tab, receiver: Tab) -> None:
    """Wait until a message sent now has arrived: those sent before on that channel have then been handled."""
    receiver.begin(f"new Promise(done => {CHANNEL}.addEventListener('message', e => e.data === 'end' && done(1)))")
    sender.run(f"(c => {{ c.postMessage('end'); c.close() }})({CHANNEL})")
    assert receiver.finish() == 1
