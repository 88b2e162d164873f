"""A node whose SQLite file is deleted, moved or replaced while it runs: it answers 503, makes nothing in its place, and signs
nobody out.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import closing
from pathlib import Path

import pytest

from keyturn.runtime import Keyturn
from tests.attacks.conftest import lighten, settings_of
from tests.attacks.support import Browser
from tests.stores.support import eventually

pytestmark = pytest.mark.anyio


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the database is, and nothing else."""
    made = tmp_path / "data"
    made.mkdir()
    return made


@pytest.fixture
async def node(directory: Path) -> AsyncGenerator[Keyturn]:
    """A running node."""
    node = Keyturn(settings_of(f"sqlite:///{directory / 'keyturn.db'}", denylist=True))
    lighten(node)
    async with node.lifespan():
        yield node


@pytest.fixture
async def ada(node: Keyturn) -> Browser:
    """A browser that is signed in."""
    browser = Browser(node.asgi)
    assert (await browser.sign_up()).status == 201
    return browser


async def is_refused_everything(browser: Browser) -> None:
    """Ask for everything that needs the database."""
    jar = dict(browser.jar)
    asked = [browser.log_in, browser.refresh, browser.log_out, browser.sign_up, browser.me]
    for ask in asked:
        answer = await ask()
        assert (answer.code, answer.header("retry-after") != "") == ("unavailable", True), ask.__name__
    assert browser.jar == jar
    ready = await browser.send("GET", "/readyz")
    assert ready.status == 503
    assert "database" in ready.json()["detail"]


async def is_served(browser: Browser) -> None:
    """Go on with the session, and open another one."""
    for ask in (browser.refresh, browser.me, browser.log_in):
        assert (await ask()).status == 200, ask.__name__


def delete_file(directory: Path) -> None:
    """Delete the file alone."""
    (directory / "keyturn.db").unlink()


def delete_files(directory: Path) -> None:
    """Delete it with those beside it."""
    for file in directory.iterdir():
        file.unlink()


@pytest.mark.parametrize("delete", [delete_file, delete_files, shutil.rmtree])
async def test_file_that_is_deleted(
    node: Keyturn, ada: Browser, directory: Path, delete: Callable[[Path], None]
) -> None:
    """It is not made anew, neither by a request nor by what follows the revocations."""
    denylist = node.denylist
    assert denylist is not None
    delete(directory)
    await eventually(lambda: not denylist.is_current())
    await is_refused_everything(ada)
    assert not (directory / "keyturn.db").exists()


async def test_directory_that_comes_back(node: Keyturn, ada: Browser, directory: Path, tmp_path: Path) -> None:
    """As one whose file system was away: the session goes on, without a start."""
    directory.rename(tmp_path / "away")
    await is_refused_everything(ada)
    (tmp_path / "away").rename(directory)
    await is_served(ada)
    denylist = node.denylist
    assert denylist is not None
    await eventually(denylist.is_current)
    assert (await ada.send("GET", "/readyz")).status == 200


async def test_file_that_is_replaced(node: Keyturn, ada: Browser, directory: Path) -> None:
    """Nobody works on either of the two; after a start sessions go on from the backup."""
    file, backup = directory / "keyturn.db", directory / "backup.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("VACUUM INTO ?", (str(backup),))
    backup.replace(file)
    await is_refused_everything(ada)
    await node.close()
    for beside in ("keyturn.db-wal", "keyturn.db-shm"):
        (directory / beside).unlink()
    async with node.lifespan():
        await is_served(ada)
