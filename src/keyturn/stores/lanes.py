"""Straight to the driver: a lane is a connection for the few statements that every refresh and every login makes.

Owns: lending such connections, and how a statement or a transaction gets through them. Must not hold: the statements
(`session_rows.py`, `opening.py`, `counters.py`, `users.py`), what counts as a fault (`engine.py`).

Why beside SQLAlchemy: its way from a statement to rows costs several times what the database's own driver takes, and the
hot path is these statements (`bench/README.md` has the figures). The connections of PostgreSQL still come from SQLAlchemy's
pool, so there is one pool, one set of options and one limit.

Why SQLite reads on the event loop: in WAL mode a reader waits for nobody, a row takes microseconds, and handing it to a
thread and back takes longer. A write waits for the disk, so it has a thread of its own. Whoever reads while nothing is
written uses the connection that writes: SQLite empties a connection's cache when another one has written, so a connection
that only reads would start anew after every group, and the one that writes would read each page again.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Literal, Protocol, TypeVar

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.util.concurrency import greenlet_spawn

from keyturn.stores.connections import ended_by_the_server
from keyturn.stores.sqlite import SqliteFile

Row = Sequence[Any]
Statement = tuple[str, Sequence[Any]]
"""The text and its parameters, in the driver's own style."""
Result = TypeVar("Result")
Work = Generator[Statement, Sequence[Row], Result]
"""What a transaction does: it yields statements, gets their rows, and returns its result. It waits for nothing else.

Why a generator: PostgreSQL answers each statement to the event loop, SQLite runs them all in one visit to its thread.
"""
ROLLBACK: Statement = ("ROLLBACK", ())
"""What work yields last when nothing of it is to stay."""

_ELSEWHERE = (
    "this node is in use on another event loop, to which its connections belong: hand that one the coroutine"
    " (anyio.from_thread.run, asyncio.run_coroutine_threadsafe; in Django and Flask node.threaded), or end the use there by"
    " await node.close(), as `async with node.lifespan():` does"
)
_READ_TIMEOUT = 0.05
"""Seconds that a read may hold up the event loop: it only waits while another process repairs the file."""


class Lane(Protocol):
    """A connection on which every statement is a transaction of its own, outside `transact`."""

    @property
    def postgres(self) -> bool: ...

    async def fetch(self, statement: Statement) -> Sequence[Row]:
        """Return all rows of a statement."""
        ...

    async def change(self, statement: Statement) -> Sequence[Row]:
        """Write and commit; return what the statement says of the rows it changed."""
        ...

    async def transact(self, work: Callable[[], Work[Result]], *, lock: int | None = None) -> Result:
        """Do work in a transaction that commits at its end, or is undone when it yields `ROLLBACK` or raises.

        Args:
            work: may run on another thread. Each statement sees what was committed before it began.
            lock: of PostgreSQL, an advisory lock (not negative) held from before the first statement until the end;
                SQLite has one writer.
        """
        ...


class Lanes(Protocol):
    """Lends lanes."""

    def lend(self) -> AbstractAsyncContextManager[Lane]:
        """Lend a lane. Raises: what the driver raises, and OSError where the way to the database is at fault."""
        ...

    async def connect(self, pool: AsyncEngine) -> AsyncConnection:
        """Take a connection from the pool, for what is no lane. Raises: what SQLAlchemy raises."""
        ...

    async def close(self) -> None:
        """Close what the pool does not, and give it back what is its own."""
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

    async def transact(self, work: Callable[[], Work[Result]], *, lock: int | None = None) -> Result:
        """Do work in a transaction. What is raised undoes it, since `PostgresLanes.lend` then ends the connection."""
        await self._driver.execute("BEGIN" if lock is None else f"BEGIN; SELECT pg_advisory_xact_lock({lock:d})")
        steps = work()
        try:
            statement = next(steps)
            while True:
                statement = steps.send(await self.fetch(statement))
        except StopIteration as done:
            if self._driver.is_in_transaction():
                await self._driver.execute("COMMIT")
            result: Result = done.value
            return result


