"""A server as an operator runs it: `keyturn serve`, on one port for its whole life, over every kill.

Owns: the process and its settings. Must not hold: clients, databases.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import psutil

from keyturn.tokens.secret_ring import SecretRing
from tests.services import free_port, kill_tree, wait_until

START_TIMEOUT = 60.0
_STATUS_TIMEOUT = 30.0


class Pace(NamedTuple):
    """The protocol's times, shortened together to the very edge of its inequalities.

    settle >= 3 limit + crash_loss, tail >= 1.5 limit: see `core/policy.py`.
    """

    settle: float = 3.2
    tail: float = 1.2
    limit: float = 0.8
    """L: a refresh is given up this long after its cookie was read."""
    crash_loss: float = 0.8
    """F: a browser that crashes loses its cookie writes of this long at most."""


def settings(database_url: str, pace: Pace, **more: str) -> dict[str, str]:
    """Return the environment of a server; every node of one test is given the same one."""
    values = {
        "KEYTURN_ENV": "development",
        "KEYTURN_SECRET": SecretRing.generate(os.urandom(32)),
        "KEYTURN_DATABASE_URL": database_url,
        "KEYTURN_SETTLE_TIME": str(pace.settle),
        "KEYTURN_TAIL_TIME": str(pace.tail),
        # Each browser comes from an address of its own, so that no throttle mixes them up.
        "KEYTURN_TRUSTED_PROXIES": "1",
        "KEYTURN_LOG_LEVEL": "warning",
    }
    return values | more


class Status(NamedTuple):
    """What a plain GET answered."""

    status: int
    headers: Mapping[str, str]
    body: dict[str, object]


class Node:
    """One `keyturn serve`.

    Args:
        directory: for its log and as its working directory.
        environment: its settings.
        workers: processes.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str], workers: int = 1) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.log = directory / "log"
        self._directory = directory
        self._environment = {"PATH": os.environ["PATH"], **environment}
        self._workers = workers
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> None:
        """Start it, and return when it answers."""
        command = [sys.executable, "-m", "keyturn.cli", "serve", "--port", str(self.port)]
        command += ["--workers", str(self._workers)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._directory,
                env=self._environment,
                start_new_session=True,
            )
        if wait:
            wait_until(lambda: self.healthy() or not self.running, START_TIMEOUT, "the start of the server")
            assert self.running, self.log.read_text()[-3000:]

    @property
    def running(self) -> bool:
        """Whether the first process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def process(self) -> psutil.Process:
        """The first process: the server itself, or the supervisor of its workers."""
        assert self._process is not None
        return psutil.Process(self._process.pid)

    @property
    def servers(self) -> list[psutil.Process]:
        """The processes that answer."""
        return [self.process] if self._workers == 1 else self.process.children()

    def serve(self) -> bool:
        """Whether all its processes answer: each has a client's connection, as in a storm it soon has."""
        return len(self.servers) == self._workers and all(map(self._has_a_client, self.servers))

    def _has_a_client(self, server: psutil.Process) -> bool:
        try:
            found = server.net_connections("tcp")
        except psutil.NoSuchProcess:
            return False
        return any(one.status == psutil.CONN_ESTABLISHED and one.laddr.port == self.port for one in found)

    def exit_status(self) -> int:
        """Wait until it ends by itself."""
        assert self._process is not None
        return self._process.wait(START_TIMEOUT)

    def kill9(self) -> None:
        """SIGKILL all its processes."""
        if self._process is not None:
            if self.running:
                kill_tree(psutil.Process(self._process.pid))
            self._process.wait()
        self._process = None

    def get(self, path: str, timeout: float = _STATUS_TIMEOUT) -> Status:
        """GET a path. Raises: OSError: there is no answer."""
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            link.request("GET", path)
            answer = link.getresponse()
            return Status(answer.status, {k.lower(): v for k, v in answer.getheaders()}, json.loads(answer.read()))
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error
        finally:
            link.close()

    def healthy(self) -> bool:
        """Whether `/healthz` answers 200."""
        try:
            return self.get("/healthz", 5).status == 200
        except OSError:
            return False

    def ready(self) -> bool:
        """Whether `/readyz` answers 200."""
        try:
            return self.get("/readyz").status == 200
        except OSError:
            return False
