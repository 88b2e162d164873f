"""What the chaos tests share: a cluster with a storm on it, and the table of figures at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.cluster import Cluster
from tests.chaos.node import Pace
from tests.chaos.storm import HEADINGS, Figures, Storm
from tests.chaos.wire import LoopThread
from tests.services import PostgresServer, RedisServer

_DOCUMENT = Path(__file__).parents[2] / "docs/explanation/faults.md"
_BEGIN, _END = "<!-- figures: begin -->\n", "<!-- figures: end -->\n"
_PROPERTY = "fault"

Report = Callable[[Storm], None]


@pytest.fixture
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
def report(record_property: Callable[[str, object], None]) -> Report:
    """Keep the figures of a storm for the table at the end."""

    def keep(storm: Storm) -> None:
        for figures in storm.figures:
            record_property(_PROPERTY, json.dumps(figures._asdict()))

    return keep


@pytest.fixture
def cluster(
    postgres: PostgresServer, redis_url: str, redis_server: RedisServer, tmp_path: Path, thread: LoopThread, pace: Pace
) -> Iterator[Cluster]:
    """Two nodes, one of them with two workers, over one PostgreSQL and one Redis."""
    cluster = Cluster(postgres, redis_server, redis_url, tmp_path, thread, pace)
    try:
        yield cluster
    finally:
        cluster.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the figures; after a long run that passed, write them into the documentation."""
    reports: list[pytest.TestReport] = terminalreporter.stats.get("passed", [])
    found = [json.loads(str(v)) for one in reports for name, v in one.user_properties if name == _PROPERTY]
    if not found:
        return
    lines = ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    lines += [Figures(**each).line() for each in found]
    terminalreporter.section("faults")
    for line in lines:
        terminalreporter.write_line(line)
    if config.getoption("--chaos") and not terminalreporter.stats.get("failed"):
        before, _, rest = _DOCUMENT.read_text().partition(_BEGIN)
        after = rest.partition(_END)[2]
        _DOCUMENT.write_text(before + _BEGIN + "".join(f"{line}\n" for line in lines) + _END + after)
