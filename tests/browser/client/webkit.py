"""WebKit, the engine of Safari, as Debian's WebKitGTK has it, behind the part of Playwright's interface that these tests use.

Owns: the driver as a process, its commands (W3C WebDriver), a page and a browser of it. Must not hold: how tests look into
a tab (`tabs.py`). Playwright drives only a WebKit that it has patched and downloads itself.

Why no library: Selenium is 35 MB with programs for every system, and what is needed of it are these few commands.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkstemp
from typing import Any, Final

import httpx
from playwright.sync_api import Error

from tests.services import DISPLAY, WEBKIT, find_program, free_port, other_clock, wait_until

PATIENCE: Final = 60.0
LOOK: Final = 1100
"""Milliseconds in which every page has looked at its clock."""
# A function's value is what it returns, as with Playwright; a promise's what comes of it.
EVALUATE: Final = """
const [argument, done] = arguments;
const evaluate = async () => {
  const value = (
    %s
  );
  return typeof value === "function" ? value(argument) : value;
};
evaluate().then((value) => done({ value }), (error) => done({ error: `${error?.stack ?? error}` }));
"""


@contextmanager
def display() -> Iterator[str]:
    """Run a display that nobody sees and give its name."""
    reader, writer = os.pipe()
    command = [str(find_program(DISPLAY)), "-displayfd", str(writer), "-screen", "0", "1280x900x24", "-nolisten", "tcp"]
    with subprocess.Popen(command, pass_fds=[writer], stderr=subprocess.DEVNULL) as process:
        os.close(writer)
        try:
            # It says which number it has taken once it can be used.
            with os.fdopen(reader, encoding="ascii") as numbers:
                yield f":{int(numbers.readline())}"
        finally:
            process.terminate()


class WebKitClock:
    """The time of day of a browser, all its processes included: after it has been moved nothing has waited for longer, as with a device
    that slept.

    Args:
        pages: the tabs at the moment.
    """

    def __init__(self, pages: Sequence[WebKitPage]) -> None:
        self._pages = pages
        self._seconds = 0.0
        self._file, self._name = mkstemp(prefix="keyturn-clock-")
        self.move(0.0)

    @property
    def variables(self) -> dict[str, str]:
        """What the browser is started with."""
        return {**other_clock(), "FAKETIME_TIMESTAMP_FILE": self._name, "FAKETIME_NO_CACHE": "1"}

    def install(self) -> None:
        """Do nothing: it is there from the start."""

    def fast_forward(self, milliseconds: int) -> None:
        """Move it, and let every tab look at it once, which it does each second."""
        self.move(milliseconds / 1000)
        for page in self._pages:
            page.evaluate(f"() => {{ globalThis.looked = new Promise((resolve) => setTimeout(resolve, {LOOK})) }}")
        for page in self._pages:
            page.evaluate("looked")

    def move(self, seconds: float) -> None:
        """Move it."""
        self._seconds += seconds
        # In one write, of as many bytes each time: it is read at any time.
        os.pwrite(self._file, b"+%013.3f\n" % self._seconds, 0)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._file)
        Path(self._name).unlink()


class WebKitContext:
    """A browser of its own, with a cookie jar of its own.

    Args:
        site: the URL of a page without the client, which stays open: a browser without a page would end, and its cookies with it.

    Attributes:
        clock: its time.
        pages: its tabs.
        errors: what pages threw that have been closed.
    """

    def __init__(self, name_of_display: str, site: str) -> None:
        port = free_port()
        self.pages: list[WebKitPage] = []
        self.errors: list[str] = []
        self.clock = WebKitClock(self.pages)
        # In C, as everything that a test compares with is English.
        environment = {**os.environ, **self.clock.variables, "DISPLAY": name_of_display, "LC_ALL": "C"}
        self._process = subprocess.Popen(
            [str(find_program(WEBKIT)), f"--port={port}"], env=environment, stderr=subprocess.DEVNULL
        )
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE, trust_env=False)
        self._session = ""
        self._current = ""
        try:
            wait_until(self._listens, PATIENCE, WEBKIT)
            capabilities = {"alwaysMatch": {"acceptInsecureCerts": True, "timeouts": {"script": int(PATIENCE * 1000)}}}
            self._session = f"/session/{self._command('POST', '/session', capabilities=capabilities)['sessionId']}"
            self._current = self.call("GET", "/window")
            self._keeper = WebKitPage(self, self._current)
            self._keeper.goto(site)
        except BaseException:
            self._stop()
            raise

    def new_page(self) -> WebKitPage:
        """Open a tab."""
        page = WebKitPage(self, self._keeper.call("POST", "/window/new", type="window")["handle"])
        self.pages.append(page)
        return page

    def cookies(self) -> list[dict[str, Any]]:
        """Return the cookies of the site."""
        cookies: list[dict[str, Any]] = self._keeper.call("GET", "/cookie")
        return cookies

    def on(self, _event: str, _listener: object) -> None:
        """Do nothing: WebKit's driver tells of no event. What pages threw is in `errors`."""

    def set_default_timeout(self, _timeout: float) -> None:
        """Do nothing: the driver has been told."""

    def close(self) -> None:
        """Close the browser."""
        try:
            for page in tuple(self.pages):
                page.close()
            self.call("DELETE", "")
        finally:
            self._stop()

    def call(self, method: str, path: str, **body: object) -> Any:
        """Give the driver a command of the session.

        Raises:
            Error: it refused.
        """
        return self._command(method, self._session + path, **body)

    def switch_to(self, page: str) -> None:
        """Let the next commands be for this page: a driver is on one at a time."""
        if self._current != page:
            self.call("POST", "/window", handle=page)
            self._current = page

    def _command(self, method: str, path: str, **body: object) -> Any:
        answer = self._http.request(method, path, json=body if method == "POST" else None)
        value = answer.json()["value"]
        if answer.is_error:
            raise Error(f"{value['error']}: {value['message']}")
        return value

    def _listens(self) -> bool:
        with suppress(httpx.TransportError):
            return bool(self._command("GET", "/status")["ready"])
        return False

    def _stop(self) -> None:
        self._http.close()
        self._process.terminate()
        self._process.wait(PATIENCE)
        self.clock.close()


