"""What the chaos tests share: a cluster with a storm on it, and the table of figures at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.chaos.cluster import Cluster
from tests.chaos.node import Pace
from tests.chaos.storm import HEADINGS, Figures, Storm
from tests.chaos.wire import LoopThread
from tests.services import PostgresServer, RedisServer, ServiceError, find_program

_DOCUMENT = Path(__file__).parents[2] / "docs/explanation/faults.md"
_BEGIN, _END = "<!-- figures: begin -->\n", "<!-- figures: end -->\n"
_PROPERTY = "fault"

Scale = Callable[[int, int], int]
Suffer = Callable[[str, int, Callable[[], AbstractContextManager[None]]], Figures]
Keep = Callable[[Figures], None]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave what is marked so to the long run."""
    if not config.getoption("--chaos"):
        left = [item for item in items if item.get_closest_marker("long_run")]
        items[:] = [item for item in items if item not in left]
        config.hook.pytest_deselected(items=left)


def skip_without(program: str, *, chaos: bool) -> None:
    """Skip a test whose program is not installed; only `make chaos` insists on it."""
    if not chaos:
        try:
            find_program(program)
        except ServiceError as missing:
            pytest.skip(str(missing))


@pytest.fixture(scope="session")
def thread() -> Iterator[LoopThread]:
    """A thread for clients and wires."""
    thread = LoopThread()
    yield thread
    thread.close()


@pytest.fixture(scope="session")
def pace() -> Pace:
    """The protocol's times in these tests."""
    return Pace()


@pytest.fixture
def keep(record_property: Callable[[str, object], None]) -> Keep:
    """Keep figures for the table at the end."""
    return lambda figures: record_property(_PROPERTY, json.dumps(figures._asdict()))


@pytest.fixture(scope="module")
def cluster(
    postgres: PostgresServer,
    redis_server: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
    thread: LoopThread,
    pace: Pace,
) -> Iterator[Cluster]:
    """Two nodes, one of them with two workers, over one PostgreSQL and one Redis."""
    cluster = Cluster(postgres, redis_server, tmp_path_factory.mktemp("cluster"), thread, pace)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="module")
def blowing(cluster: Cluster, scale: Scale, chaos: bool) -> Iterator[Storm]:
    """The storm over the cluster, from the first test to the last; the event log is looked at when it is over."""
    with cluster.storm(browsers=scale(12, 60), tabs=3, thorough=chaos) as storm:
        yield storm


@pytest.fixture
def storm(blowing: Storm, cluster: Cluster) -> Storm:
    """The storm, with everything in order when the test begins."""
    cluster.repair()
    blowing.all_go_on()
    return blowing


@pytest.fixture
def suffer(cluster: Cluster, storm: Storm, keep: Keep) -> Suffer:
    """Let a fault happen some times in the storm, assert the claims, keep the figures; the nodes recover by themselves."""

    def suffer(name: str, times: int, fault: Callable[[], AbstractContextManager[None]]) -> Figures:
        figures = storm.suffer(name, times, fault)
        keep(figures)
        cluster.wait_until_ready()
        return figures

    return suffer


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the figures; those of a long run go into the documentation, where they passed."""
    reports: list[pytest.TestReport] = terminalreporter.stats.get("passed", [])
    found = [json.loads(str(v)) for one in reports for name, v in one.user_properties if name == _PROPERTY]
    if not found:
        return
    head = ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    rows = [Figures(**each).line() for each in found]
    terminalreporter.section("faults")
    for line in (*head, *rows):
        terminalreporter.write_line(line)
    if config.getoption("--chaos"):
        _write(head, rows)


def _write(head: list[str], rows: list[str]) -> None:
    """Put rows in the place of those of the same fault, and leave the others."""
    before, _, rest = _DOCUMENT.read_text().partition(_BEGIN)
    table, _, after = rest.partition(_END)
    kept = {_fault_of(row): row for row in table.splitlines()[2:]} | {_fault_of(row): row for row in rows}
    _DOCUMENT.write_text(before + _BEGIN + "".join(f"{line}\n" for line in (*head, *kept.values())) + _END + after)


def _fault_of(row: str) -> str:
    """Name the fault of a row, without what was counted in it."""
    return row.split("|")[1].partition(" (")[0].strip()