class PostgresLanes:
    """Lend connections of SQLAlchemy's pool, without what it wraps around them.

    Args: keep: how many connections stay out of the pool for the next who asks here: to take one from it and give it back
        takes half as long as a statement. The last one used is the first one lent.
    """

    def __init__(self, engine: AsyncEngine, keep: int) -> None:
        self._engine = engine
        self._keep = keep
        self._kept: list[Any] = []

    @asynccontextmanager
    async def lend(self) -> AsyncGenerator[PostgresLane]:
        """Lend a connection that is open; one over which anything went wrong is not used again.

        Raises: OSError: the way to the database is at fault; and what the driver raises.
        """
        kept = self._kept
        lent = kept.pop() if kept else await self._engine.raw_connection()
        # The pool looks at those that it lends (`connections.py`); those that stayed out of it may have died as well.
        while (driver := lent.driver_connection) is None or driver.is_closed():
            lent.invalidate()
            lent = kept.pop() if kept else await self._engine.raw_connection()
        try:
            yield PostgresLane(driver)
        except BaseException as error:
            ended = ended_by_the_server(driver, error)
            if isinstance(error, OSError):
                # It has died without a word, or hangs, and so have all that are as old: each would take a time-out.
                self._engine.sync_engine.pool._invalidate(lent, error, _checkin=False)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
                for other in kept:
                    other.invalidate()
                kept.clear()
            lent.invalidate()
            if ended is not None:
                raise ended from error
            raise
        if kept is not self._kept:
            # Everything was closed meanwhile, and nobody would close this one any more.
            lent.invalidate()
        elif len(kept) < self._keep:
            kept.append(lent)
        else:
            await greenlet_spawn(lent.close)

    async def connect(self, pool: AsyncEngine) -> AsyncConnection:
        """Take a connection from the pool; where the server gives it no more, one that was kept here. Raises: what SQLAlchemy raises.

        Why: with as many open as the server has to give, and all of them kept, all else would be refused beside them, for good.
        """
        try:
            return await pool.connect()
        except DBAPIError:
            if not self._kept:
                raise
            await greenlet_spawn(self._kept.pop().close)
            return await self.connect(pool)

    async def close(self) -> None:
        """Give back what was kept."""
        kept, self._kept = self._kept, []
        for lent in kept:
            await greenlet_spawn(lent.close)


class Turn(asyncio.Lock):
    """A lock that is waited for no longer than so many seconds."""

    def __init__(self, patience: float) -> None:
        super().__init__()
        self._patience = patience

    async def acquire(self) -> Literal[True]:
        """Take it. Raises: TimeoutError: others had it all the time."""
        async with asyncio.timeout(self._patience):
            return await super().acquire()


class Home:
    """The event loop that connections and locks belong to, from their first use until they are closed.

    Args: patience: seconds to wait for one's turn to write.

    Attributes:
        writer: held by whoever writes to SQLite.
    """

    def __init__(self, patience: float) -> None:
        self.writer = Turn(patience)
        self._loop: asyncio.AbstractEventLoop | None = None

    def enter(self) -> None:
        """Let nobody in from another event loop.

        Why: a connection of PostgreSQL that two loops use breaks for both, also under the requests of those whose own it is.

        Raises: RuntimeError: it is another one; it says what to do.
        """
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif loop is not self._loop:
            raise RuntimeError(_ELSEWHERE)