class WebKitPage:
    """A tab.

    Attributes:
        mouse: what a person moves over it.
    """

    def __init__(self, context: WebKitContext, handle: str) -> None:
        self._context = context
        self._handle = handle
        self.mouse = WebKitMouse(self)

    def call(self, method: str, path: str, **body: object) -> Any:
        """Give the driver a command for this tab."""
        self._context.switch_to(self._handle)
        return self._context.call(method, path, **body)

    def goto(self, url: str) -> None:
        """Go to a page, and wait until it is there."""
        self._keep_errors()
        self.call("POST", "/url", url=url)

    def reload(self) -> None:
        """Load the page anew, and wait until it is there."""
        self._keep_errors()
        self.call("POST", "/refresh")

    def evaluate(self, script: str, argument: object = None) -> Any:
        """Run a script in the page, outside of its policy, and return what comes of it.

        Raises:
            Error: it threw, or its page has gone meanwhile.
        """
        outcome: Mapping[str, Any] = self.call(
            "POST",
            "/execute/async",
            script=EVALUATE % script.rstrip().removesuffix(";"),
            args=[argument],
        )
        if "error" in outcome:
            raise Error(outcome["error"])
        return outcome.get("value")

    def close(self) -> None:
        """Close the tab."""
        self._keep_errors()
        self.call("DELETE", "/window")
        self._context.pages.remove(self)

    def bring_to_front(self) -> None:
        """Do nothing: each tab has a window of its own, and the driver moves the mouse over whichever it is told."""

    def _keep_errors(self) -> None:
        # The page may be on its way to another, or be one without the client.
        with suppress(Error):
            self._context.errors += self.evaluate("globalThis.log?.errors ?? []")


class WebKitFrame:
    """The first frame of a tab: what happens in it, and no more."""

    def __init__(self, page: WebKitPage) -> None:
        self._page = page

    def evaluate(self, script: str, argument: object = None) -> Any:
        """Run a script in it, as in a page."""
        self._page.call("POST", "/frame", id=0)
        try:
            return self._page.evaluate(script, argument)
        finally:
            self._page.call("POST", "/frame", id=None)


class WebKitMouse:
    """The pointer of a tab."""

    def __init__(self, page: WebKitPage) -> None:
        self._page = page
        self._at = {"x": 0, "y": 0}
        self._uneven = 0

    def move(self, x: int, y: int) -> None:
        """Move it to a place."""
        self._at = {"x": x, "y": y}
        self._act("pointer", type="pointerMove", duration=0)

    def wheel(self, x: int, y: int) -> None:
        """Turn the wheel where it is."""
        # Never twice by the same: the driver would take the second turn for what is already so.
        self._uneven = 1 - self._uneven
        self._act("wheel", type="scroll", deltaX=x, deltaY=y + self._uneven, duration=0)

    def _act(self, device: str, **action: object) -> None:
        source = {"type": device, "id": device, "actions": [{**self._at, **action}]}
        self._page.call("POST", "/actions", actions=[source])
