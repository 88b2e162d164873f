"""Fixtures of the browser tests: Debian's Chromium, the demo as a process, a look at what a page shows."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal, Protocol

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Playwright, expect, sync_playwright
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from tests.services import SHELLS, find_program

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
FIREFOX = Path(__file__).parent / "firefox.cjs"
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
PICTURE = (1040, 720)
MAX_IMAGE_BYTES = 150_000
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]
PATIENCE = 30.0
"""Seconds that a test waits for what a page shows in milliseconds, on a machine that may stand still for some."""
KEPT = ("users", "sessions", "counters", "events")
"""What a demo keeps about people."""
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}


class OneByOne(LoadScopeScheduling):  # type: ignore[misc]
    """Gives a worker of pytest-xdist one test after the other, and all tests of one version of Next.js to the same worker.

    So each example is started once, and what waits for real time does not all wait on the first worker.
    """

    def _split_scope(self, nodeid: str) -> str:
        if "/next/" not in nodeid:
            return nodeid
        return "next-15" if "[next-15" in nodeid else "next-16"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> OneByOne:
    """Share these tests out so, when they run by themselves."""
    return OneByOne(config, log)


@pytest.fixture(scope="session")
def playwright(pytestconfig: pytest.Config) -> Iterator[Playwright]:
    """The driver of the browsers: one for a process, which can have no second."""
    expect.set_options(timeout=PATIENCE * 1000)
    with pytest.MonkeyPatch.context() as patch:
        if pytestconfig.getoption("--browser-family") == "firefox":
            patch.setenv("NODE_OPTIONS", f"--require={FIREFOX}")
        with sync_playwright() as started:
            yield started


@pytest.fixture(scope="session")
def browser(playwright: Playwright) -> Iterator[Browser]:
    """A headless Chromium of the system; the tests download none."""
    launched = playwright.chromium.launch(executable_path=find_program(*SHELLS), args=ARGUMENTS)
    yield launched
    launched.close()


@contextmanager
def demo(directory: Path, *options: str) -> Iterator[str]:
    """Run a demo and give its URL."""
    command = [sys.executable, "-m", "keyturn.cli", "demo", "--port", "0", "--directory", str(directory), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            found = next(match for line in process.stdout if (match := re.search(r"http://localhost:\d+", line)))
            yield found[0]
        finally:
            process.terminate()
            assert process.wait(30) == 0


@pytest.fixture(scope="session")
def running_demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A demo for all tests of a process, which starts no quicker than a test takes, and its database."""
    directory = tmp_path_factory.mktemp("demo")
    with demo(directory) as url:
        yield url, directory / "keyturn.db"


@pytest.fixture
def demo_url(running_demo: tuple[str, Path]) -> str:
    """The URL of a demo where nobody has signed up yet."""
    url, database = running_demo
    with closing(sqlite3.connect(database, timeout=PATIENCE)) as connection:
        connection.executescript("".join(f"DELETE FROM keyturn_{table};" for table in KEPT))
    return url


@pytest.fixture
def impatient_demo_url(tmp_path: Path) -> Iterator[str]:
    """The URL of a demo of this test's own, where a session ends after 36 s without activity and the page asks for half of them."""
    with demo(tmp_path / "demo", "--inactivity", "36") as url:
        yield url


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
    # What moves is painted sixty times a second, in every tab, and no test looks at it.
    context = browser.new_context(viewport={"width": wide, "height": high}, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE * 1000)
    watch = Watch(url)
    context.on("page", watch.follow)
    page = context.new_page()
    try:
        page.goto(url)
        yield context, page, watch
        assert watch.complaints == []
    finally:
        context.close()


class Look(Protocol):
    """Judge what a page shows now, and keep a picture of it where pictures are asked for."""

    def __call__(self, page: Page, picture: str = "", /) -> None:
        """`picture`: its name in docs/images; it ends with the colour scheme that is kept."""


@pytest.fixture
def look(pytestconfig: pytest.Config) -> Look:
    """Judge what a page shows now, light and dark: axe finds nothing and nothing sticks out at the side.

    With `--screenshots` it also keeps the picture of which it is given the name.
    """
    keep = bool(pytestconfig.getoption("--screenshots"))

    def judge(page: Page, picture: str = "", /) -> None:
        # By the debugger, so that the page's own policy stays in force.
        page.context.new_cdp_session(page).send("Runtime.evaluate", {"expression": AXE.read_text(encoding="utf-8")})
        schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
        for scheme in schemes:
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            found = page.evaluate(
                "async () => (await axe.run()).violations.map(v => [v.id, v.help, v.nodes.map(n => n.html)])"
            )
            assert found == [], scheme
            assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
            if keep and picture.endswith(scheme):
                _keep(page, picture)
        page.emulate_media(color_scheme=None, reduced_motion=None)

    return judge


def _keep(page: Page, name: str) -> None:
    size = page.viewport_size
    assert size is not None
    page.set_viewport_size({"width": min(size["width"], PICTURE[0]), "height": min(size["height"], PICTURE[1])})
    page.evaluate("window.scrollTo(0, 0)")
    content = page.screenshot()
    page.set_viewport_size(size)
    assert len(content) < MAX_IMAGE_BYTES, (name, len(content))
    IMAGES.mkdir(exist_ok=True)
    (IMAGES / f"{name}.png").write_bytes(content)
