"""The example as it is deployed elsewhere: `node server.js` below a base path, with static pages beside the private ones.

It is built for this, so it is no part of `make test`: `make prove` runs it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Browser, Page, expect

from keyturn.core.events import EventType
from tests.browser.next.application import BUILT_FOR, ROOT, Front
from tests.browser.next.visitor import PATIENCE, REFRESH, Visitor

pytestmark = pytest.mark.services
BUILD: Final = ROOT / "build/next-standalone"
"""Below the root: Next.js finds what it needs in the workspace."""
CONFIG: Final = """import { withAuthRewrites } from "keyturn/next";
export default withAuthRewrites({
  reactStrictMode: true, basePath: "/app", trailingSlash: true, skipTrailingSlashRedirect: true, output: "standalone",
});
"""
ROOT_LAYOUT: Final = """import type { ReactNode } from "react";
import "./globals.css";
export default function Layout({ children }: { children: ReactNode }) {
  return <html lang="en"><body>{children}</body></html>;
}
"""
LAYOUT: Final = """import { AuthProvider } from "keyturn/next";
import { getSession } from "keyturn/next/server";
import type { ReactNode } from "react";
import { Header } from "../header";
export default async function Layout({ children }: { children: ReactNode }) {
  return <AuthProvider initialSession={await getSession()}><Header /><main>{children}</main></AuthProvider>;
}
"""
STATIC_LAYOUT: Final = (
    LAYOUT.replace('import { getSession } from "keyturn/next/server";\n', "")
    .replace(" initialSession={await getSession()}", "")
    .replace("async ", "")
)
ABOUT: Final = "export default function About() { return <h1>About us</h1>; }\n"


def arrange() -> None:
    """Put the files of the example into two route groups: one with the layout that asks, one with static pages."""
    shutil.rmtree(BUILD, ignore_errors=True)
    shutil.copytree(ROOT / "examples/nextjs", BUILD, ignore=shutil.ignore_patterns(".*", "node_modules"))
    app = BUILD / "app"
    (BUILD / "next.config.ts").write_text(CONFIG)
    (app / "layout.tsx").write_text(ROOT_LAYOUT)
    for group, layout in (("(asks)", LAYOUT), ("(static)", STATIC_LAYOUT)):
        (app / group).mkdir()
        (app / group / "layout.tsx").write_text(layout)
    for name in ("account", "live", "login", "page.tsx"):
        (app / name).rename(app / "(asks)" / name)
    (app / "(static)/about").mkdir()
    (app / "(static)/about/page.tsx").write_text(ABOUT)


class Standalone(Front):
    """The example as a standalone server: it hears of its key, and of all else but the rewrites, when it runs."""

    def _copy(self) -> Path:
        arrange()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("KEYTURN_")}
        environment |= {"KEYTURN_URL": BUILT_FOR, "NEXT_TELEMETRY_DISABLED": "1"}
        program = ROOT / "node_modules/next/dist/bin/next"
        subprocess.run(["node", str(program), "build", str(BUILD)], env=environment, check=True)
        copy = BUILD / ".next/standalone" / BUILD.relative_to(ROOT)
        shutil.copytree(BUILD / ".next/static", copy / ".next/static")
        self._readdress(copy / ".next")
        server = copy / "server.js"
        server.write_text(server.read_text().replace(BUILT_FOR, self.site.url))
        return copy

    def _command(self, copy: Path) -> list[str]:
        return ["node", str(copy / "server.js")]


@pytest.fixture(scope="module")
def standalone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """The running server."""
    with Standalone("next-16", tmp_path_factory.mktemp("standalone")) as front:
        yield front


@pytest.fixture
def ada(browser: Browser, standalone: Front) -> Iterator[Visitor]:
    """A visitor; at the end no page may have complained."""
    expect.set_options(timeout=PATIENCE * 1000)
    visitor = Visitor(browser.new_context(), standalone, 1)
    yield visitor
    visitor.leave()
    assert visitor.complaints == []
    assert standalone.site.happened(EventType.REUSE_DETECTED) == []


def heading(page: Page, text: str) -> None:
    """Wait for a page."""
    expect(page.get_by_role("heading", level=1)).to_have_text(text)


def test_two_tabs_of_a_standalone_server_below_a_base_path(ada: Visitor) -> None:
    """Sign-up, refresh, static and private pages, and a logout, with the prefix in every address but the server's."""
    front, page = ada.front, ada.page
    ada.go("/app/about/")
    expect(page.get_by_role("banner").get_by_role("link", name="Log in")).to_be_visible()
    assert front.site.proxy.refreshes == []

    ada.go("/app/account/")
    page.wait_for_url(f"{front.url}/app/login?returnTo=%2Faccount%2F")
    ada.fill_in("Sign up")
    page.wait_for_url(f"{front.url}/app/account/")
    ada.sees_devices()
    ada.until(lambda: len(front.site.proxy.refreshes) == 1, "the refresh of the new document")

    other = ada.context.new_page()
    html = other.goto(f"{front.url}/app/about/")
    assert html is not None
    assert "s-maxage" in html.headers["cache-control"]
    expect(other.locator("#who")).to_have_text(ada.name)
    with ada.client() as client:
        for path in ("/app/about/", "/app/about"):
            assert not re.search(re.escape(ada.name) + "|" + re.escape(ada.email), client.get(path).text)
        assert client.get("/app/api/hello/").json() == {"hello": ada.name}

    front.advance(100)
    before = ada.cookies[REFRESH]
    with other.expect_response("**/auth/refresh") as refreshed:
        other.get_by_role("link", name="Account").click()
    assert refreshed.value.status == 200
    heading(other, f"Devices of {ada.name}")
    ada.until(lambda: ada.cookies[REFRESH] != before, "the new cookie")

    other.goto(f"{front.url}/app/about/")
    other.get_by_role("button", name="Log out").click()
    page.wait_for_url(f"{front.url}/app/login?returnTo=%2Faccount%2F")
    heading(page, "Log in")
    heading(other, "About us")
    expect(other.get_by_role("banner").get_by_role("link", name="Log in")).to_be_visible()
    expect(other.locator("#who")).to_have_count(0)
