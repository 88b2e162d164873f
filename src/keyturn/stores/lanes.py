"""Straight to the driver: a lane is a connection for the few statements that every refresh makes.

Owns: lending such connections, and how a statement gets through them. Must not hold: the statements (`session_rows.py`,
`users.py`), what counts as a fault (`engine.py`).

Why beside SQLAlchemy: its way from a statement to rows costs several times what the database's own driver takes, and the
hot path is these statements (`bench/README.md` has the figures). The connections of PostgreSQL still come from SQLAlchemy's
pool, so there is one pool, one set of options and one limit.

Why SQLite reads on the event loop: in WAL mode a reader waits for nobody, a row takes microseconds, and handing it to a
thread and back takes longer. A write waits for the disk, so it has a thread of its own.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util.concurrency import greenlet_spawn

Row = Sequence[Any]
Statement = tuple[str, Sequence[Any]]
"""The text and its parameters, in the driver's own style."""


_READ_TIMEOUT = 0.05
"""Seconds that a read may hold up the event loop: it only waits while another process repairs the file."""


class Lane(Protocol):
    """A connection on which every statement is a transaction of its own."""

    @property
    def postgres(self) -> bool: ...

    async def fetch(self, statement: Statement) -> Sequence[Row]:
        """Return all rows of a statement."""
        ...

    async def change(self, statement: Statement) -> Sequence[Row]:
        """Write and commit; return what the statement says of the rows it changed."""
        ...


class Lanes(Protocol):
    """Lends lanes."""

    def lend(self) -> AbstractAsyncContextManager[Lane]:
        """Lend a lane. Raises: what the driver raises, and OSError where the way to the database is at fault."""
        ...

    def close(self) -> None:
        """Close what is not in the pool."""
        ...


class PostgresLane:
    """A connection of asyncpg."""

    __slots__ = ("_driver",)
    postgres = True

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    async def fetch(self, statement: Statement) -> Sequence[Row]:
        """Return all rows of a statement."""
        rows: Sequence[Row] = await self._driver.fetch(statement[0], *statement[1])
        return rows

    async def change(self, statement: Statement) -> Sequence[Row]:
        """Write and commit; return what the statement says of the rows it changed."""
        return await self.fetch(statement)


class PostgresLanes:
    """Lend connections of SQLAlchemy's pool, without what it wraps around them."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @asynccontextmanager
    async def lend(self) -> AsyncGenerator[PostgresLane]:
        """Lend a connection that is open; one over which anything went wrong is not used again.

        Raises: OSError: the way to the database is at fault; and what the driver raises.
        """
        from asyncpg.exceptions import InterfaceError, InternalClientError

        lent = await self._engine.raw_connection()
        # SQLAlchemy learns of a connection that has died only by failing on it; the driver knows.
        while (driver := lent.driver_connection) is None or driver.is_closed():
            lent.invalidate()
            lent = await self._engine.raw_connection()
        try:
            yield PostgresLane(driver)
        except BaseException as error:
            closed = driver.is_closed()
            lent.invalidate()
            if closed and isinstance(error, InterfaceError | InternalClientError):
                # The driver was surprised by the end of the connection, in whatever state it was.
                raise ConnectionResetError("the connection was closed") from error
            raise
        await greenlet_spawn(lent.close)

    def close(self) -> None:
        """Do nothing: the pool is SQLAlchemy's."""


class SqliteLanes:
    """One connection that reads on the event loop, and one that writes on a thread of its own; both open when first used.

    Args:
        connect: opens a connection, set up like all others, that waits so many seconds for a lock.
        writer: held while something is written, by everybody in this process.
        write_timeout: seconds to wait for another process's write.
    """

    postgres = False

    def __init__(
        self, connect: Callable[[float], sqlite3.Connection], writer: asyncio.Lock, write_timeout: float
    ) -> None:
        self._connect = connect
        self._writer = writer
        self._write_timeout = write_timeout
        self._reading: sqlite3.Connection | None = None
        self._writing: sqlite3.Connection | None = None
        self._thread: ThreadPoolExecutor | None = None

    @asynccontextmanager
    async def lend(self) -> AsyncGenerator[SqliteLanes]:
        """Lend what everybody shares."""
        yield self

    async def fetch(self, statement: Statement) -> Sequence[Row]:
        """Return all rows of a statement that only reads."""
        if self._reading is None:
            self._reading = self._connect(_READ_TIMEOUT)
        rows: Sequence[Row] = self._reading.execute(*statement).fetchall()
        return rows

    async def change(self, statement: Statement) -> Sequence[Row]:
        """Write and commit; return what the statement says of the rows it changed."""
        async with self._writer:
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, thread_name_prefix="keyturn-sqlite")
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._change, statement)

    def _change(self, statement: Statement) -> Sequence[Row]:
        if self._writing is None:
            self._writing = self._connect(self._write_timeout)
        rows: Sequence[Row] = self._writing.execute(*statement).fetchall()
        return rows

    def close(self) -> None:
        """Close both; they open again when used again."""
        if self._thread is not None:
            self._thread.shutdown()
        for connection in (self._reading, self._writing):
            if connection is not None:
                connection.close()
        self._reading = self._writing = self._thread = None
