"""Databases as a migration leaves them, for the many tests that are not about migrations: to make one takes a tenth of a second.

Owns: a copy of a SQLite file, and a PostgreSQL database that is used again. Must not hold: servers (`services.py`).
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest

from keyturn.stores.migrations import VERSION_TABLE, migrate
from keyturn.stores.schema import metadata
from tests.services import AS_NEW, END_CONNECTIONS, PostgresServer, sqlite_url

ENGINES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.services)]
"""The parameters of a fixture that lends each kind of database."""
_TABLES = sorted(metadata.tables)
_MOST_ROWS = 1_000
"""As many are deleted; behind more their pages are taken away too."""
# Whoever changes the schema writes a row of one of these anew, or takes one away.
_CATALOGS = (
    "pg_class",
    "pg_attribute",
    "pg_attrdef",
    "pg_constraint",
    "pg_depend",
    "pg_index",
    "pg_proc",
    "pg_trigger",
    "pg_type",
)
_STATE = f"""
SELECT ({AS_NEW}), (SELECT version_num FROM {VERSION_TABLE}),
    {", ".join(f"(SELECT (count(*), max(xmin::text::bigint))::text FROM {name})" for name in _CATALOGS)}
"""


def sqlite_database(directory: Path) -> str:
    """Return the URL of the SQLite database of a directory; where there is none it is made, as `keyturn migrate` would."""
    file = directory / "keyturn.db"
    if not file.exists():
        file.touch(mode=0o600)
        file.write_bytes(_migrated_file())
    return sqlite_url(directory)


@cache
def _migrated_file() -> bytes:
    with TemporaryDirectory() as directory:
        _migrate(sqlite_url(Path(directory)))
        (file,) = Path(directory).iterdir()
        return file.read_bytes()


def _migrate(url: str) -> None:
    # The event loop of whoever asks may be running.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, migrate(url)).result()


class PostgresDatabase:
    """A database of one server that is lent again and again, each time with the tables of this version and without a row."""

    def __init__(self, server: PostgresServer, name: str) -> None:
        self._server = server
        self._name = name
        self._made: tuple[object, ...] | None = None

    @property
    def url(self) -> str:
        """The SQLAlchemy URL."""
        return self._server.url(self._name)

    def make_ready(self) -> None:
        """End every connection to it and take every row away; if more has been done to it, make it anew."""
        self._server.start()
        if self._made is not None and self._empty():
            return
        self._server.drop_database(self._name)
        self._server.create_database(self._name)
        _migrate(self.url)
        with self._connected() as connection:
            self._made = connection.execute(_STATE).fetchone()

    def _empty(self) -> bool:
        try:
            with self._connected() as connection:
                connection.execute(END_CONNECTIONS)
                if connection.execute(_STATE).fetchone() != self._made:
                    return False
                with connection.transaction():
                    deleted = max(connection.execute(f"DELETE FROM {table}").rowcount for table in _TABLES)
                    connection.execute("SELECT setval('keyturn_events_id_seq', 1, false)")
                if deleted > _MOST_ROWS:
                    connection.execute(f"TRUNCATE {', '.join(_TABLES)}")
                    self._made = connection.execute(_STATE).fetchone()
        except psycopg.Error:
            return False
        return True

    def _connected(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(self.url.replace("+asyncpg", ""), autocommit=True)
