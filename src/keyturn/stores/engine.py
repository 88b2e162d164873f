"""The way to a database: open it, talk to it in a transaction or without one, and tell its faults from ours.

Owns: connections, transactions, what counts as a fault of the database, its clock. Must not hold: any table's queries.

SQLite has one writer: a lock per process, `BEGIN IMMEDIATE` and a busy timeout between processes. PostgreSQL runs
single statements without a transaction of their own, so that a statement is one round trip.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from pathlib import Path
from random import uniform
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection as AsyncConnection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from keyturn.background import to_its_end
from keyturn.core.errors import Unavailable, UnsafeSettings
from keyturn.ports import Clock
from keyturn.stores.connections import connecting, give_back, hanging_up, look_after
from keyturn.stores.lanes import Home, Lane, Lanes, PostgresLanes, SqliteLanes, Work
from keyturn.stores.location import address_of, file_of, is_missing, normalise
from keyturn.stores.sqlite import SqliteFile, set_up

if TYPE_CHECKING:
    import aiosqlite

Result = TypeVar("Result")

ATTEMPTS = 5
"""How often a transaction is tried that lost against another one, before it is `Unavailable`."""
_TRYING = 5.0
"""Seconds after which it is not tried again."""
POSTGRES_NOW = "extract(epoch from clock_timestamp())::float8"
SQLITE_NOW = "((julianday('now') - 2440587.5) * 86400.0)"

# What a statement of ours may be refused for by itself, by the text of it or what it is given. All else that PostgreSQL has a code for is a
# fault of the server, its host or the way to it, or of what somebody has changed: constraints, triggers, rights, types. Such a text quotes rows.
_MISTAKES = frozenset({"21000", "22000", "22021", "25001", "25P01", "25P02", "42601", "42P02", "42P18"})
_FUNCTION = re.compile(r"\bPL/|\bSQL\b", re.ASCII)
"""Stands in the context, in every language, where it was not the statement but a function that it has called, as a trigger does."""
_CONFLICT_STATES = frozenset({"40001", "40P01", "0A000"})  # the last: a plan from before a column changed
_SQLITE_CONFLICTS = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_SQLITE_FAULTS = _SQLITE_CONFLICTS | {
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_CONSTRAINT,
}
# No room, a disk that fails, a file system that was mounted anew to be read alone.
_SQLITE_REFUSALS = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY})
_NO_THREAD = "can't start new thread"  # at a limit of threads, as a container has one; it has no class of its own
_SQLITE_VANISHED = re.compile(r"\bno such (table|column|index|function): |\bON CONFLICT clause does not match ")


class Engine:
    """A pool of connections to one database; `open_engine` makes one.

    Attributes:
        sqlalchemy: the pool, for what this class does not offer.
        postgres: whether it is PostgreSQL; otherwise it is SQLite.
        now_sql: the database's clock as an SQL expression, in seconds since the epoch.
        home: the event loop that all of it belongs to until `close`.
    """

    def __init__(
        self, sqlalchemy: AsyncEngine, sqlite: SqliteFile | None = None, *, keep: int = 0, write_timeout: float = 10.0
    ) -> None:
        """Set up; `open_engine` knows the options.

        Args:
            sqlite: its file; None: it is PostgreSQL.
            keep: for PostgreSQL, how many connections the lanes may keep for themselves; fewer than the pool has.
            write_timeout: for SQLite, seconds to wait for another process's write, and for one's turn in this process.
        """
        self.sqlalchemy = sqlalchemy
        self._sqlite = sqlite
        self.postgres = sqlite is None
        self.now_sql = POSTGRES_NOW if self.postgres else SQLITE_NOW
        self._autocommit = sqlalchemy.execution_options(isolation_level="AUTOCOMMIT")
        self._write_timeout = write_timeout
        self.home = Home(write_timeout)
        self._running: set[asyncio.Future[Any]] = set()
        self._lanes: Lanes = (
            PostgresLanes(sqlalchemy, keep)
            if sqlite is None
            else SqliteLanes(sqlite, lambda: self.home.writer, write_timeout)
        )

    @property
    def file(self) -> Path | None:
        """The file of SQLite, which need not exist; None for PostgreSQL."""
        return None if self._sqlite is None else self._sqlite.path

    @property
    def sqlite(self) -> SqliteFile | None:
        """What is known of the file of SQLite; None for PostgreSQL."""
        return self._sqlite

    @property
    def missing(self) -> bool:
        """Whether it is a SQLite file that nobody has made yet."""
        return self.file is not None and is_missing(self.file)

    @asynccontextmanager
    async def lane(self) -> AsyncGenerator[Lane]:
        """Lend a connection of the driver, for the hot path: every statement is a transaction of its own.

        Raises: Unavailable: the database is at fault.
        """
        self.home.enter()
        with faults(self._sqlite):
            async with self._lanes.lend() as lane:
                yield lane

    @asynccontextmanager
    async def autocommit(self) -> AsyncGenerator[AsyncConnection]:
        """Lend a connection on which every statement is a transaction of its own: for reads, and single writes of PostgreSQL.

        Raises: Unavailable: the database is at fault.
        """
        self.home.enter()
        with faults():
            if self._sqlite is not None:
                self._sqlite.ensure_lately()
            async with self._lent(self._autocommit) as connection:
                yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[AsyncConnection]:
        """Lend a connection in a transaction that commits at the end, or rolls back when something is raised.

        Raises: Unavailable: the database is at fault; when that happens at the commit, whether it took place is unknown.
        """
        self.home.enter()
        with faults(self._sqlite):
            if self._sqlite is None:
                async with self._lent(self.sqlalchemy) as connection, connection.begin():
                    yield connection
                return
            self._sqlite.ensure_lately()
            # SQLite starts a transaction for reading and fails when it must turn into one for writing; so we start
            # one for writing at once, and queue here instead of in the busy timeout, which polls.
            async with self.home.writer, self._lent(self._autocommit) as connection:
                await connection.exec_driver_sql("BEGIN IMMEDIATE")
                try:
                    yield connection
                except BaseException:
                    # After most faults of the disk SQLite has rolled back by itself and says so; the fault is what counts.
                    with suppress(SQLAlchemyError):
                        await connection.exec_driver_sql("ROLLBACK")
                    raise
                await connection.exec_driver_sql("COMMIT")
                self._sqlite.ensure()

    @asynccontextmanager
    async def _lent(self, pool: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
        """Lend a connection of the pool and take it back, also from a caller who is cancelled meanwhile.

        Why: a connection whose opening is cancelled is lost to the pool until the garbage collector finds it. Callers who go
        away at the right moment would empty the pool.
        """
        lender = pool.pool

        def take_back(opening: asyncio.Future[AsyncConnection]) -> None:
            if not opening.cancelled() and opening.exception() is None:
                _ = to_its_end(give_back(opening.result(), lender), self._running)

        opening = asyncio.ensure_future(self._lanes.connect(pool))
        try:
            connection = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(take_back)
            raise
        try:
            yield connection
        finally:
            await to_its_end(give_back(connection, lender), self._running)

    async def run(self, work: Callable[[AsyncConnection], Awaitable[Result]]) -> Result:
        """Run work in a transaction, again when it lost against another one (deadlock, serialisation, busy file).

        A caller who is cancelled meanwhile leaves it to run to its end. Why: SQLAlchemy drops a connection whose statement
        is cancelled, and that of SQLite could stay behind with its transaction open, so that nobody could write any more.

        Args: work: may run several times; what it does outside the database must be safe to repeat.
        Raises: Unavailable: the database is at fault, or the work lost too often.
        """

        async def once() -> Result:
            async with self.transaction() as connection:
                return await work(connection)

        return await to_its_end(until_won(once), self._running)

    async def transact(self, work: Callable[[], Work[Result]], *, lock: int | None = None) -> Result:
        """Do as `run`, straight through the driver: for what every login does. See `Lane.transact`.

        Raises: Unavailable: the database is at fault, or the work lost too often.
        """

        async def once() -> Result:
            async with self.lane() as lane:
                return await lane.transact(work, lock=lock)

        return await until_won(once)

    async def read_now(self, connection: AsyncConnection, clock: Clock | None = None) -> float:
        """Read the database's clock, or the one that stands in for it."""
        if clock is not None:
            return clock()
        return float((await connection.exec_driver_sql(f"SELECT {self.now_sql}")).scalar_one())

    async def close(self) -> None:
        """Finish what `run` does, and close all connections; those in use close when they are given back.

        They open again when used again, also on another event loop.
        """
        if self._running:
            await asyncio.wait(self._running)
        await self._lanes.close()
        with hanging_up(self.sqlalchemy.sync_engine) if self.postgres else nullcontext():
            await self.sqlalchemy.dispose()
        if self._sqlite is not None:
            self._sqlite.forget()
        self.home = Home(self._write_timeout)


