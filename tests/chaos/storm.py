"""Many browsers at once, and what must hold for all of them whatever breaks.

Owns: starting and stopping browsers, the claims, the figures of each fault. Must not hold: how faults are made.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from time import monotonic
from typing import NamedTuple

from tests.chaos.browser import Browser
from tests.chaos.node import Pace
from tests.chaos.wire import LoopThread
from tests.services import wait_until

GO_ON_TIMEOUT = 60.0
_SIGN_UPS_AT_ONCE = 4


class Row(NamedTuple):
    """What the database holds of a session."""

    generation: int
    revoked_reason: str


Rows = Callable[[], Mapping[str, Row]]
"""Reads every session, by its id in hex, past the servers."""


class Figures(NamedTuple):
    """What one fault did."""

    fault: str
    times: int
    outage: float
    """Seconds from the fault until it was mended, all times together."""
    back: float
    """Seconds until the last browser had refreshed again, the longest."""
    counts: Mapping[str, int]
    signed_out: int
    """Browsers whose session had ended afterwards, as the database says."""

    def line(self) -> str:
        """Write the row of the table."""
        count = Counter(self.counts)
        numbers = [count[name] for name in COLUMNS]
        cells = [self.fault, self.times, f"{self.outage:.1f} s", f"{self.back:.1f} s", *numbers, self.signed_out]
        return "| " + " | ".join(str(cell) for cell in cells) + " |"


COLUMNS = ("refreshed", "503", "connection lost", "given up", "left by navigation", "crashes")
HEADINGS = ("fault", "times", "outage", "all back after", *COLUMNS, "signed out")


class Storm:
    """Browsers that refresh all the time, against one or several servers.

    Args:
        thread: where they run.
        ports: of the servers.
        rows: reads the sessions from the database.
        browsers: how many.
        tabs: of each.
        pace: the protocol's times.
        thorough: after each fault, wait until every browser has confirmed once more; else when the storm ends.
    """

    def __init__(
        self,
        thread: LoopThread,
        ports: Sequence[int],
        rows: Rows,
        *,
        browsers: int,
        tabs: int,
        pace: Pace,
        thorough: bool,
    ) -> None:
        self._thorough = thorough
        self.counts: Counter[str] = Counter()
        self._thread = thread
        self._rows = rows
        self._tabs = tabs
        self._tasks: list[asyncio.Task[None]] = []
        self.browsers = [Browser(number, ports, pace, self.counts) for number in range(browsers)]

    def start(self) -> None:
        """Sign everybody in and let them go; return when the storm blows."""
        self._thread.run(self._start())
        self.all_go_on()

    def stop(self) -> None:
        """Close every browser, and assert the claims for the last time."""
        try:
            self.all_advance()
        finally:
            self.close()
        self.holds()
        self.nothing_is_missing()

    def close(self) -> None:
        """Close every browser."""
        self._thread.run(self._stop())

    def read_from(self, rows: Rows) -> int:
        """Read sessions from another database from now on, and say how many tokens are ahead of their session there."""
        self._rows = rows
        found = rows()
        return sum(browser.acknowledged > found[browser.session].generation for browser in self.browsers)

    def all_are_behind(self) -> None:
        """Wait until every browser has been told that the database lost commits."""
        since = monotonic()
        self._wait(
            lambda: all(browser.behind_at > since for browser in self.browsers), "session_behind to every browser"
        )

    def all_go_on(self) -> None:
        """Wait until every browser has got an answer to a refresh it sent after now."""
        since = monotonic()
        self._wait(lambda: all(browser.answered_at > since for browser in self.browsers), "a refresh of every browser")

    def all_advance(self) -> None:
        """Wait until every browser has been told of a confirmed generation beyond the one it has now."""
        before = [browser.acknowledged for browser in self.browsers]
        pairs = list(zip(self.browsers, before, strict=True))
        self._wait(lambda: all(browser.acknowledged > was for browser, was in pairs), "a confirm of every browser")

    def holds(self) -> None:
        """Assert that nobody was refused, signed out or sent a cleared cookie, and that every browser still runs."""
        for task in self._tasks:
            if task.done():
                task.result()
        wrongs = [(browser.session, wrong) for browser in self.browsers for wrong in browser.wrongs]
        for browser in self.browsers:
            browser.wrongs.clear()
        assert not wrongs, (len(wrongs), wrongs[:5])

    def nothing_is_missing(self) -> None:
        """Assert that the database has every confirm that a browser was told of, and has ended no session."""
        told = {browser.session: browser.acknowledged for browser in self.browsers}
        rows = self._rows()
        missing = {
            id_: (told[id_], rows.get(id_)) for id_ in told if id_ not in rows or rows[id_].generation < told[id_]
        }
        assert not missing, missing
        ended = {id_: rows[id_] for id_ in told if rows[id_].revoked_reason}
        assert not ended, ended

    def suffer(self, name: str, times: int, fault: Callable[[], AbstractContextManager[None]]) -> Figures:
        """Let a fault happen, and assert the claims: everybody goes on and nothing is missing.

        Args:
            fault: breaks something when entered and mends it when left.
        """
        before = Counter(self.counts)
        outage = back = 0.0
        for _ in range(times):
            broken_at = monotonic()
            with fault():
                pass
            mended_at = monotonic()
            self.all_go_on()
            outage += mended_at - broken_at
            back = max(back, monotonic() - mended_at)
            if self._thorough:
                self.all_advance()
            self.holds()
            self.nothing_is_missing()
        return Figures(name, times, outage, back, self.counts - before, self._signed_out())

    def wait_for(self, count: str, more: int) -> None:
        """Wait until something was counted some more times."""
        before = self.counts[count]
        self._wait(lambda: self.counts[count] >= before + more, f"{more} x {count}")

    def _signed_out(self) -> int:
        rows = self._rows()
        return sum(bool(rows[browser.session].revoked_reason) for browser in self.browsers)

    async def _start(self) -> None:
        gate = asyncio.Semaphore(_SIGN_UPS_AT_ONCE)

        async def sign_up(browser: Browser) -> None:
            async with gate:
                await browser.sign_up()

        await asyncio.gather(*(sign_up(browser) for browser in self.browsers))
        self._tasks = [asyncio.create_task(browser.run(self._tabs)) for browser in self.browsers]

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        def met() -> bool:
            self.holds()
            return condition()

        wait_until(met, GO_ON_TIMEOUT, what)
