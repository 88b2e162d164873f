"""A server that is told to stop answers everything it was asked."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from tests.cli.storm_application import PART, PARTS
from tests.services import wait_until

ROOT = Path(__file__).parents[2]
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
CLIENTS = 40


class Storm:
    """Clients that ask without pause, half of them on a new connection each time."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.outcomes: Counter[str] = Counter()
        self.stop = threading.Event()
        self._lock = threading.Lock()
        self.threads = [threading.Thread(target=self._client, args=(n % 2 == 0,), daemon=True) for n in range(CLIENTS)]

    def ask_once(self) -> str:
        """Ask once, on a connection of its own."""
        with closing(socket.create_connection(("127.0.0.1", self.port), timeout=20)) as link:
            return self._ask(link)

    def _client(self, keep: bool) -> None:
        while not self.stop.is_set():
            try:
                link = socket.create_connection(("127.0.0.1", self.port), timeout=20)
            except OSError:
                self._count("refused")
                return
            with closing(link):
                used = 0
                while not self.stop.is_set():
                    outcome = self._ask(link)
                    # A connection that was kept open without a request on it may be closed at any time.
                    if outcome == "nothing" and used:
                        outcome = "idle connection closed"
                    self._count(outcome)
                    used += 1
                    if outcome != "full" or not keep:
                        break

    def _ask(self, link: socket.socket) -> str:
        answer = b""
        try:
            link.sendall(REQUEST)
            while b"\r\n\r\n" not in answer or len(answer.partition(b"\r\n\r\n")[2]) < len(PART) * PARTS:
                chunk = link.recv(65536)
                if not chunk:
                    return "cut" if answer else "nothing"
                answer += chunk
        except OSError:
            return "cut" if answer else "nothing"
        return "full, then close" if b"connection: close" in answer else "full"

    def _count(self, outcome: str) -> None:
        with self._lock:
            self.outcomes[outcome] += 1


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
    for thread in storm.threads:
        thread.start()
    wait_until(lambda: storm.outcomes["full"] > 200, 30, "the storm")
    if whole_group:
        os.killpg(process.pid, signal.SIGTERM)
    else:
        process.terminate()
    assert process.wait(30) == 0
    storm.stop.set()
    for thread in storm.threads:
        thread.join(30)
        assert not thread.is_alive()
    assert storm.outcomes["cut"] == 0, storm.outcomes
    assert storm.outcomes["nothing"] == 0, storm.outcomes
    assert storm.outcomes["idle connection closed"] == 0, storm.outcomes
    assert storm.outcomes["full, then close"] > 0, storm.outcomes


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
