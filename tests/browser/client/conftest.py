"""Fixtures: the client as it is shipped, the browser that is asked for, a site and a browser on it."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import pytest
from playwright.sync_api import Browser, BrowserContext, Playwright

from tests.auth.corpus import certify
from tests.browser.client.site import Files, Site
from tests.browser.client.tabs import Tabs, WebKitTab
from tests.browser.client.webkit import WebKitContext, display
from tests.browser.conftest import ARGUMENTS
from tests.databases import sqlite_database
from tests.services import BROWSERS, FIREFOXES, find_program

ROOT = Path(__file__).parents[3]
MakeSite = Callable[..., Site]


@pytest.fixture(scope="session")
def client_files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The files of the package, built anew from the source into a directory of this run."""
    out = tmp_path_factory.mktemp("client")
    command = [str(ROOT / "node_modules/.bin/tsdown"), "--no-dts", "--logLevel", "error", "--out-dir", str(out)]
    subprocess.run(command, cwd=ROOT / "client", check=True)
    return {f"/keyturn/{file.relative_to(out)}": file.read_bytes() for file in out.rglob("*.js")}


@pytest.fixture(scope="session")
def family(pytestconfig: pytest.Config) -> str:
    """Which browser these tests run in."""
    return str(pytestconfig.getoption("--browser-family"))


@pytest.fixture(scope="session")
def certificate(family: str, tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext | None:
    """What the sites are served with: nothing but for WebKit, which takes no `Secure` cookie from `http://localhost`, and here any certificate."""
    if family != "webkit":
        return None
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certify(tmp_path_factory.mktemp("certificate")))
    return tls


@pytest.fixture(scope="session")
def name_of_display() -> Iterator[str]:
    """The display of a browser that cannot do without."""
    with display() as name:
        yield name


@pytest.fixture(scope="session")
def whole_browser(playwright: Playwright, family: str) -> Iterator[Browser]:
    """The system's Chromium as people have it, with the page cache that the driver would switch off, or its Firefox."""
    if family == "firefox":
        launched = playwright.firefox.launch(channel="moz-firefox", executable_path=find_program(*FIREFOXES))
    else:
        launched = playwright.chromium.launch(
            executable_path=find_program(*BROWSERS),
            args=ARGUMENTS,
            ignore_default_args=["--disable-back-forward-cache"],
        )
    yield launched
    launched.close()


@pytest.fixture
def one_browser(request: pytest.FixtureRequest, family: str) -> Browser:
    """What a test runs in: the whole browser where that is asked for, or has to be."""
    whole = family != "shell" or request.node.get_closest_marker("page_cache") is not None
    chosen: Browser = request.getfixturevalue("whole_browser" if whole else "browser")
    return chosen


@pytest.fixture(autouse=True)
def _possible(request: pytest.FixtureRequest, family: str) -> None:
    """Skip what this browser cannot be made to do, with the reason."""
    for marker in request.node.iter_markers("impossible"):
        if family in marker.args:
            pytest.skip(marker.kwargs["reason"])


@pytest.fixture
def make_site(client_files: Files, tmp_path: Path, certificate: ssl.SSLContext | None) -> Iterator[MakeSite]:
    """Make the site of a test: `make_site(inactivity_timeout=1200)`, on SQLite unless `database_url` says otherwise."""
    with ExitStack() as stack:

        def make(database_url: str | None = None, **settings: Any) -> Site:
            url = database_url or sqlite_database(tmp_path)
            return stack.enter_context(Site(url, client_files, tls=certificate, **settings))

        yield make


@pytest.fixture
def make_tabs(request: pytest.FixtureRequest, family: str) -> Iterator[Callable[[Site], Tabs]]:
    """Make a browser of its own on a site; at the end no page may have thrown anything."""
    made: list[Tabs] = []

    def make(site: Site) -> Tabs:
        if family == "webkit":
            context = WebKitContext(request.getfixturevalue("name_of_display"), f"{site.url}/elsewhere.html")
            made.append(Tabs(cast("BrowserContext", context), site, WebKitTab))
            made[-1].errors = context.errors
        else:
            made.append(Tabs(request.getfixturevalue("one_browser").new_context(), site))
        return made[-1]

    yield make
    for tabs in made:
        tabs.context.close()
    assert [error for tabs in made for error in tabs.errors] == []


@pytest.fixture
def site(make_site: MakeSite) -> Site:
    """A site with the policy of production: its clock is moved ahead where time has to pass."""
    return make_site()


@pytest.fixture
def tabs(site: Site, make_tabs: Callable[[Site], Tabs]) -> Tabs:
    """A browser on the site."""
    return make_tabs(site)
