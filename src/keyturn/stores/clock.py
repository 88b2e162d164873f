"""The database's clock, as a node tells it without asking.

Owns: reading it, carrying it on, saying that this machine's own clock differs. Must not hold: what goes by it.
"""

from __future__ import annotations

import logging
import time
from functools import partial

from keyturn.ports import Clock, MonotonicClock
from keyturn.stores.engine import Engine

TOLERANCE = 5.0
"""Seconds by which a machine's clock may differ from the database's before it is said: what nodes forgive each other."""

_log = logging.getLogger(__name__)


def _steady() -> MonotonicClock:
    """Find a clock that nobody sets, and that goes on while the machine sleeps, as `time.monotonic` does not everywhere."""
    if hasattr(time, "clock_gettime"):
        # Of Linux; the monotonic clock of macOS, which Python passes by, goes on by itself, as that of Windows does.
        return partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
    return time.monotonic


class DatabaseClock:
    """Seconds since the Unix epoch by the database's clock: read now and then, and carried on by the monotonic clock.

    Why not this machine's date: one node on which it is wrong would give access tokens that nobody else believes, or that
    come to life in the future, when nobody remembers that they were revoked; it would sign with keys before their time, and
    tell browsers that their sessions are over. The monotonic clock is set by nobody.

    Args:
        engine: of the database.
        wall: this machine's date; the operating system's when None. It counts until the first reading.
        monotonic: seconds, never set back; the operating system's when None.
    """

    def __init__(self, engine: Engine, *, wall: Clock | None = None, monotonic: MonotonicClock | None = None) -> None:
        self._engine = engine
        self._wall = wall or time.time
        self._monotonic = monotonic or _steady()
        self._ahead = self._wall() - self._monotonic()
        self._differs = False

    def now(self) -> float:
        """Tell the time. No I/O: every check of a token asks for it, and a method is called faster than an object."""
        return self._monotonic() + self._ahead

    async def read(self) -> float:
        """Ask the database; return by how many seconds this machine's date is ahead of its clock, at the very least.

        The answer was true at some moment between the question and its arrival, which bounds the clock from both sides. A
        slow answer bounds it loosely, and so changes nothing that a quick one has said.

        Raises: Unavailable: the database is at fault. The clock goes on from what is known.
        """
        async with self._engine.autocommit() as connection:
            asked_at = self._monotonic()
            now = await self._engine.read_now(connection)
            told_at = self._monotonic()
        own = self._wall() - self._monotonic()
        least, most = now - told_at, now - asked_at
        self._ahead = min(max(self._ahead, least), most)
        return own - min(max(own, least), most)

    async def follow(self) -> None:
        """Do as `read`, and say so in the log when this machine's date begins to differ.

        Raises: Unavailable: the database is at fault.
        """
        difference = await self.read()
        differs = abs(difference) > TOLERANCE
        if differs and not self._differs:
            _log.warning("this machine's clock is %+.1f s from the database's, by which everything goes", difference)
        self._differs = differs
