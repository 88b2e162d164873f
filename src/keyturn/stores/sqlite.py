"""Connections to SQLite: how one is opened and set up, whoever uses it.

Owns: that each waits for the disk before it says yes, and that a file that does not open leaves nothing behind. Must not
hold: lending (`engine.py`, `lanes.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import aiosqlite


async def open_sqlite(file: str, **options: Any) -> aiosqlite.Connection:
    """Open SQLite for SQLAlchemy, and leave no thread behind where that fails.

    Why: the driver tells the thread to end and does not wait, and its last word to an event loop that is closed by then is a
    traceback on standard error: as of a command that cannot open the file.
    """
    import aiosqlite

    connection = aiosqlite.connect(file, **options)
    # SQLAlchemy, which opens a file where we do not, has no other way either.
    thread = connection._thread  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    thread.daemon = True
    try:
        return await connection
    except Exception:
        thread.join()  # it has nothing left to do but to end
        raise


def set_up(connection: Any, _record: object = None) -> None:
    """Set up a new connection of the driver; close it when that fails."""
    cursor = connection.cursor()
    try:
        # The busy timeout comes with the connection, before anything that could meet a lock.
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()
    except BaseException:
        connection.close()  # else its thread would stay
        raise
