"""What several tests of the stores share: an open database with its tables, and waiting for a condition."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio

from keyturn.stores.engine import Engine, open_engine
from keyturn.stores.location import create_private_file

PATIENCE = 30.0
"""Seconds after which a condition that has to come true has not."""


def open_empty(url: str, **options: Any) -> Engine:
    """Open a database without connecting, as `open_engine`; make the file of SQLite, where there is none, without a table."""
    engine = open_engine(url, **options)
    if engine.file is not None:
        create_private_file(engine.file)
    return engine


@asynccontextmanager
async def open_database(url: str) -> AsyncGenerator[Engine]:
    """Open a database and close it."""
    engine = open_empty(url)
    try:
        yield engine
    finally:
        await engine.close()


async def waited_for(engine: Engine) -> None:
    """Wait until somebody waits for a lock in this database of PostgreSQL."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with anyio.fail_after(PATIENCE):
        async with engine.autocommit() as connection:
            while not (await connection.exec_driver_sql(waiting)).scalar_one():  # noqa: ASYNC110 - it waits in the database
                await anyio.sleep(0.01)


async def eventually(condition: Callable[[], bool], patience: float = PATIENCE) -> None:
    """Wait until a condition holds. Raises TimeoutError when it does not in time."""
    with anyio.fail_after(patience):
        while not condition():  # noqa: ASYNC110 - what is waited for may be in another process
            await anyio.sleep(0.01)
