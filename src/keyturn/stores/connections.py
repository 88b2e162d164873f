"""The connections of a pool to PostgreSQL: how one begins, when it is of no more use, how it ends.

Owns: what happens to a connection beside its statements. Must not hold: lending (`engine.py`, `lanes.py`).
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from operator import methodcaller
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext

READ_ONLY = "25006"
"""The SQLSTATE of a server that takes no writes."""
_KEEPALIVES = "SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3"


def look_after(engine: Engine, patience: float) -> None:
    """Look after all connections of a pool to PostgreSQL.

    Args: patience: seconds that a transaction may wait for this node's next statement.
    """
    # Why: the rows of a node that froze or lost its network stay locked, for two hours by default, and every group that has
    # one of these sessions in it waits for them. Said by a statement, for a pooler takes no such parameters at the start.
    statement = f"SET idle_in_transaction_session_timeout = {round(patience * 1000)}; {_KEEPALIVES}"

    def begin(connection: Any, _record: object) -> None:
        connection.run_async(methodcaller("execute", statement))

    event.listen(engine, "connect", begin)
    event.listen(engine, "handle_error", _leave_read_only)


def _leave_read_only(context: ExceptionContext) -> None:
    """Take a connection for lost, and with it all that are as old, when the server behind it takes no writes.

    Why: after a failover it may be a standby that lives on, and only a new connection finds the way to the primary.
    """
    if getattr(context.original_exception, "sqlstate", None) == READ_ONLY:
        context.is_disconnect = True


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
