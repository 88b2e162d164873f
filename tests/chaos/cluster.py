"""Two nodes over one PostgreSQL and one Redis, with a wire between nodes and database.

Owns: putting them together. Must not hold: faults, claims.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.chaos.databases import DATABASE, postgres_events, postgres_rows
from tests.chaos.node import Node, Pace, settings
from tests.chaos.storm import Storm
from tests.chaos.wire import LoopThread, Wire
from tests.services import PostgresServer, RedisServer, wait_until

READY_TIMEOUT = 60.0


class Cluster:
    """Started nodes; the storm is for the test to start."""

    def __init__(
        self,
        postgres: PostgresServer,
        redis: RedisServer,
        redis_url: str,
        directory: Path,
        thread: LoopThread,
        pace: Pace,
    ) -> None:
        self.postgres = postgres
        self.redis = redis
        self._thread = thread
        self._pace = pace
        postgres.start()
        postgres.drop_database(DATABASE)
        postgres.create_database(DATABASE)
        self.wire = Wire(thread, postgres.port)
        url = f"postgresql://{postgres.user}@127.0.0.1:{self.wire.port}/{DATABASE}"
        environment = settings(url, pace, KEYTURN_REDIS_URL=redis_url)
        self.nodes = [Node(directory / "one", environment, workers=2), Node(directory / "two", environment)]
        for node in self.nodes:
            node.start(wait=False)
        self.wait_until_ready()

    @contextmanager
    def storm(self, *, browsers: int, tabs: int) -> Iterator[Storm]:
        """Let a storm blow over both nodes; afterwards nothing but sign-ins must be in the event log."""
        ports = [node.port for node in self.nodes]
        rows = postgres_rows(self.postgres)
        storm = Storm(self._thread, ports, rows, browsers=browsers, tabs=tabs, pace=self._pace)
        storm.start()
        try:
            yield storm
        finally:
            storm.stop()
        storm.holds()
        storm.nothing_is_missing()
        assert set(postgres_events(self.postgres)) <= {"signed_up", "signed_in", "new_device", "key_rotated"}

    def wait_until_ready(self) -> None:
        """Wait until both nodes have everything they need."""
        wait_until(lambda: all(node.ready() for node in self.nodes), READY_TIMEOUT, "nodes that are ready")

    def wait_until_not_ready(self) -> None:
        """Wait until both nodes say that they lack something; they live on, and say so."""

        def told() -> bool:
            answers = [node.get("/readyz") for node in self.nodes]
            assert all(answer.status != 503 or "retry-after" in answer.headers for answer in answers)
            return all(answer.status == 503 for answer in answers)

        wait_until(told, READY_TIMEOUT, "nodes that are not ready")
        assert all(node.healthy() for node in self.nodes)

    def close(self) -> None:
        """Kill the nodes and forget the database."""
        for node in self.nodes:
            node.kill9()
        self.postgres.start()
        self.postgres.drop_database(DATABASE)
