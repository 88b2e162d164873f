"""One browser with several tabs on a site, and one tab of it.

Owns: how tests look into a tab and make it do something. Must not hold: expectations of one test.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast

from playwright.sync_api import BrowserContext, Error, Page, expect

from keyturn.core.events import EventType
from tests.browser.client.proxy import Exchange
from tests.browser.client.site import Site
from tests.browser.client.webkit import WebKitFrame, WebKitPage
from tests.services import wait_until

PASSWORD: Final = "violet otters juggle quietly"
REFRESH_COOKIE: Final = "__Host-kt_refresh"
PATIENCE: Final = 20.0
_orders = itertools.count(1)


class Tab:
    """One tab with the test page."""

    def __init__(self, page: Page, site: Site) -> None:
        self.page = page
        self._site = site

    def go(self, path: str = "/", **parameters: object) -> Tab:
        """Open the test page in this tab."""
        query = "&".join(f"{name}={value}" for name, value in parameters.items())
        self.page.goto(f"{self._site.url}{path}" + (f"?{query}" if query else ""))
        self.shows(ready="true")
        return self

    def shows(self, **what: str) -> None:
        """Wait until the page says so: status, reason, warning, persisted, done."""
        for name, value in what.items():
            expect(self.page.locator("body")).to_have_attribute(f"data-{name}", value, timeout=PATIENCE * 1000)

    def holds(self, element: str, text: str) -> None:
        """Wait until an element of the page (who, data) has this text."""
        expect(self.page.locator(f"#{element}")).to_have_text(text)

    def says(self, name: str) -> str | None:
        """What the page says right now."""
        return self.page.locator("body").get_attribute(f"data-{name}")

    def is_signed_in(self, email: str) -> None:
        """Wait until the page shows this user, verified."""
        self.shows(status="authenticated")
        self.holds("who", email)

    def is_anonymous(self, reason: str) -> None:
        """Wait until the page shows nobody, for this reason."""
        self.shows(status="anonymous", reason=reason)
        self.holds("who", "")

    def comes_to_say(self, **what: str) -> Callable[[], bool]:
        """Whether a page that came back from the page cache says so; `who` is what it shows.

        Without locators: those of Firefox's driver wait for ever for the end of that way back.
        """

        def says() -> bool:
            # It may still be on its way.
            with suppress(Error):
                said = self.run("({ ...document.body.dataset, who: document.querySelector('#who').textContent })")
                return bool(what.items() <= said.items())
            return False

        return says

    def lives(self) -> bool:
        """Whether the page answers: it may have been closed, or its renderer killed."""
        try:
            return bool(self.page.locator("body").get_attribute("data-ready", timeout=5000))
        except Error:
            return False

    def crash(self) -> None:
        """Let the renderer crash, where it can be made to: in Chromium."""
        with suppress(Error):
            self.page.goto("chrome://crash", timeout=5000)

    def run(self, script: str, argument: Any = None) -> Any:
        """Run a script in the page and return what it returns; `auth`, `log` and `load` are there."""
        return self.page.evaluate(script, argument)

    def begin(self, script: str) -> None:
        """Start something; `finish` waits for it and returns what came out."""
        # Through the body, because that has a time limit: a page may be on its way to another.
        self.page.locator("body").evaluate(f"() => {{ globalThis.begun = {script} }}", timeout=PATIENCE * 1000)

    def finish(self) -> Any:
        """Wait for what was begun."""
        return self.page.evaluate("begun")

    def token(self) -> str:
        """The access token, refreshed when needed."""
        token: str = self.run("auth.getToken()")
        return token

    def load(self) -> object:
        """Let the page ask the API who it is: the status, or the code of the client's error."""
        return self.run("load()")

    def enter(self, how: str, email: str, **more: object) -> None:
        """Sign up or log in."""
        self.run(f"body => auth.{how}(body).then(() => {{}})", {"email": email, "password": PASSWORD, **more})

    def events(self, name: str) -> list[Any]:
        """What the listeners of an event were told so far."""
        return [detail for kind, detail in self.run("log.events") if kind == name]

    def frame(self) -> Tab:
        """Return the page in the first frame, as one to look into."""
        self.page.frame_locator("iframe").locator("body").wait_for()
        return type(self)(cast("Page", self.page.frames[1]), self._site)

    def close(self) -> None:
        """Close the tab as a person does; its requests with `keepalive` go on."""
        self.page.close()


class WebKitTab(Tab):
    """One tab of a browser whose driver waits for nothing by itself."""

    def shows(self, **what: str) -> None:
        """Wait until the page says so."""
        wait_until(self.comes_to_say(**what), PATIENCE, f"{what} in the page")

    def holds(self, element: str, text: str) -> None:
        """Wait until an element of the page has this text."""
        wait_until(lambda: self.run(f"{element}.textContent") == text, PATIENCE, f"{text} in {element}")

    def says(self, name: str) -> str | None:
        """What the page says right now."""
        said: str | None = self.run(f"document.body.dataset.{name}")
        return said

    def lives(self) -> bool:
        """Whether the page answers."""
        with suppress(Error):
            return self.says("ready") is not None
        return False

    def frame(self) -> Tab:
        """Return the page in the first frame."""
        return WebKitTab(cast("Page", WebKitFrame(cast("WebKitPage", self.page))), self._site)

    def crash(self) -> None:
        """Do nothing: other pages may be in the same process."""

    def begin(self, script: str) -> None:
        """Start something."""
        self.run(f"() => {{ globalThis.begun = {script} }}")


