"""Two nodes over one PostgreSQL and one Redis, with a wire between nodes and database.

Owns: putting them together. Must not hold: faults, claims.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.chaos.browser import log_in
from tests.chaos.databases import DATABASE, postgres_events, postgres_rows
from tests.chaos.node import Node, Pace, settings
from tests.chaos.storm import Storm
from tests.chaos.wire import LoopThread, Wire
from tests.services import PostgresServer, RedisServer, wait_until

READY_TIMEOUT = 60.0
HARMLESS_EVENTS = {"signed_up", "signed_in", "new_device", "key_rotated"}
"""The only ones that a storm leaves behind: no reuse, no end of a session."""


class Cluster:
    """Started nodes; the storm is for the test to start."""

    def __init__(
        self, postgres: PostgresServer, redis: RedisServer, directory: Path, thread: LoopThread, pace: Pace
    ) -> None:
        self.postgres = postgres
        self.redis = redis
        self._thread = thread
        self._pace = pace
        self.wire = Wire(thread, postgres.port)
        url = f"postgresql://{postgres.user}@127.0.0.1:{self.wire.port}/{DATABASE}"
        environment = settings(url, pace, KEYTURN_REDIS_URL=redis.url)
        self.nodes = [Node(directory / "one", environment, workers=2), Node(directory / "two", environment)]

    def start(self) -> None:
        """Start everything, with an empty database."""
        self.postgres.start()
        self.postgres.create_database(DATABASE)
        self.repair()

    def repair(self) -> None:
        """Start what a failed test left dead, and wait until both nodes are ready."""
        self.wire.mend()
        self.postgres.start()
        self.redis.start()
        for node in self.nodes:
            if not node.running:
                node.start(wait=False)
        self.wait_until_ready()

    @contextmanager
    def storm(self, *, browsers: int, tabs: int, thorough: bool) -> Iterator[Storm]:
        """Let a storm blow over both nodes; afterwards nothing but sign-ins must be in the event log."""
        storm = Storm(
            self._thread,
            [node.port for node in self.nodes],
            postgres_rows(self.postgres),
            browsers=browsers,
            tabs=tabs,
            pace=self._pace,
            thorough=thorough,
        )
        storm.start()
        yield storm
        storm.stop()
        assert set(postgres_events(self.postgres)) <= HARMLESS_EVENTS

    def wait_until_ready(self) -> None:
        """Wait until both nodes have everything they need."""
        wait_until(lambda: all(node.ready() for node in self.nodes), READY_TIMEOUT, "nodes that are ready")

    def wait_until_not_ready(self) -> None:
        """Wait until both nodes say that they lack something; they live on, and say so."""

        def told() -> bool:
            with ThreadPoolExecutor() as pool:
                answers = pool.map(lambda node: node.get("/readyz"), self.nodes)
                return all(answer.status == 503 and "retry-after" in answer.headers for answer in answers)

        wait_until(told, READY_TIMEOUT, "nodes that are not ready")
        assert all(node.healthy() for node in self.nodes)

    def log_in(self) -> tuple[int, str]:
        """Sign the first person in once more; return the status and the error code."""
        node = self.nodes[0]
        answer = self._thread.run(log_in(node.port))
        return answer.status, answer.code()

    def close(self) -> None:
        """Kill the nodes and forget the database."""
        for node in self.nodes:
            node.kill9()
        self.postgres.start()
        self.postgres.drop_database(DATABASE)
