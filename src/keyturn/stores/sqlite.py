"""Connections to SQLite: how one is opened and set up, whoever uses it, and whether its file is still there.

Owns: that each waits for the disk before it says yes, that a file that does not open leaves nothing behind, that none is
made in passing. Must not hold: lending (`engine.py`, `lanes.py`), how a new file is made (`location.py`).
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
from math import inf
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from keyturn.core.errors import UnsafeSettings

if TYPE_CHECKING:
    import aiosqlite

_log = logging.getLogger(__name__)

OLDEST = "3.35"
"""The version of SQLite that was the first with `RETURNING`."""
_LATELY = 1.0
"""Seconds for which a file that was there counts as being there for whoever only reads."""


class SqliteFile:
    """The file of a node: the one that its first connection has opened, for as long as it has connections.

    Why: SQLite goes on with a file that has been deleted, moved or replaced. What it writes there is lost with the process,
    so a write is acknowledged only after its file was seen to be in its place. And a connection that is opened then would
    make an empty file, or read another one through the write-ahead log of this one, and spoil it.

    Args:
        path: where it is, absolute.
        address: its URI, with which SQLite does not make it.

    Raises: UnsafeSettings: the SQLite of this Python is too old.
    """

    def __init__(self, path: Path, address: str) -> None:
        if sqlite3.sqlite_version_info < tuple(map(int, OLDEST.split("."))):
            raise UnsafeSettings(
                [
                    f"database_too_old: this Python comes with SQLite {sqlite3.sqlite_version}: take one with {OLDEST} or newer,"
                    " or PostgreSQL"
                ]
            )
        self.path = path
        self._name = str(path)
        self._address = address
        self._opened: tuple[int, int] | None = None
        self._in_place = True
        self._ensured_at = -inf
        self.refused = False
        """Whether the disk has refused a write, and taken none of `rights.ping_for_writing` since."""

    def connect(self, timeout: float) -> sqlite3.Connection:
        """Open it without SQLAlchemy, set up as all connections are.

        Args: timeout: seconds to wait for a lock.
        Raises: sqlite3.Error, OSError: it cannot be opened, or is not the one that the others have open.
        """
        connection = sqlite3.connect(
            self._address, timeout=timeout, isolation_level=None, check_same_thread=False, uri=True
        )
        try:
            self._recognise()
        except BaseException:
            connection.close()
            raise
        set_up(connection)
        return connection

    async def open(self, **options: Any) -> aiosqlite.Connection:
        """Open it for SQLAlchemy, and leave no thread behind where that fails. Raises: as `connect`.

        Why wait for the thread: it reports to the event loop, which a command that cannot open the file has closed by then, and
        so prints a traceback.
        """
        import aiosqlite

        connection = aiosqlite.connect(self._address, **options)
        # SQLAlchemy, which opens a file where we do not, has no other way either.
        thread = connection._thread  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        thread.daemon = True
        try:
            opened = await connection
        except Exception:
            if thread.ident is not None:  # else the system had none to start
                thread.join()  # it has nothing left to do but to end
            raise
        try:
            self._recognise()
        except BaseException:
            await opened.close()
            raise
        return opened

    def ensure(self) -> None:
        """Look whether the file that is open is still in its place. Raises: OSError: it is not."""
        if self._opened is None:
            return
        try:
            in_place = identity_of(self._name) == self._opened
        except OSError:
            in_place = False
        if in_place != self._in_place:
            self._in_place = in_place
            _log.log(*(_BACK if in_place else _GONE), self._name)
        self._ensured_at = monotonic() if in_place else -inf
        if not in_place:
            raise OSError(errno.ESTALE, "the SQLite file is not in its place")

    def ensure_lately(self) -> None:
        """Do as `ensure`, unless that was done a moment ago."""
        if monotonic() - self._ensured_at >= _LATELY:
            self.ensure()

    def forget(self) -> None:
        """Take whatever is opened next: all connections have been closed."""
        self._opened = None

    def _recognise(self) -> None:
        """Look whether what was just opened is what the others have open; nothing has been read of it yet."""
        if self._opened is None:
            self._opened, self._in_place = identity_of(self._name), True
        else:
            self.ensure()


_GONE = (
    logging.ERROR,
    "%s was deleted, moved or replaced: every request is 503 until it is back in its place, or this server is started again",
)
_BACK = (logging.WARNING, "%s is back in its place")


def identity_of(name: str) -> tuple[int, int]:
    """Return what tells a file from every other one that there is at the moment. Raises: OSError: there is none."""
    found = os.stat(name)  # noqa: PTH116 - at each commit: half the time of a Path
    return found.st_dev, found.st_ino


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
