"""Compare three ways to refresh in a browser: `python -m bench.client`, or `npm run bench -w bench/client`.

Each subject does the same in Chromium against the same server: requests at once whose access token has expired, in one
tab and in eight. A server with confirmed rotation forgives clients that refresh too often; one with the textbook rule
ends the session.

Owns: the scenario and its table. Must not hold: how a subject works (`subjects/`).
"""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

from playwright.sync_api import Browser, expect, sync_playwright

from keyturn.core.events import EventType
from keyturn.observability import configure_logging
from tests.browser.client.site import Files, Site
from tests.services import BROWSERS, find_program, sqlite_url

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
SUBJECTS: Final = {"snippet": "hand-written interceptor", "library": "axios-auth-refresh", "keyturn": "Keyturn"}
ARGUMENTS: Final = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]
ALONE: Final = 20
TABS: Final = 8
EACH: Final = 4
NUMBER: Final = re.compile(r"^\d+$")
PATIENCE: Final = 30_000.0
PERSON: Final = {"email": "ada@example.com", "password": "violet otters juggle quietly"}


class Outcome(NamedTuple):
    """What one subject did in one situation."""

    refreshes: int
    failed: int
    signed_out: bool


def bundle(subject: str, entry: Path, *more: str) -> bytes:
    """Return a minified bundle; Keyturn comes from its source."""
    command = [
        str(ROOT / "node_modules/.bin/esbuild"),
        str(entry),
        "--bundle",
        "--minify",
        "--format=esm",
        "--target=es2022",
        "--log-level=error",
        f"--alias:subject={HERE / 'subjects' / subject}.js",
        f"--alias:keyturn/axios={ROOT / 'client/src/axios/index.ts'}",
        f"--alias:keyturn={ROOT / 'client/src/index.ts'}",
        *more,
    ]
    return subprocess.run(command, check=True, capture_output=True, cwd=HERE).stdout


def size(subject: str) -> int:
    """Return the gzipped bytes a subject adds to an application that already has axios."""
    return len(gzip.compress(bundle(subject, HERE / "subjects" / f"{subject}.js", "--external:axios"), 9))


def pages() -> Files:
    """Return the page of each subject."""
    files: dict[str, bytes] = {}
    for subject in SUBJECTS:
        files[f"/{subject}-bench.js"] = bundle(subject, HERE / "page.js")
        html = f'<!doctype html><meta charset="utf-8"><body><script type="module" src="/{subject}-bench.js"></script>'
        files[f"/{subject}-bench.html"] = html.encode()
    return files


def measure(browser: Browser, files: Files, subject: str, rotation: str, *, tabs: int, each: int) -> Outcome:
    """Sign in, open the tabs, let the access tokens expire, let all tabs ask at once."""
    with (
        tempfile.TemporaryDirectory() as directory,
        Site(sqlite_url(Path(directory)), files, rotation=rotation) as site,
    ):
        context = browser.new_context()
        opened = [context.new_page() for _ in range(tabs)]
        for number, page in enumerate(opened):
            page.goto(f"{site.url}/{subject}-bench.html")
            expect(page.locator("body")).to_have_attribute("data-ready", "true")
            if number == 0:
                script = "body => fetch('/auth/signup', { method: 'POST', body, headers: { 'X-Keyturn': '1', "
                script += "'Content-Type': 'application/json' } }).then(() => {})"
                page.evaluate(script, json.dumps(PERSON))
                page.evaluate("body => subject.login(body).then(() => {})", PERSON)
            else:
                page.evaluate("subject.restore().then(() => {})")
        site.clock.ahead += 700
        before = len(site.proxy.refreshes)
        # The page's own channel hears it, too.
        opened[0].evaluate("count => new BroadcastChannel('bench').postMessage(count)", each)
        failed = 0
        for page in opened:
            expect(page.locator("body")).to_have_attribute("data-failed", NUMBER, timeout=PATIENCE)
            failed += int(page.locator("body").get_attribute("data-failed") or 0)
        refreshes = len(site.proxy.refreshes) - before
        context.close()
        return Outcome(refreshes, failed, site.happened(EventType.REUSE_DETECTED) != [])


def main() -> None:
    """Print the table."""
    configure_logging("error")
    files = pages()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_program(*BROWSERS), args=ARGUMENTS)
        print("| subject | gzip, without axios | server | situation | refreshes | requests failed | session |")
        print("|---|---|---|---|---|---|---|")
        for subject, name in SUBJECTS.items():
            for rotation in ("confirmed", "strict"):
                for tabs, each in ((1, ALONE), (TABS, EACH)):
                    outcome = measure(browser, files, subject, rotation, tabs=tabs, each=each)
                    situation = f"{tabs} tab{'s' * (tabs > 1)}, {each} requests each"
                    ended = "ended (reuse)" if outcome.signed_out else "lives"
                    print(
                        f"| {name} | {size(subject)} B | {rotation} | {situation} | {outcome.refreshes} "
                        f"| {outcome.failed} of {tabs * each} | {ended} |",
                        flush=True,
                    )
        browser.close()


if __name__ == "__main__":
    main()