class Tabs:
    """A browser (a cookie jar) with tabs on one site."""

    def __init__(self, context: BrowserContext, site: Site, kind: type[Tab] = Tab) -> None:
        self.context = context
        self.site = site
        self._kind = kind
        self._blocked = ""
        self.errors: list[str] = []
        """What pages threw."""
        context.on("weberror", lambda error: self._keep(error.error))
        context.set_default_timeout(PATIENCE * 1000)

    def _keep(self, error: Error) -> None:
        # Firefox's driver calls a violation of the policy an error; the page hears of it, too (`log.violations`).
        text = error.stack or error.message
        if error.name != "Content-Security-Policy" and not (self._blocked and text.startswith(self._blocked)):
            self.errors.append(text)

    def expect_blocked(self, path: str, site: str = "") -> None:
        """Expect that an answer of another origin will be hidden: Firefox's driver takes that for an error of the page."""
        self._blocked = f"Cross-Origin Request Blocked: The Same Origin Policy disallows reading the remote resource at {site or self.site.url}{path}."

    def open(self, path: str = "/", **parameters: object) -> Tab:
        """Open a tab with the test page."""
        return self._kind(self.context.new_page(), self.site).go(path, **parameters)

    def open_elsewhere(self, url: str) -> Tab:
        """Open a tab with another page."""
        tab = self._kind(self.context.new_page(), self.site)
        tab.page.goto(url)
        return tab

    def sign_up(self, email: str, **more: object) -> Tab:
        """Open a tab and sign up in it."""
        tab = self.open()
        tab.is_anonymous("never")
        tab.enter("signup", email, **more)
        tab.is_signed_in(email)
        return tab

    def open_signed_in(self, count: int, email: str) -> list[Tab]:
        """Open so many tabs, one by one, and wait until each shows the user."""
        tabs = [self.open() for _ in range(count)]
        for tab in tabs:
            tab.is_signed_in(email)
        return tabs

    def order(self, tabs: list[Tab], what: str, outcome: object) -> None:
        """Let all tabs do the same at once (start or load), and wait until it came out so in each."""
        number = next(_orders)
        sender = self.context.new_page()
        sender.goto(f"{self.site.url}/elsewhere.html")
        message = {"order": what, "number": number}
        sender.evaluate("m => { const c = new BroadcastChannel('orders'); c.postMessage(m); c.close() }", message)
        for tab in tabs:
            tab.shows(done=f"{number}:{outcome}")
        sender.close()

    @property
    def cookie(self) -> str | None:
        """The refresh cookie in the jar."""
        return next((one.get("value") for one in self.context.cookies() if one.get("name") == REFRESH_COOKIE), None)

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for something outside of a page."""
        wait_until(condition, PATIENCE, what)

    def until_cookie_is_not(self, before: str | None) -> None:
        """Wait for another refresh cookie."""
        self.until(lambda: self.cookie != before, "another cookie")

    @property
    def refreshes(self) -> list[Exchange]:
        """The refreshes of this site so far."""
        return self.site.proxy.refreshes

    def settle(self) -> None:
        """Let the settle time pass at the server, so that the next refresh confirms."""
        self.site.clock.ahead += 100

    def expire(self) -> None:
        """Let every access token of now expire at the server; pages that keep their own time do not know."""
        self.site.clock.ahead += 700

    def fake_time(self) -> None:
        """Take the time of the pages in hand, before any is opened; `advance` then moves it and the server's."""
        self.context.clock.install()

    def advance(self, seconds: float) -> None:
        """Let this time pass in all pages and at the server; what it sets off is over at the end.

        A timer that is due runs once, as on a device that slept.
        """
        self._move_time(seconds)
        self.until(lambda: self.site.proxy.idle and not self._locks(), "quiet")

    def advance_until(self, moment: float, step: float) -> None:
        """Let time pass in steps until a moment of the server's clock, which goes on by itself while they are made."""
        while (left := moment - self.site.clock()) > 0:
            self.advance(min(step, left))

    def sleep(self, seconds: float) -> None:
        """Let the device sleep this long: time passes in all pages and at the server.

        A device has one clock, but those of the pages are moved one by one. A token that comes in between would be old
        for a page that is still to be moved, so no answer comes before all have been.
        """
        hold = self.site.proxy.hold("/auth/refresh", times=len(self.context.pages))
        self._move_time(seconds)
        hold.release()

    def _move_time(self, seconds: float) -> None:
        self.site.clock.ahead += seconds
        self.context.clock.fast_forward(int(seconds * 1000))

    def _locks(self) -> int:
        script = "navigator.locks.query().then(({ held, pending }) => held.length + pending.length)"
        number: int = self.context.pages[0].evaluate(script)
        return number

    def assert_nobody_was_signed_out(self) -> None:
        """No reuse, no end of a session, in the eyes of the server."""
        for kind in (EventType.REUSE_DETECTED, EventType.SESSION_ENDED):
            assert self.site.happened(kind) == []
