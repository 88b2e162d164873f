"""WebKit, the engine of Safari, as Debian's WebKitGTK has it, behind the part of Playwright's interface that these tests use.

Owns: the driver as a process, its commands (W3C WebDriver), a page and a browser of it. Must not hold: how tests look into
a tab (`tabs.py`). Playwright drives only a WebKit that it has patched and downloads itself.

Why no library: Selenium is 35 MB with programs for every system, and what is needed of it are these few commands.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

import httpx
from playwright.sync_api import Error

from tests.services import DISPLAY, WEBKIT, find_program, free_port, wait_until

PATIENCE: Final = 60.0
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


class WebKitContext:
    """A browser of its own, with a cookie jar of its own.

    Args:
        site: the URL of a page without the client, which stays open: a browser without a page would end, and its cookies with it.
    """

    def __init__(self, name_of_display: str, site: str) -> None:
        port = free_port()
        # In C, as everything that a test compares with is English.
        environment = {**os.environ, "DISPLAY": name_of_display, "LC_ALL": "C"}
        self._process = subprocess.Popen(
            [str(find_program(WEBKIT)), f"--port={port}"], env=environment, stderr=subprocess.DEVNULL
        )
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE, trust_env=False)
        self._session = ""
        self._current = ""
        self.pages: list[WebKitPage] = []
        self.errors: list[str] = []
        """What pages threw that have been closed."""
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


class WebKitPage:
    """A tab."""

    def __init__(self, context: WebKitContext, handle: str) -> None:
        self._context = context
        self._handle = handle

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
