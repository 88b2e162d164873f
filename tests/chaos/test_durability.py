"""A PostgreSQL that acknowledges what it has not written: the server says why it does not start, wherever that is set."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.node import Node, Pace, settings
from tests.services import PostgresServer


class CarelessPostgres(PostgresServer):
    """A server that is configured so for everybody."""

    kind = "careless"

    def _command(self) -> list[str]:
        return [*super()._command(), "-c", "synchronous_commit=off"]


def _refused(url: str, directory: Path, pace: Pace) -> bool:
    node = Node(directory, settings(url, pace))
    node.start(wait=False)
    return node.exit_status() == 1 and "database_not_durable" in node.log.read_text()


def test_a_server_with_synchronous_commit_off_is_refused(tmp_path: Path, pace: Pace) -> None:
    """Set in the server's configuration, refused also in development."""
    server = CarelessPostgres()
    try:
        server.start()
        assert _refused(server.url("postgres"), tmp_path, pace)
    finally:
        server.close()


def test_a_role_or_database_with_synchronous_commit_off_is_refused(
    postgres: PostgresServer, postgres_url: str, tmp_path: Path, pace: Pace
) -> None:
    """Set for whom or where the server works, although the configuration says on."""
    for target in ("ROLE keyturn", f"DATABASE {postgres_url.rpartition('/')[2]}"):
        postgres.execute(f"ALTER {target} SET synchronous_commit = off")
        try:
            assert _refused(postgres_url, tmp_path / target.split()[0], pace), target
        finally:
            postgres.execute(f"ALTER {target} RESET synchronous_commit")
    node = Node(tmp_path / "careful", settings(postgres_url, pace))
    node.start()
    node.kill9()
