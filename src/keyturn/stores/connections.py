"""The connections of a pool, above all to PostgreSQL: how one begins, when it is of no more use, how it ends.

Owns: what happens to a connection beside its statements. Must not hold: lending (`engine.py`, `lanes.py`).
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import AsyncAdaptedQueuePool, Engine, Pool, event
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util.concurrency import greenlet_spawn

from keyturn.core.errors import UnsafeSettings
from keyturn.stores.location import without_sqlalchemy
from keyturn.stores.poolers import POOLED, connect, connect_to_one, each_host, execute_where_direct, shares_backends

if TYPE_CHECKING:
    import asyncpg

READ_ONLY = "25006"
"""The SQLSTATE of a server that takes no writes."""
_NAME = "keyturn"
"""What the server shows for a connection."""
OLDEST = 12
"""The version of PostgreSQL that was the first with `WITH … AS MATERIALIZED`."""


def look_after(engine: Engine, patience: float) -> None:
    """Look after all connections of a pool to PostgreSQL.

    Args: patience: seconds that a transaction may wait for this node's next statement.
    """
    beginning = _Beginning(without_sqlalchemy(engine.url.render_as_string(hide_password=False)), patience)

    def begin(connection: Any, _record: object) -> None:
        connection.run_async(beginning.begin)

    # Before SQLAlchemy's own, which prepares statements.
    event.listen(engine, "connect", begin, insert=True)
    event.listen(engine, "checkout", _look_at)
    event.listen(engine, "handle_error", _leave_behind)


def connecting(url: URL, connect_timeout: float, command_timeout: float) -> dict[str, Any]:
    """Return how an engine of SQLAlchemy connects: by itself, or to the first host that takes us and is what is asked for.

    Args:
        connect_timeout: seconds for a connection, to whichever host.
        command_timeout: seconds a statement may take.
    """
    given = {"command_timeout": command_timeout, "server_settings": {"application_name": _NAME}}
    urls = each_host(without_sqlalchemy(url.render_as_string(hide_password=False)))
    if len(urls) == 1 and "target_session_attrs" not in url.query:
        return {"poolclass": _Pool, "connect_args": {**given, "timeout": connect_timeout}}
    return {"poolclass": _Pool, "async_creator": lambda: connect_to_one(urls, seconds=connect_timeout, **given)}


class _Pool(AsyncAdaptedQueuePool):
    """Lends what is open before it opens anything in the place of what has ended.

    Why: it would lend the last one that came back, and where PostgreSQL has no connection to spare (53300) that is the place of one
    which could not be opened: whoever comes would be refused, beside a dozen of connections that are open and idle.
    """

    __module__ = AsyncAdaptedQueuePool.__module__
    """It writes to the log by this name, and whoever set SQLAlchemy's log up means this one too."""

    def _do_get(self) -> ConnectionPoolEntry:
        found, ended = super()._do_get(), list[ConnectionPoolEntry]()
        while not _is_open(found) and not self._pool.empty():
            ended.append(found)
            found = self._pool.get(block=False)
        for other in ended:
            self._do_return_conn(other)
        return found


def _is_open(entry: ConnectionPoolEntry) -> bool:
    connection: Any = entry.driver_connection
    return connection is not None and not connection.is_closed()