class SqliteLanes:
    """One connection that writes on a thread of its own, and reads on the event loop while that is idle; one that reads
    there while it is not. Both open when first used.

    Args:
        file: opens connections.
        writer: gives the lock that is held while something is written, by everybody in this process.
        write_timeout: seconds to wait for another process's write.
    """

    postgres = False

    def __init__(self, file: SqliteFile, writer: Callable[[], Turn], write_timeout: float) -> None:
        self._file = file
        self._writer = writer
        self._write_timeout = write_timeout
        self._reading: sqlite3.Connection | None = None
        self._writing: sqlite3.Connection | None = None
        self._writes: list[Future[Any]] = []
        """What the thread may still be at, also when whoever asked for it has gone away."""
        self._thread: ThreadPoolExecutor | None = None

    @asynccontextmanager
    async def lend(self) -> AsyncGenerator[SqliteLanes]:
        """Lend what everybody shares."""
        self._file.ensure_lately()
        yield self

    async def connect(self, pool: AsyncEngine) -> AsyncConnection:
        """Take a connection from the pool. Raises: what SQLAlchemy raises."""
        return await pool.connect()

    async def fetch(self, statement: Statement) -> Sequence[Row]:
        """Return all rows of a statement that only reads."""
        rows: Sequence[Row] = self._reader().execute(*statement).fetchall()
        return rows

    def _reader(self) -> sqlite3.Connection:
        # No write can begin meanwhile: it begins on the event loop, which the read does not leave.
        writing = self._writing
        if writing is not None and all(write.done() for write in self._writes) and not writing.in_transaction:
            return writing
        if self._reading is None:
            self._reading = self._file.connect(_READ_TIMEOUT)
        return self._reading

    async def change(self, statement: Statement) -> Sequence[Row]:
        """Write and commit; return what the statement says of the rows it changed."""
        return await self._write(lambda connection: self._begin(connection, statement).fetchall())

    async def transact(self, work: Callable[[], Work[Result]], *, lock: int | None = None) -> Result:
        """Do work in a transaction, all of it in one visit to the thread that writes."""
        return await self._write(lambda connection: self._transact(connection, work))

    async def _write(self, write: Callable[[sqlite3.Connection], Result]) -> Result:
        async with self._writer():
            if self._thread is None:
                self._thread = _started()
            written = self._thread.submit(self._on_thread, write)
            self._writes = [*(write for write in self._writes if not write.done()), written]
            result = await asyncio.wrap_future(written)
        # On the event loop, as the thread would have to ask for the interpreter once more.
        self._file.ensure()
        return result

    def _on_thread(self, write: Callable[[sqlite3.Connection], Result]) -> Result:
        if self._writing is None:
            # To open it, too, may have to wait for another process: for one that repairs the file.
            self._writing = self._file.connect(self._write_timeout)
            _set_timeout(self._writing, _READ_TIMEOUT)
        return write(self._writing)

    def _begin(self, connection: sqlite3.Connection, statement: Statement) -> sqlite3.Cursor:
        """Execute what asks for the right to write; nothing of it is done when somebody else has that for too long.

        Why twice: the connection waits as long as a read may, and only here for another process's write. To set that anew
        for each group would make the thread ask a busy event loop for the interpreter four times more.
        """
        try:
            return connection.execute(*statement)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
        _set_timeout(connection, self._write_timeout)
        try:
            return connection.execute(*statement)
        finally:
            _set_timeout(connection, _READ_TIMEOUT)

    def _transact(self, connection: sqlite3.Connection, work: Callable[[], Work[Result]]) -> Result:
        self._begin(connection, ("BEGIN IMMEDIATE", ()))
        try:
            steps = work()
            try:
                statement = next(steps)
                while True:
                    statement = steps.send(connection.execute(*statement).fetchall())
            except StopIteration as done:
                if connection.in_transaction:
                    connection.execute("COMMIT")
                result: Result = done.value
                return result
        except BaseException:
            # After most faults of the disk SQLite has rolled back by itself and says so; the fault is what counts.
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise

    async def close(self) -> None:
        """Close both; they open again when used again."""
        if self._thread is not None:
            self._thread.shutdown()
        for connection in (self._reading, self._writing):
            if connection is not None:
                connection.close()
        self._reading = self._writing = self._thread = None
        self._writes = []


def _started() -> ThreadPoolExecutor:
    """Start a thread. Why before there is work: what is refused for want of one stays in its queue, and would be done with the next."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="keyturn-sqlite")
    thread.submit(int)
    return thread


def _set_timeout(connection: sqlite3.Connection, seconds: float) -> None:
    connection.execute(f"PRAGMA busy_timeout = {round(seconds * 1000)}")
