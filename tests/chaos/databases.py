"""The databases of the chaos tests, read past the servers; a standby; a pooler; a database in its own directory.

Owns: what `tests.services` has no use for elsewhere. Must not hold: faults, claims.
"""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.chaos.storm import Row, Rows
from tests.services import PostgresServer, Server, find_program

DATABASE = "chaos"
_ROWS = "SELECT id, generation, coalesce(revoked_reason, '') FROM keyturn_sessions"
_EVENTS = "SELECT type, count(*) FROM keyturn_events GROUP BY type"


def postgres_rows(server: PostgresServer, database: str = DATABASE) -> Rows:
    """Read sessions by psql."""

    def rows() -> dict[str, Row]:
        text = server.execute(_ROWS.replace("id,", "encode(id, 'hex'),", 1), database)
        parts = [line.split("|") for line in text.splitlines()]
        return {id_: Row(int(generation), reason) for id_, generation, reason in parts}

    return rows


def postgres_events(server: PostgresServer, database: str = DATABASE) -> Counter[str]:
    """Count the events that were kept, by type."""
    return Counter({kind: int(n) for kind, n in (x.split("|") for x in server.execute(_EVENTS, database).splitlines())})


def sqlite_query(path: Path, statement: str) -> list[tuple[object, ...]]:
    """Run a query on a SQLite file, as a process beside the servers."""
    link = sqlite3.connect(path, timeout=30)
    try:
        return link.execute(statement).fetchall()
    finally:
        link.close()


def sqlite_rows(path: Path) -> Rows:
    """Read sessions from a file."""

    def rows() -> dict[str, Row]:
        found = sqlite_query(path, _ROWS.replace("id,", "lower(hex(id)),", 1))
        return {str(id_): Row(int(str(generation)), str(reason)) for id_, generation, reason in found}

    return rows


def sqlite_events(path: Path) -> Counter[str]:
    """Count the events that were kept, by type."""
    return Counter({str(kind): int(str(number)) for kind, number in sqlite_query(path, _EVENTS)})


class Standby(PostgresServer):
    """An asynchronous standby: a copy of a running PostgreSQL that follows it.

    Args:
        primary: runs, and is copied at the first start.
        port: of the primary, or of a wire that leads there; `follow_by` may say it later.
    """

    kind = "standby"

    def __init__(self, primary: PostgresServer, port: int = 0) -> None:
        super().__init__()
        self._primary = primary
        self._primary_port = port

    def follow_by(self, port: int) -> None:
        """Say where the primary is, before the first start."""
        self._primary_port = port

    def promote(self) -> None:
        """Make it a primary, with a timeline of its own."""
        assert self.execute("SELECT pg_promote(true, 60)") == "t"

    def _prepare(self) -> None:
        command = [str(find_program("pg_basebackup")), "-D", str(self.data), "-R", "-X", "stream", "-c", "fast"]
        command += ["-h", "127.0.0.1", "-p", str(self._primary_port), "-U", self._primary.user]
        self.run_as_owner(command)

    def run_as_owner(self, command: list[str]) -> None:
        """Run a program as the account that owns the data."""
        subprocess.run(command, check=True, cwd=self.directory, user=self.uid, group=self.gid)


class PgBouncer(Server):
    """The connection pooler that most hosting providers put in front of PostgreSQL.

    Args:
        postgres: where it leads; it runs.
        options: of its configuration, `pool_mode` above all.
    """

    kind = "pgbouncer"

    def __init__(self, postgres: PostgresServer, **options: str | int) -> None:
        super().__init__()
        self._postgres = postgres
        self._options = options

    def url(self, direct: str) -> str:
        """Return the URL that leads to the same database through this pooler."""
        return direct.replace(f":{self._postgres.port}/", f":{self.port}/")

    def stop(self) -> None:
        """Stop it at once; what stops PostgreSQL would wait here for clients to leave."""
        self._end(signal.SIGTERM)

    def _prepare(self) -> None:
        (self.directory / "users").write_text(f'"{self._postgres.user}" ""\n')

    def _command(self) -> list[str]:
        options = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": self.directory / "users",
            "default_pool_size": 60,
            **self._options,
        }
        lines = ["[databases]", f"* = host=127.0.0.1 port={self._postgres.port}", "[pgbouncer]"]
        lines += [f"{name} = {value}" for name, value in options.items()]
        file = self.directory / "pgbouncer.ini"
        file.write_text("\n".join(lines) + "\n")
        return [str(find_program("pgbouncer")), str(file)]


def every_process(server: PostgresServer) -> list[psutil.Process]:
    """Return the postmaster and its children."""
    postmaster = psutil.Process(int((server.data / "postmaster.pid").read_text().split()[0]))
    return [postmaster, *postmaster.children(recursive=True)]


def snapshot(server: PostgresServer) -> Callable[[], None]:
    """Copy the data of a stopped server, as a backup of its disk; return what puts it back."""
    copy = server.directory / "snapshot"
    shutil.copytree(server.data, copy, symlinks=True)
    _own(copy, server)

    def restore() -> None:
        shutil.rmtree(server.data)
        copy.rename(server.data)

    return restore


def _own(directory: Path, server: PostgresServer) -> None:
    for path in (directory, *directory.rglob("*")):
        shutil.chown(path, server.uid, server.gid)
