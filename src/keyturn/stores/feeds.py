"""Following the table of revocations: by PostgreSQL's LISTEN, or by asking again and again.

Owns: the connections of the feeds and their queries. Must not hold: what is done with a revocation (`revocations.py`).
Works on the drivers alone, so that a verifying service does not load SQLAlchemy.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import unquote

from keyturn.stores.poolers import connect, execute_where_direct, shares_backends
from keyturn.stores.revocations import CHANNEL, Denied, Heard, decode
from keyturn.stores.sqlite import identity_of

if TYPE_CHECKING:
    import asyncpg

Row: TypeAlias = tuple[float, str | None, float, float]
"""now, id, expires_at, created_at. Without any revocation there is one row, with the clock alone."""
Read: TypeAlias = Callable[[float], Awaitable[Sequence[Row]]]
"""Read the revocations that are alive and were created at or after a time, by the database's clock; and that clock."""

_SELECT = (
    "SELECT clock.now, id, expires_at, created_at FROM (SELECT {now} AS now) AS clock"
    " LEFT JOIN keyturn_denylist ON created_at >= {since} AND expires_at > clock.now"
)
_POSTGRES = _SELECT.format(now="extract(epoch FROM clock_timestamp())::float8", since="$1")
_NAMED = f"{_POSTGRES} AND id = ANY($2::text[])"
_SQLITE = _SELECT.format(now="(julianday('now') - 2440587.5) * 86400.0", since="?")
_EVER = float("-inf")
_NOTHING_NEW = float("inf")
_HIDDEN = "SELECT row_security_active('keyturn_denylist')"
# The role may end connections sooner than a heartbeat comes. PostgreSQL 14 was the first to have it.
_MAY_IDLE = "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'idle_session_timeout'"
_TIMEOUT = 5
_NAME = "keyturn denylist"


def _sqlite_path(url: str) -> Path:
    quoted, _, options = url.partition("://")[2].removeprefix("/").partition("?")
    name = unquote(quoted)
    # One of SQLite's own URIs is quoted once more.
    return Path(unquote(name.removeprefix("file:")) if "uri=" in options else name).absolute()


@asynccontextmanager
async def _connected(url: str, patience: float = _TIMEOUT) -> AsyncGenerator[asyncpg.Connection]:
    connection = await connect(url, name=_NAME, patience=patience)
    try:
        # It would look as if nothing had been revoked.
        if await connection.fetchval(_HIDDEN):  # type: ignore[no-untyped-call]
            raise PermissionError(errno.EACCES, "row security hides keyturn_denylist from this role")
        yield connection
    finally:
        connection.terminate()  # type: ignore[no-untyped-call]


@asynccontextmanager
async def _postgres_reader(url: str) -> AsyncGenerator[Read]:
    async with _connected(url) as connection:

        async def read(since: float) -> Sequence[Row]:
            return [tuple(row) for row in await connection.fetch(_POSTGRES, since)]

        yield read


@asynccontextmanager
async def _sqlite_reader(path: Path) -> AsyncGenerator[Read]:
    import aiosqlite

    # mode=ro: a file that is not there is a fault, and must not come into being here. And a writer copies the write-ahead log
    # into the file when it closes: into the wrong one, where a backup has taken its place meanwhile.
    address, name = f"{path.as_uri()}?mode=ro", str(path)
    async with aiosqlite.connect(address, uri=True, timeout=_TIMEOUT, isolation_level=None) as connection:
        opened = identity_of(name)

        async def read(since: float) -> Sequence[Row]:
            if identity_of(name) != opened:
                raise OSError(errno.ESTALE, "the SQLite file was replaced")
            return [(row[0], row[1], row[2], row[3]) for row in await connection.execute_fetchall(_SQLITE, (since,))]

        yield read


def _heard(rows: Sequence[Row]) -> Heard:
    return Heard([Denied(item, expires_at) for _, item, expires_at, _ in rows if item is not None], rows[0][0])


async def _ask(connection: asyncpg.Connection, statement: str, *arguments: object) -> Heard:
    return _heard([tuple(row) for row in await connection.fetch(statement, *arguments)])


