"""Bring a database to the tables this version expects.

Owns: the version table and running the steps in `versions/`. Must not hold: the tables as they are now (`schema.py`).

Steps add what the next version needs and never take away what the last one uses, so that nodes of both can run at once.
Alembic is imported when there is a step to do: a node that only serves does without, and so does a command.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from threading import Lock

from sqlalchemy import Connection, inspect

from keyturn.core.errors import KeyturnError, UnsafeSettings
from keyturn.stores.engine import AsyncConnection, Engine, open_engine
from keyturn.stores.location import create_private_file
from keyturn.stores.schema import metadata

VERSION_TABLE = "keyturn_alembic_version"
"""Not Alembic's default: the application may have migrations of its own in the same database."""
_PATIENCE = 600.0
"""Seconds a step may take, and the turn of another node: an index over a million sessions takes one or two."""
_LOCK_TIMEOUT = "5s"
"""How long a step waits for a table: whoever comes meanwhile waits behind it, and gives up after 10 s."""
# The role or the database may have bounds of its own, meant for statements that are small. PostgreSQL 17 was the first to have the last one.
_UNBOUNDED = (
    "SELECT set_config(name, '0', true) FROM pg_settings"
    " WHERE name IN ('statement_timeout', 'lock_timeout', 'transaction_timeout')"
)
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('keyturn:migrate', 0))"
# A node that froze with the table locked would keep it locked.
_BOUNDED = "SELECT set_config('lock_timeout', $1, true), set_config('idle_in_transaction_session_timeout', '5s', true)"


_HAS_LEVEL = {
    "postgresql": f"SELECT to_regclass('{VERSION_TABLE}') IS NOT NULL",
    "sqlite": f"SELECT count(*) FROM sqlite_master WHERE name = '{VERSION_TABLE}'",  # noqa: S608
}
# Alembic keeps what it is doing in globals: two migrations of one process must not be under way at once, whichever their
# threads. Looked at again and again, for event loops share no lock that one of them could wait for.
_ALONE = Lock()
_LOOK_AGAIN = 0.02
"""Seconds."""


class DatabaseNewer(KeyturnError, RuntimeError):
    """The database was migrated by a newer version of Keyturn."""


async def migrate(database: Engine | str) -> str:
    """Bring the database to the expected level and return it; safe when several nodes start at once.

    A step over a large table holds up who writes to it: `docs/decisions/0026-ended-sessions.md` says how long.

    Args: database: an open engine, or a URL for which one is opened and closed.
    Raises:
        UnsafeSettings: there is no SQLite file, and none can be made; or there are tables and no level.
        Unavailable: the database is at fault, or somebody else holds a table (`LOCK_NOT_AVAILABLE`); nothing has changed.
        DatabaseNewer: the database is at a level this version does not know: it is older than the database.
    """
    if not isinstance(database, str) and (not database.postgres or await _is_current(database)):
        return await _migrate(database)
    # PostgreSQL gets a connection of its own for it, with more time for a statement than those that serve have.
    url = database if isinstance(database, str) else database.sqlalchemy.url.render_as_string(hide_password=False)
    engine = open_engine(url, pool_size=1, command_timeout=_PATIENCE)
    try:
        return await _migrate(engine)
    finally:
        await engine.close()


async def current_level(engine: Engine) -> str | None:
    """Say which level the database has; None: it was never migrated. Raises: Unavailable: the database is at fault."""
    async with engine.autocommit() as connection:
        return await connection.run_sync(_level)


async def has_reached(engine: Engine) -> bool:
    """Say whether a node of this version that runs can work with a database: also when a newer one has migrated it since.

    Levels have four digits and are compared as they are.

    Raises: Unavailable: the database is at fault.
    """
    level = await current_level(engine)
    return level is not None and level >= expected_level()


def expected_level() -> str:
    """Say which level this version expects."""
    return _levels()[-1]


@cache
def _levels() -> Sequence[str]:
    """List the levels that this version knows, from the first: the files of the steps are named after them."""
    return sorted(step.stem.removeprefix("level_") for step in Path(__file__).with_name("versions").glob("level_*.py"))


async def why_not_migrated(engine: Engine) -> str | None:
    """Say what has to be done before this version can work with a database; None: nothing.

    Raises: DatabaseNewer. Unavailable: the database is at fault.
    """
    if engine.missing and engine.file is not None:
        # A relative path is another file for whoever stands elsewhere.
        return f"the SQLite file {engine.file} does not exist: run `keyturn migrate`"
    level = await current_level(engine)
    refuse_newer(level)
    return None if level == expected_level() else "run `keyturn migrate`"


def refuse_newer(level: str | None) -> None:
    """Refuse a level that this version does not know. Raises: DatabaseNewer."""
    if level is not None and level not in _levels():
        raise DatabaseNewer(f"the database is at level {level}, which is unknown: upgrade Keyturn")


def refuse_incomplete(connection: Connection) -> None:
    """Refuse tables of ours without a level: a restore that was interrupted makes them first. Raises: UnsafeSettings."""
    found = sorted(metadata.tables.keys() & inspect(connection).get_table_names())
    if found and _level(connection) is None:
        more = " and more" if len(found) > 3 else ""
        raise UnsafeSettings(
            [
                f"database_incomplete: it has {', '.join(found[:3])}{more}, and no level: was a restore interrupted?"
                " Restore it whole, into an empty database"
            ]
        )


async def _is_current(engine: Engine) -> bool:
    return not engine.missing and await current_level(engine) == expected_level()


async def _migrate(engine: Engine) -> str:
    # Nearly every start finds it so, and waits for no lock.
    if await _is_current(engine):
        return expected_level()
    if engine.file is not None:
        await asyncio.to_thread(create_private_file, engine.file)

    async def work(connection: AsyncConnection) -> None:
        if engine.postgres:
            await connection.exec_driver_sql(_UNBOUNDED)
            await connection.exec_driver_sql(_LOCK)
            await connection.exec_driver_sql(_BOUNDED, (_LOCK_TIMEOUT,))
        await connection.run_sync(_upgrade)

    while not _ALONE.acquire(blocking=False):  # noqa: ASYNC110 - an event belongs to one loop
        await asyncio.sleep(_LOOK_AGAIN)
    try:
        await engine.run(work)
    finally:
        _ALONE.release()
    return expected_level()


def _level(connection: Connection) -> str | None:
    if not connection.exec_driver_sql(_HAS_LEVEL[connection.dialect.name]).scalar_one():
        return None
    level: str | None = connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalar_one_or_none()  # noqa: S608
    return level


def _upgrade(connection: Connection) -> None:
    level = _level(connection)
    refuse_newer(level)
    if level == expected_level():
        return
    refuse_incomplete(connection)
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "keyturn.stores:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
