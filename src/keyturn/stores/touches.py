"""Last-seen, last-active and the inactivity deadline, gathered in memory and written together once a second.

Owns: what waits to be written. Must not hold: when a session is worth a touch (`core/rotation.py`).

A touch holds up no answer and makes no read path into a write path. What a killed node had not written is lost: that is
at most a second of activity.
"""

from __future__ import annotations

import asyncio
import logging

from keyturn.core.errors import Unavailable
from keyturn.core.model import Session, SessionId
from keyturn.stores.engine import AsyncConnection, Engine
from keyturn.stores.session_rows import touch_group

_log = logging.getLogger(__name__)

PERIOD = 1.0
"""Seconds from the first touch that waits to the write."""
_BATCH = 500
_LIMIT = 20_000
"""So many wait at most, while the database is away; then the oldest are forgotten."""


class Touches:
    """Touches that wait, merged by session."""

    def __init__(self, engine: Engine, period: float) -> None:
        self._engine = engine
        self._period = period
        self._waiting: dict[SessionId, Session] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Task[None] | None = None

    def add(self, session: Session) -> None:
        """Write this session's times some time soon."""
        self._waiting[session.id] = self._later(session)
        if len(self._waiting) > _LIMIT:
            del self._waiting[next(iter(self._waiting))]
        self._wind()

    def overlay(self, sessions: dict[SessionId, Session]) -> None:
        """Show the touches that wait on sessions just read, so that this node does not decide on times it knows are old."""
        if self._waiting:
            for id_ in sessions.keys() & self._waiting.keys():
                sessions[id_] = self._later(sessions[id_])

    async def flush(self) -> None:
        """Write what waits, but for sessions whose rows somebody has locked: nobody else's touch waits for those.

        Raises: Unavailable: the database is at fault; what is not written is kept.
        """
        waiting = list(self._waiting.values())
        for first in range(0, len(waiting), _BATCH):
            batch = waiting[first : first + _BATCH]

            async def write(connection: AsyncConnection, batch: list[Session] = batch) -> set[SessionId]:
                return await touch_group(connection, batch)

            held = await self._engine.run(write)
            for session in batch:
                if session.id not in held and self._waiting.get(session.id) is session:
                    del self._waiting[session.id]

    async def close(self) -> None:
        """Write what waits, one last time; a fault of the database is logged and does not hold up the end."""
        if self._flushing is not None:
            await asyncio.wait([self._flushing])
        # Only now: what leaves something behind winds the timer again.
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await self._flush_quietly()

    def _later(self, session: Session) -> Session:
        other = self._waiting.get(session.id)
        if other is None:
            return session
        return session._replace(
            last_seen_at=max(session.last_seen_at, other.last_seen_at),
            last_active_at=max(session.last_active_at, other.last_active_at),
            inactivity_expires_at=max(session.inactivity_expires_at, other.inactivity_expires_at),
        )

    def _wind(self) -> None:
        if self._timer is None and self._flushing is None:
            self._timer = asyncio.get_running_loop().call_later(self._period, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._flushing = asyncio.get_running_loop().create_task(self._flush_quietly())
        self._flushing.add_done_callback(self._flushed)

    def _flushed(self, _task: asyncio.Task[None]) -> None:
        self._flushing = None
        if self._waiting:
            self._wind()

    async def _flush_quietly(self) -> None:
        try:
            await self.flush()
        except Unavailable as error:
            _log.warning("last-seen times were not written, they will be later: %s", error.__cause__)
