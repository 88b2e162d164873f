"""A refresh storm over two processes on one SQLite file, while they are killed, locked out, or have no room to write, or the
file is away.
"""

from __future__ import annotations

import resource
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.chaos.cluster import HARMLESS_EVENTS
from tests.chaos.conftest import Keep, Scale
from tests.chaos.databases import sqlite_events, sqlite_rows
from tests.chaos.node import Node, Pace, settings
from tests.chaos.storm import Storm
from tests.chaos.wire import LoopThread
from tests.services import wait_until

_NOT_STARTED = "the worker does not start"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database file."""
    return tmp_path_factory.mktemp("sqlite") / "keyturn.db"


@pytest.fixture(scope="module")
def node(path: Path, pace: Pace) -> Iterator[Node]:
    """A server of two processes."""
    node = Node(path.parent, settings(f"sqlite:///{path}", pace), workers=2)
    try:
        node.start()
        yield node
    finally:
        node.kill9()


@pytest.fixture(scope="module")
def storm(node: Node, path: Path, thread: LoopThread, pace: Pace, scale: Scale, chaos: bool) -> Iterator[Storm]:
    """The storm over it, from the first test to the last."""
    storm = Storm(thread, [node.port], sqlite_rows(path), browsers=scale(8, 40), tabs=3, pace=pace, thorough=chaos)
    storm.start()
    yield storm
    storm.stop()
    assert set(sqlite_events(path)) <= HARMLESS_EVENTS


def test_no_confirm_is_missing_when_processes_on_sqlite_are_killed(
    node: Node, storm: Storm, keep: Keep, scale: Scale
) -> None:
    """SIGKILL of both in the middle of reads and writes: the file has every confirm that was told."""

    @contextmanager
    def killed() -> Iterator[None]:
        node.kill9()
        storm.nothing_is_missing()
        yield
        node.start()

    keep(storm.suffer("SQLite: `kill -9` of all processes", scale(1, 5), killed))


def test_everybody_goes_on_when_another_process_holds_the_lock_of_sqlite(
    storm: Storm, path: Path, keep: Keep, scale: Scale
) -> None:
    """Another process writes for as long as it takes until refreshes are given up; those that write nothing go on."""

    @contextmanager
    def locked() -> Iterator[None]:
        with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            storm.wait_for("given up", 10)
            yield
            other.execute("ROLLBACK")

    keep(storm.suffer("SQLite: the write lock held by another process", scale(1, 3), locked))


def test_everybody_goes_on_when_sqlite_has_no_room_to_write(node: Node, storm: Storm, keep: Keep, scale: Scale) -> None:
    """Files may not grow any more, then they may: nothing that could not be written was acknowledged."""

    @contextmanager
    def full() -> Iterator[None]:
        servers = node.servers
        for server in servers:
            resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        storm.wait_for("503", 20)
        assert node.healthy()
        yield
        for server in servers:
            resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    keep(storm.suffer("SQLite: no room on the disk", scale(1, 3), full))


def test_everybody_goes_on_when_the_file_of_sqlite_was_away(
    node: Node, storm: Storm, path: Path, keep: Keep, scale: Scale
) -> None:
    """Moved elsewhere and back, while a worker is replaced: what was acknowledged is in it, and none was made in its place."""

    @contextmanager
    def away() -> Iterator[None]:
        refused = node.log.read_text().count(_NOT_STARTED)
        elsewhere = path.rename(path.with_name("elsewhere.db"))
        storm.wait_for("503", 20)
        node.servers[0].kill()
        wait_until(lambda: node.log.read_text().count(_NOT_STARTED) > refused, 30, "a worker that does not start")
        assert not path.exists()
        assert node.healthy()
        yield
        elsewhere.rename(path)
        wait_until(node.serve, 30, "both workers")

    keep(storm.suffer("SQLite: the file moved away, `kill -9` of a worker meanwhile", scale(1, 3), away))