async def until_won(once: Callable[[], Awaitable[Result]]) -> Result:
    """Try a transaction until it has not lost against another one (deadlock, serialisation, busy file).

    Raises: Unavailable: the database is at fault, or it lost too often.
    """
    # One that lost after it had waited as long as anybody may has nothing to gain from another try.
    until = monotonic() + _TRYING
    for _ in range(ATTEMPTS - 1):
        try:
            return await once()
        except Unavailable as error:
            if not _lost(error.__cause__) or monotonic() >= until:
                raise
        await asyncio.sleep(uniform(0.001, 0.02))  # noqa: S311 - spreads retries, protects nothing
    return await once()


def open_engine(
    url: str, *, pool_size: int = 16, connect_timeout: float = 5.0, command_timeout: float = 10.0
) -> Engine:
    """Open a database, without connecting yet.

    Args:
        url: `sqlite:///file` or `postgresql://user@host/database`, with or without the driver's name.
        pool_size: connections at most. What a burst has opened is kept: to open one takes longer than a login's statements.
        connect_timeout: seconds to wait for a connection, new or from the pool.
        command_timeout: seconds a statement may take; for SQLite, how long to wait for another process's write.

    Raises: ValueError: the URL is not one that `normalise` takes. UnsafeSettings: SQLite is too old.
    """
    parsed = normalise(url)
    options: dict[str, Any] = {
        "pool_size": pool_size,
        "max_overflow": 0,
        "pool_use_lifo": True,
        "pool_timeout": connect_timeout,
        # The text of an error is logged by whoever catches it; hashes, session ids and addresses are in the parameters.
        "hide_parameters": True,
    }
    if parsed.get_backend_name() == "postgresql":
        options |= connecting(parsed, connect_timeout, command_timeout)
        engine = create_async_engine(parsed, **options)
        look_after(engine.sync_engine, command_timeout / 2)
        return Engine(engine, keep=pool_size // 4)

    file = SqliteFile(file_of(parsed), address_of(parsed))

    async def connect() -> aiosqlite.Connection:
        _, given = engine.dialect.create_connect_args(parsed)
        return await file.open(**{**given, "timeout": command_timeout, "uri": True})

    engine = create_async_engine(parsed, async_creator=connect, **options)
    event.listen(engine.sync_engine, "connect", set_up)
    return Engine(engine, file, write_timeout=command_timeout)


async def check_durability(engine: Engine) -> None:
    """Refuse a database that acknowledges what it has not written, lets nothing be written, or not every text.

    Why: with `synchronous_commit=off` a killed PostgreSQL loses acknowledged rotations, and the next refresh of each
    looks like reuse. What a connection begins with is read: a role or a database may override the server's.

    Raises:
        UnsafeSettings: the database is not durable, is a SQLite file that may only be read, or has another encoding.
        Unavailable: it is at fault.
    """
    problems: list[str] = []
    async with engine.autocommit() as connection:
        if engine.postgres:
            for name in ("synchronous_commit", "fsync"):
                setting = await connection.exec_driver_sql("SELECT reset_val FROM pg_settings WHERE name = $1", (name,))
                if setting.scalar_one() == "off":
                    problems.append(f"database_not_durable: PostgreSQL has {name}=off for this role or database")
            encoding = await connection.exec_driver_sql("SELECT current_setting('server_encoding')")
            # The second takes whatever bytes it is given.
            if (kept := encoding.scalar_one()) not in {"UTF8", "SQL_ASCII"}:
                problems.append(
                    f"database_encoding: PostgreSQL keeps texts of this database in {kept}, which has no letters for most names:"
                    " make one with ENCODING 'UTF8'"
                )
        elif (await connection.exec_driver_sql("PRAGMA journal_mode")).scalar_one() != "wal":
            problems.append("database_not_durable: SQLite refused the write-ahead log (is it a network drive?)")
    if not engine.postgres and await _read_only(engine):
        problems.append("database_read_only: this user may not write the SQLite file, or its file system is read-only")
    if problems:
        raise UnsafeSettings(problems)


async def _read_only(engine: Engine) -> bool:
    """Try to write to SQLite, and take it back. `BEGIN IMMEDIATE` alone passes: it reads where it may not write."""
    try:
        async with engine.transaction() as connection:
            for statement in ("SAVEPOINT keyturn", "CREATE TABLE keyturn_writable (one)", "ROLLBACK TO keyturn"):
                await connection.exec_driver_sql(statement)
    except Unavailable as error:
        _, code = _codes(error.__cause__)
        if code is None or code & 0xFF != sqlite3.SQLITE_READONLY:
            raise
        return True
    return False


async def ping(engine: Engine) -> None:
    """Ask the database for a sign of life. Raises: Unavailable: it gives none."""
    async with engine.autocommit() as connection:
        await connection.exec_driver_sql("SELECT 1")


@contextmanager
def faults(sqlite: SqliteFile | None = None) -> Generator[None]:
    """Turn the database's faults into `Unavailable`; let everything else through, our own mistakes above all.

    Args: sqlite: remembers that the disk has refused something.
    Raises: Unavailable: the block raised what means that the database is at fault; that is its cause.
    """
    try:
        yield
    except Exception as error:
        # The drivers' own errors are told by the codes they carry.
        if not is_fault(error):
            raise
        if sqlite is not None and ((_codes(error)[1] or 0) & 0xFF) in _SQLITE_REFUSALS:
            sqlite.refused = True
        raise Unavailable("database") from error


def is_fault(error: BaseException) -> bool:
    """Say whether an error means that the database is at fault, or the way to it."""
    # A refused, lost or timed-out connection comes as OSError from the driver, unwrapped.
    if isinstance(error, OSError | PoolTimeoutError) or (isinstance(error, RuntimeError) and str(error) == _NO_THREAD):
        return True
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    state, code = _codes(error)
    if state is not None:
        return state not in _MISTAKES or _FUNCTION.search(str(getattr(_origin(error), "context", ""))) is not None
    if code == sqlite3.SQLITE_ERROR:
        # It has one code for all that a statement may meet.
        return _SQLITE_VANISHED.search(str(error)) is not None
    return code is not None and code & 0xFF in _SQLITE_FAULTS


def _lost(error: BaseException | None) -> bool:
    """Say whether a transaction failed only because another one was in its way."""
    state, code = _codes(error)
    return state in _CONFLICT_STATES or (code is not None and code & 0xFF in _SQLITE_CONFLICTS)


def _codes(error: BaseException | None) -> tuple[str | None, int | None]:
    """Return what the driver says: an SQLSTATE of PostgreSQL, or a result code of SQLite."""
    return getattr(origin := _origin(error), "sqlstate", None), getattr(origin, "sqlite_errorcode", None)


def _origin(error: BaseException | None) -> BaseException | None:
    # SQLAlchemy's own error for a statement from before a column got another type has no code.
    return (error.orig and error.orig.__cause__) or error.orig if isinstance(error, DBAPIError) else error
