"""The quick starts of the guide to the Python clients, run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyturn.client import FileTokenStore, KeyturnAuth
from tests.browser.client.site import Site
from tests.databases import sqlite_database

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "python-client.md").read_text(encoding="utf-8")
SYNC, ASYNC = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
EMAIL, PASSWORD = "ada@example.com", "violet otters juggle quietly"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server with one user."""
    with Site(sqlite_database(tmp_path_factory.mktemp("guide")), {}) as made:
        KeyturnAuth(made.url).sign_up(EMAIL, PASSWORD)
        yield made


def run(program: str, site: Site, directory: Path) -> str:
    """Run a program in an empty directory and return what it printed."""
    environment = {**os.environ, "SERVER": site.url, "EMAIL": EMAIL, "PASSWORD": PASSWORD}
    command = [sys.executable, "-W", "error", "-c", program]
    return subprocess.run(command, cwd=directory, env=environment, check=True, capture_output=True, text=True).stdout


def test_quick_start_in_threads_signs_in_once_and_stays_signed_in(site: Site, tmp_path: Path) -> None:
    """The first run logs in, the second finds the sign-in in the file."""
    before = len(site.proxy.to("/auth/login"))
    for _ in range(2):
        assert run(SYNC, site, tmp_path) == f"hello {EMAIL}\n"
    assert len(site.proxy.to("/auth/login")) - before == 1
    assert FileTokenStore(tmp_path / "sign-in" / "tokens.json").load().refresh_token is not None


def test_quick_start_in_tasks_signs_in_and_out(site: Site, tmp_path: Path) -> None:
    """Five requests, one login, one logout."""
    before = len(site.proxy.to("/auth/logout"))
    assert run(ASYNC, site, tmp_path) == f"hello {EMAIL}\n"
    assert len(site.proxy.to("/auth/logout")) - before == 1


@pytest.mark.parametrize("program", [SYNC, ASYNC], ids=["threads", "tasks"])
def test_quick_start_is_short(program: str) -> None:
    """Under fifteen lines, imports and blank lines not counted."""
    lines = [line for line in program.splitlines() if line and not line.startswith(("import ", "from "))]
    assert len(lines) < 15


@pytest.mark.parametrize("absent", ["httpx", "httpx2", "neither"])
def test_client_needs_one_http_library_and_nothing_of_the_server(absent: str) -> None:
    """No library is imported before it is used, the other is not needed, and no dependency of the server is."""
    program = f"""
import sys
if {absent!r} != "neither":
    sys.modules[{absent!r}] = None
import keyturn.client
from keyturn.client import FileTokenStore, MemoryTokenStore, SessionEnded
assert not [name for name in ("httpx", "httpx2") if sys.modules.get(name)]
auth = keyturn.client.KeyturnAuth("https://auth.example.com")
for name in {{"httpx", "httpx2"}} - {{{absent!r}}}:
    assert isinstance(auth, __import__(name).Auth)
assert not {{"pydantic", "sqlalchemy", "argon2", "fastapi"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
