"""Fixtures of the browser tests: Debian's Chromium, and the demo as a process."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

from tests.services import BROWSERS, find_program

WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium of the system; the tests download none."""
    program = find_program(*BROWSERS)
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=program, args=arguments)
        yield launched
        launched.close()


@pytest.fixture
def demo_url(tmp_path: Path) -> Iterator[str]:
    """The URL of a demo of this test's own."""
    command = [sys.executable, "-m", "keyturn.cli", "demo", "--port", "0", "--directory", str(tmp_path / "demo")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            found = next(match for line in process.stdout if (match := re.search(r"http://localhost:\d+", line)))
            yield found[0]
        finally:
            process.terminate()
            assert process.wait(30) == 0


class Watch:
    """Collects what a page must not do: errors, violations of its policy, requests to elsewhere."""

    def __init__(self, url: str) -> None:
        self.complaints: list[str] = []
        self._url = url

    def follow(self, page: Page) -> None:
        """Listen to a page."""
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("console", self._console)
        page.on("request", lambda request: self._request(request.url))

    def _console(self, message: ConsoleMessage) -> None:
        # A refusal is part of what the demo shows, and Chromium logs every answer from 400 on.
        if message.type in {"error", "warning"} and "Failed to load resource" not in message.text:
            self.complaints.append(f"{message.type}: {message.text}")

    def _request(self, url: str) -> None:
        if not url.startswith(f"{self._url}/"):
            self.complaints.append(f"request: {url}")


@contextmanager
def visiting(browser: Browser, url: str, width: str = "desktop") -> Iterator[tuple[BrowserContext, Page, Watch]]:
    """Visit a page with a fresh cookie jar, and complain at the end if it did what it must not."""
    wide, high = WIDTHS[width]
    context = browser.new_context(viewport={"width": wide, "height": high})
    context.set_default_timeout(15_000)
    watch = Watch(url)
    context.on("page", watch.follow)
    page = context.new_page()
    try:
        page.goto(url)
        yield context, page, watch
        assert watch.complaints == []
    finally:
        context.close()
