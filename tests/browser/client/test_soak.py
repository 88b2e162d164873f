"""Eight tabs for a while: reloads, navigations, closes, crashed renderers and a bad network, and nobody is signed out.

Time runs ten times faster for the client and for the server alike: the policy is that of production, with the shortest
access token that it allows.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterable

import pytest
from playwright.sync_api import Error

from keyturn.core.events import EventType
from keyturn.core.policy import REQUEST_LIMIT, Policy
from tests.browser.client.conftest import MakeSite
from tests.browser.client.proxy import Exchange, Fault, Moment
from tests.browser.client.site import Site
from tests.browser.client.tabs import Tab, Tabs

pytestmark = pytest.mark.services

ADA = "ada@example.com"
PACE = 10.0
ACCESS = 2 * Policy().settle_time
LIMIT = REQUEST_LIMIT / PACE
LOCK_LIMIT = 11.0
"""Seconds of the client's time for which a tab waits while others refresh, one after the other; then it does so itself."""
PATHS = ("/", "/profile", "/orders")


class BadNetwork:
    """Decides about each request for a refresh, and now and then about one for data."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def __call__(self, exchange: Exchange) -> Fault | None:
        """Return what goes wrong with a request, if anything does."""
        choice = self._random.random()
        if exchange.path == "/api/who":
            return Fault(exchange.path, drop=True) if choice < 0.02 else None
        if exchange.path != "/auth/refresh":
            return None
        if choice < 0.03:
            return Fault(exchange.path, drop=True)
        if choice < 0.07:
            return Fault(exchange.path, drop=True, moment="after")
        if choice < 0.09:
            return Fault(exchange.path, status=503)
        if choice < 0.12:
            return Fault(exchange.path, double=True)
        if choice < 0.25:
            delay = self._random.uniform(0, 1.3 * LIMIT)
            moment: Moment = "before" if choice < 0.18 else "after"
            return Fault(exchange.path, delay=delay, late=delay > 0.9 * LIMIT, moment=moment)
        return None


class Soak:
    """Eight tabs of one person."""

    def __init__(self, tabs: Tabs, seed: int) -> None:
        self._tabs = tabs
        self._random = random.Random(seed)
        self.done: dict[str, int] = {}
        tabs.sign_up(ADA, remember=True).close()
        self._open = [self._new() for _ in range(8)]
        for tab in self._open:
            tab.is_signed_in(ADA)

    def burst(self, actions: int) -> None:
        """Do what people and their machines do to tabs."""
        ways = {self._reload: 5, self._navigate: 4, self._replace: 3, self._crash: 2, self._load: 8, self._act: 4}
        for way in self._random.choices(list(ways), list(ways.values()), k=actions):
            self.done[way.__name__.strip("_")] = self.done.get(way.__name__.strip("_"), 0) + 1
            try:
                way(self._random.randrange(8))
            except Error:
                # The page is on its way to somewhere else, or has crashed; that is the point.
                continue

    def mend(self) -> None:
        """Put a new tab in place of each crashed one, and see the user in all of them."""
        for index, tab in enumerate(self._open):
            if not tab.lives():
                self._replace(index)
        for tab in self._open:
            tab.is_signed_in(ADA)

    def calm(self, seconds: float) -> list[Exchange]:
        """Use the tabs for so long without loading a page; return the refreshes of that time that the network has not cost.

        One tab in each second: more often would be nothing but work.
        """
        end = self._tabs.site.clock() + seconds
        before = len(self._tabs.refreshes)
        while self._tabs.site.clock() < end:
            index = self._random.randrange(8)
            self._load(index)
            self._act(index)
            self._wait_for_the_next_second()
        made = self._tabs.refreshes[before:]
        return [one for one in made if not (one.lost or one.took > 0.9 * LIMIT or _beside(one, made))]

    def _new(self) -> Tab:
        return self._tabs.open(self._random.choice(PATHS), pace=PACE, tell=1)

    def _wait_for_the_next_second(self) -> None:
        clock = self._tabs.site.clock
        second = clock() + 1
        self._tabs.until(lambda: clock() >= second, "the next second")

    def _reload(self, index: int) -> None:
        self._open[index].begin("location.reload()")

    def _navigate(self, index: int) -> None:
        self._open[index].begin(f"location.assign('{self._random.choice(PATHS)}?pace={PACE}&tell=1')")

    def _replace(self, index: int) -> None:
        self._open[index].close()
        self._open[index] = self._new()

    def _crash(self, index: int) -> None:
        crashed = self._open[index]
        self._open[index] = self._new()
        crashed.crash()
        crashed.close()

    def _load(self, index: int) -> None:
        self._open[index].begin("load()")

    def _act(self, index: int) -> None:
        self._open[index].begin("dispatchEvent(new PointerEvent('pointermove'))")


def _beside(late: Exchange, all_of_them: Iterable[Exchange]) -> bool:
    """Say whether others' were under way when a tab that waits no longer began to wait, and when it was sent."""
    others = [one for one in all_of_them if one is not late]
    moments = (late.at - LOCK_LIMIT, late.at)
    return all(any(one.at <= moment <= one.at + one.took * PACE for one in others) for moment in moments)


@pytest.mark.waits
def test_soak_signs_nobody_out_and_refreshes_no_more_than_needed(
    make_site: MakeSite, make_tabs: Callable[[Site], Tabs], prove: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """No false sign-out, no reuse; without page loads at most 1.3 refreshes in the life of an access token."""
    site = make_site(pace=PACE, access_lifetime=ACCESS)
    tabs = make_tabs(site)
    soak = Soak(tabs, seed=3)
    site.proxy.chaos = BadNetwork(seed=5)
    ends_at = time.monotonic() + (600 if prove else 0)
    lifetimes, calms = 0.0, 0
    calm: list[Exchange] = []
    while calms < 2 or time.monotonic() < ends_at:
        soak.burst(30)
        soak.mend()
        began = site.clock()
        calm += soak.calm(1.5 * ACCESS)
        lifetimes += (site.clock() - began) / ACCESS
        calms += 1
    site.proxy.calm()
    soak.mend()

    assert site.proxy.to("/note") == []
    tabs.assert_nobody_was_signed_out()
    assert {one.status for one in tabs.refreshes if one.over and not one.lost} == {200}
    confirmed = [event for event in site.happened(EventType.REFRESHED) if event.data.get("outcome") == "confirm"]
    with capsys.disabled():
        lost = sum(one.lost for one in tabs.refreshes)
        sys.stdout.write(
            f"\nsoak: {soak.done}, {len(tabs.refreshes)} refreshes ({lost} lost, {len(confirmed)} confirmed); "
            f"calm: {len(calm)} in {lifetimes:.1f} lifetimes = {len(calm) / lifetimes:.2f}\n"
        )
    # Without tabs that listen to each other it would be eight. Two calms are few, so the short version allows one more in
    # each: an answer may also be late on its way from the proxy.
    assert len(calm) <= 1.3 * lifetimes + (0 if prove else calms)
