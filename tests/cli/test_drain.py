"""A server that is told to stop answers everything it was asked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cli.storm import Storm
from tests.services import wait_until

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=[1, 2], ids=["one worker", "two workers"])
def server(request: pytest.FixtureRequest) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server process and its port."""
    command = [sys.executable, "-m", "tests.cli.storm_server", str(request.param)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True)
    assert process.stdout is not None
    try:
        yield process, int(process.stdout.readline())
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("whole_group", [False, True], ids=["to the process", "to the group"])
def test_no_request_is_cut_when_the_server_is_terminated_in_a_storm(
    server: tuple[subprocess.Popen[str], int], whole_group: bool
) -> None:
    """Everything that was sent gets a full answer; afterwards connections are refused; the status is 0."""
    process, port = server
    storm = Storm(port)
    storm.begin()
    wait_until(lambda: storm.outcomes["full"] > 200, 30, "the storm")
    if whole_group:
        os.killpg(process.pid, signal.SIGTERM)
    else:
        process.terminate()
    assert process.wait(30) == 0
    storm.end()


def test_a_worker_that_is_killed_is_replaced_and_the_others_go_on(
    server: tuple[subprocess.Popen[str], int], request: pytest.FixtureRequest
) -> None:
    """With several workers, one that dies is started anew; a server of one process simply ends."""
    process, port = server
    storm = Storm(port)
    assert storm.ask_once() == "full"
    if "one worker" in request.node.name:
        process.kill()
        assert process.wait(10) == -signal.SIGKILL
        return
    first = {child.pid for child in psutil.Process(process.pid).children()}
    os.kill(min(first), signal.SIGKILL)

    def replaced() -> bool:
        return len({c.pid for c in psutil.Process(process.pid).children()} - first) == 1

    wait_until(replaced, 20, "the replacement")
    assert storm.ask_once() == "full"
    process.terminate()
    assert process.wait(30) == 0