class _Beginning:
    """How each connection of one pool begins: it is set up, unless it has no backend of its own.

    Why each is asked and not one at the start: so whoever opens a database is told, a server or a command. A direct connection
    takes no statement more for it: what sets it up is the question.
    """

    def __init__(self, url: str, patience: float) -> None:
        self._url = url
        # Why: the rows of a node that froze or lost its network stay locked, for two hours by default, and every group
        # that has one of these sessions in it waits for them. And a role or a database may have another isolation: whoever has
        # waited for a lock must see what its last holder wrote. A pooler takes no such parameters at the start.
        settings = {
            "idle_in_transaction_session_timeout": round(patience * 1000),
            "tcp_keepalives_idle": 30,
            "tcp_keepalives_interval": 10,
            "tcp_keepalives_count": 3,
            "default_transaction_isolation": "read committed",
            # Where rows are hidden from this role, sessions would be no more: a statement that may not see all of them fails.
            "row_security": "off",
        }
        values = {name: f"'{value}'" for name, value in settings.items()}
        # Refused at the start, and set later for somebody's bulk load: a crash would lose what we have acknowledged.
        values["synchronous_commit"] = "replace(current_setting('synchronous_commit'), 'off', 'on')"
        self._setup = "SELECT " + ", ".join(f"set_config('{name}', {value}, false)" for name, value in values.items())
        self._in_session_mode = False

    async def begin(self, connection: asyncpg.Connection) -> None:
        """Set a connection up.

        Raises: UnsafeSettings: a pooler in transaction mode is in between, or the server is too old; nothing was set. OSError: the
            server ended it; and what the driver raises.
        """
        try:
            major: int = connection.get_server_version().major  # type: ignore[no-untyped-call]
            if major < OLDEST:
                raise UnsafeSettings([f"database_too_old: it is PostgreSQL {major}: take {OLDEST} or newer"])
            if not self._in_session_mode:
                if await execute_where_direct(connection, self._setup):
                    return
                if await shares_backends(connection, lambda: connect(self._url, name=_NAME)):
                    raise UnsafeSettings([POOLED])
                self._in_session_mode = True
            await connection.execute(self._setup)
        except BaseException as error:
            ended = ended_by_the_server(connection, error)
            # Not every SQLAlchemy ends a connection that does not begin, and one that does waits for the server.
            connection.terminate()  # type: ignore[no-untyped-call]
            if ended is not None:
                raise ended from error
            raise


def _look_at(connection: Any, _record: object, _lent: object) -> None:
    """Have another connection opened in the place of one that has ended while nobody used it, as the driver knows.

    Why: a server or a firewall that ends idle connections would otherwise cost whoever comes next a 503 for each of them.
    """
    if connection.driver_connection.is_closed():
        raise DisconnectionError


def ended_by_the_server(connection: asyncpg.Connection, error: BaseException) -> ConnectionResetError | None:
    """Return a ConnectionResetError where the driver raised this because the connection has ended; None: for another reason."""
    from asyncpg.exceptions import InterfaceError, InternalClientError

    closed: bool = connection.is_closed()  # type: ignore[no-untyped-call]
    surprised = closed and isinstance(error, InterfaceError | InternalClientError)
    return ConnectionResetError("the connection was closed") if surprised else None


def _leave_behind(context: ExceptionContext) -> None:
    """Take a connection for lost, and with it all that are as old, when the server behind it takes no writes or says nothing.

    Why: after a failover it may be a standby that lives on, and only a new connection finds the way to the primary. Where
    the way to a server was lost without a word, each of them would take a time-out.
    """
    error = context.original_exception
    if isinstance(error, OSError) or getattr(error, "sqlstate", None) == READ_ONLY:
        context.is_disconnect = True
        # SQLAlchemy takes a time-out for the caller's own.
        context.invalidate_pool_on_disconnect = True


async def give_back(connection: AsyncConnection, lender: Pool) -> None:
    """Give a connection back to the pool that has lent it, and close it where the engine has another pool by now.

    Why: all others were closed then. This one nobody would close any more, until the garbage collector finds it.
    """
    await connection.close()
    if lender is not connection.engine.pool:
        await greenlet_spawn(lender.dispose)


@contextmanager
def hanging_up(engine: Engine) -> Generator[None]:
    """End connections, within the block, without waiting for the server to agree: one that hangs takes its time for each.

    Why not always: a connection that is given up in the middle of a statement has the server told to stop that first.
    """
    event.listen(engine, "close", _hang_up)
    try:
        yield
    finally:
        event.remove(engine, "close", _hang_up)


def _hang_up(connection: Any, _record: object) -> None:
    connection.driver_connection.terminate()