class PostgresFeed:
    """Follow the table by LISTEN/NOTIFY: a revocation arrives when its transaction commits.

    What a notice names is looked up. Why: every role that may connect to the database may notify, with no right to any table.

    LISTEN comes before the load, so nothing falls between them. The whole table is read again now and then: a safety net
    under whatever was not thought of. A connection that died silently is found out by a heartbeat. Behind a pooler in
    transaction mode, which loses notifications, the table is polled instead.
    """

    def __init__(self, url: str, *, heartbeat: float = 5.0, patience: float = _TIMEOUT, reread: float = 60.0) -> None:
        """Set up.

        Args:
            url: of the database, with or without `+asyncpg`.
            heartbeat: seconds of silence after which the connection is tried.
            patience: seconds in which the database has to answer.
            reread: seconds between two readings of the whole table.
        """
        self._url = url
        self._heartbeat = heartbeat
        self._patience = patience
        self._reread = reread
        self._keeps_backend = False

    async def __call__(self) -> AsyncGenerator[Heard]:
        """Yield what is alive, then each revocation as it comes; the clock alone at a heartbeat. Raises at any fault."""
        async with _connected(self._url, self._patience) as connection:
            self._keeps_backend = self._keeps_backend or await self._look(connection)
            if self._keeps_backend:
                async with aclosing(self._listen(connection)) as batches:
                    async for heard in batches:
                        yield heard
        polling = PollingFeed(self._url, patience=self._patience, reread=self._reread)
        async with aclosing(polling()) as batches:
            async for heard in batches:
                yield heard

    async def _look(self, connection: asyncpg.Connection) -> bool:
        direct = await execute_where_direct(connection, "SELECT")
        return direct or not await shares_backends(connection, lambda: connect(self._url, name=_NAME))

    async def _listen(self, connection: asyncpg.Connection) -> AsyncGenerator[Heard]:
        inbox: asyncio.Queue[str | None] = asyncio.Queue()

        def heard(_connection: object, _pid: int, _channel: str, payload: str) -> None:
            inbox.put_nowait(payload)

        def ended(_connection: object) -> None:
            inbox.put_nowait(None)

        connection.add_termination_listener(ended)  # type: ignore[no-untyped-call]
        await connection.add_listener(CHANNEL, heard)  # type: ignore[no-untyped-call]
        await connection.execute(_MAY_IDLE)
        reread_at = 0.0
        while True:
            if time.monotonic() >= reread_at:
                reread_at = time.monotonic() + self._reread
                yield await _ask(connection, _POSTGRES, _EVER)
            try:
                async with asyncio.timeout(self._heartbeat):
                    notices = [await inbox.get()]
            except TimeoutError:
                yield await _ask(connection, _POSTGRES, _NOTHING_NEW)
                continue
            while not inbox.empty():
                notices.append(inbox.get_nowait())
            if None in notices:
                raise ConnectionError("the database ended the connection")
            named = [entry.id for notice in notices if notice for entry in decode(notice)]
            yield await _ask(connection, _NAMED, _EVER, named)


class PollingFeed:
    """Follow the table by asking for what is new: for SQLite, and for PostgreSQL behind a pooler that loses LISTEN.

    A row is stamped before it is committed, so every question reaches back a little behind the newest row seen; what took
    longer than that to commit is found when the whole table is read again.
    """

    def __init__(
        self,
        url: str,
        *,
        interval: float = 0.25,
        patience: float = _TIMEOUT,
        overlap: float = 10.0,
        reread: float = 60.0,
    ) -> None:
        """Set up.

        Args:
            url: of the database.
            interval: seconds between two questions.
            patience: seconds in which the database has to answer.
            overlap: seconds that a question reaches back behind the newest row seen.
            reread: seconds between two readings of the whole table.
        """
        self._url = url
        # Where it is now: whoever runs us may go elsewhere.
        self._file = _sqlite_path(url) if url.startswith("sqlite") else None
        self._interval = interval
        self._patience = patience
        self._overlap = overlap
        self._reread = reread

    async def __call__(self) -> AsyncGenerator[Heard]:
        """Yield what is alive, then what is new at each question, which may be nothing. Raises at any fault."""
        newest = _EVER
        reread_at = 0.0
        async with self._reader() as read:
            while True:
                whole = time.monotonic() >= reread_at
                if whole:
                    reread_at = time.monotonic() + self._reread
                async with asyncio.timeout(self._patience):
                    rows = await read(_EVER if whole else newest - self._overlap)
                newest = max((created_at for _, item, _, created_at in rows if item is not None), default=newest)
                # One from before the clock was set back would hide what comes until it is that late again.
                newest = min(newest, rows[0][0])
                yield _heard(rows)
                await asyncio.sleep(self._interval)

    def _reader(self) -> AbstractAsyncContextManager[Read]:
        return _postgres_reader(self._url) if self._file is None else _sqlite_reader(self._file)
