"""Sessions in SQLite or PostgreSQL: `ports.SessionStore`, `ports.SessionsWithUsers` and `ports.Openings`.

Owns: opening, listing, ending sessions, and what belongs in one transaction with that. Must not hold: what rotation or
admission mean (`core/`), the hot path (`presenting.py`), statements of it (`session_rows.py`), those of a login
(`opening.py`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from sqlalchemy import select
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from keyturn.core.errors import Unavailable
from keyturn.core.events import Event
from keyturn.core.login import Admission
from keyturn.core.model import RevokeReason, Session, SessionId, User, UserId
from keyturn.core.policy import REQUEST_LIMIT
from keyturn.core.rotation import Decision
from keyturn.counted import GIVING_BACK, try_to_give_back
from keyturn.ports import Admit, Attempt, Clock, Judge, Listing, Opened, Presented
from keyturn.stores.counters import due_back
from keyturn.stores.counting import STATEMENTS, TOGETHER
from keyturn.stores.engine import AsyncConnection, Engine, faults, until_won
from keyturn.stores.event_log import recording, write_events
from keyturn.stores.failover import Failover
from keyturn.stores.group_commit import Gatherer, Group
from keyturn.stores.joining import Joined, Joining, join, joining
from keyturn.stores.lanes import Turn, Work
from keyturn.stores.opening import Opening, Terms, open_at_once, opening
from keyturn.stores.presenting import Presentation, Presenter
from keyturn.stores.revocations import Denied
from keyturn.stores.revoking import UNREVOKED, OnRevoked, lock_user, revoke_sessions, tell_denied, unrevoked, user_lock
from keyturn.stores.schema import sessions
from keyturn.stores.session_rows import has_device, read_group, session_of
from keyturn.stores.throttle import SqlThrottle
from keyturn.stores.touches import PERIOD, Touches

_GROUPS_AT_ONCE = 3
"""With three, a node with 64 connections to PostgreSQL is busy to 97 % (`bench/README.md`). SQLite has one writer, and what is
read beside it misses that connection's cache: there, one is faster."""


class SqlSessions:
    """Keep sessions in a database.

    Args:
        engine: SQLite or PostgreSQL, migrated.
        denylist_lifetime: seconds until the last access token of an ended session is dead (`Policy.denylist_lifetime`).
        heal_time: seconds for which a failover is healed once it was seen (`Policy.heal_time`).
        on_revoked: hears of this node's own revocations.
        clock: stands in for the database's clock, in tests.
        group_size: presentations that share a read and a write; 1 switches groups off.
        touch_period: seconds that last-seen times may wait in memory.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        denylist_lifetime: float,
        heal_time: float,
        on_revoked: OnRevoked | None = None,
        clock: Clock | None = None,
        group_size: int = 256,
        touch_period: float = PERIOD,
    ) -> None:
        self._engine = engine
        self._denylist_lifetime = denylist_lifetime
        self._on_revoked = on_revoked
        self._clock = clock
        self._turns: WeakValueDictionary[UserId, Turn] = WeakValueDictionary()
        """Of the users whose sessions are listed or ended at the moment."""
        self._touches = Touches(engine, touch_period)
        self.failover = Failover(engine, heal_time=heal_time, clock=clock)
        presenter = Presenter(
            engine,
            touches=self._touches,
            failover=self.failover,
            on_revoked=on_revoked,
            denylist_lifetime=denylist_lifetime,
            clock=clock,
        )
        self._presentations: Gatherer[Presentation, Presented] = Gatherer(
            presenter.present, size=group_size, at_once=_GROUPS_AT_ONCE if engine.postgres else 1
        )
        self._joinings: Gatherer[Joining, Joined] = Gatherer(self._join, size=TOGETHER, at_once=STATEMENTS, worth=None)
        # Why together: a flood of wrong passwords has an event each, and SQLite one writer, whose turn logins wait for too.
        self._recordings: Gatherer[Sequence[Event], None] = Gatherer(self._record)

    async def present(self, session_id: SessionId, judge: Judge) -> Decision:
        """Read, judge, and make the decision true: see `ports.SessionStore`.

        Why: the answer leaves only after its group has committed; an answer before it would hand out a token that a
        crash un-confirms. Cancelling the caller does not undo it.

        Raises: Unavailable: the database is at fault.
        """
        return (await self.present_with_user(session_id, judge)).decision

    def present_with_user(self, session_id: SessionId, judge: Judge) -> Awaitable[Presented]:
        """Do as `present`, and tell the session's user. For users of this database; raises as `present`."""
        return self._presentations.call(Presentation(session_id, judge))

    async def open(self, user_id: UserId, admit: Admit) -> Admission:
        """Admit a login under a lock on the user. For users of other directories. Raises: Unavailable: the database is at fault."""
        return (await self._open(user_id, admit, own=False)).admission

    async def open_with_user(self, user: User, admit: Admit) -> Opened:
        """Do as `open`, and tell the user as they are then. For users of this database; raises as `open`."""
        return await self._open(user.id, admit)

    async def open_after_attempt(self, user: User, admit: Admit, attempt: Attempt | None, room: int) -> Opened:
        """Do as `open_with_user`, and give back what the attempt took. For counters of this database; raises as `open`."""
        try:
            return await self._open(user.id, admit, attempt, room)
        except Unavailable as fault:
            # Undone with all the rest. A database that said nothing, or was busy until now, is not asked for more.
            if attempt is not None and not isinstance(fault.__cause__, OSError | PoolTimeoutError):
                await try_to_give_back(SqlThrottle(self._engine, self._clock), attempt.taken, GIVING_BACK)
            raise

    async def _open(
        self, user_id: UserId, admit: Admit, attempt: Attempt | None = None, room: int = 0, *, own: bool = True
    ) -> Opened:
        postgres = self._engine.postgres
        at_once = own and postgres
        entry = joining(attempt, admit, room) if at_once else None
        if entry is not None and (joined := await self._joinings.call(entry)) is not None:
            return joined
        taken = () if attempt is None else due_back(attempt.taken)

        async def once() -> Opening | None:
            async with self._engine.lane() as lane:
                return await open_at_once(lane, user_id, admit, taken, self._terms())

        def work() -> Work[Opening]:
            return opening(user_id, admit, taken, self._terms(), postgres=postgres, claim=at_once)

        done = await until_won(once) if at_once else None
        if done is None:  # others of this user came between each time, or it is the only way
            done = await self._engine.transact(work, lock=user_lock(user_id))
        tell_denied(self._on_revoked, done.denied)
        return done.opened

    async def _join(self, group: Group[Joining, Joined]) -> None:
        await join(self._engine, self._terms(), group)

    def _terms(self) -> Terms:
        return Terms(None if self._clock is None else self._clock(), self._denylist_lifetime)

    async def get(self, session_id: SessionId) -> tuple[Session | None, float]:
        """Read one session, ended or not, and the clock. Raises: Unavailable: the database is at fault."""
        async with self._engine.lane() as lane:
            read = await read_group(lane, [session_id])
        return read.sessions.get(session_id), self._now(read.now)

    async def list_live(self, user_id: UserId) -> Listing:
        """List the user's live sessions, newest first. Raises: Unavailable: the database is at fault."""
        async with self._turn(user_id), self._engine.autocommit() as connection:
            live, now = await self._live(connection, user_id)
        return Listing(sorted(live, key=lambda session: (-session.created_at, session.id)), now)

    async def revoke(
        self, user_id: UserId, reason: RevokeReason, *, only: SessionId | None = None, keep: SessionId | None = None
    ) -> Sequence[SessionId]:
        """End the user's live sessions, `only` one or all but `keep`. Raises: Unavailable: the database is at fault."""

        async def work(connection: AsyncConnection) -> tuple[Sequence[SessionId], Sequence[Denied]]:
            await lock_user(connection, user_id)
            return await revoke_sessions(
                connection,
                user_id,
                reason,
                await self._engine.read_now(connection, self._clock),
                denylist_lifetime=self._denylist_lifetime,
                only=only,
                keep=keep,
            )

        async with self._turn(user_id):
            ended, denied = await self._engine.run(work)
        tell_denied(self._on_revoked, denied)
        return ended

    @asynccontextmanager
    async def _turn(self, user_id: UserId) -> AsyncGenerator[None]:
        """Wait until no other request of this user lists or ends sessions. Raises: Unavailable: they do not end.

        Why: each holds a connection, and those that end sessions wait for one another: hundreds of one user's left none for others.
        """
        turn = self._turns.setdefault(user_id, Turn(REQUEST_LIMIT))
        with faults():
            async with turn:
                yield

    async def owners(self) -> Sequence[UserId]:
        """List the users with a session that nobody has ended. Raises: Unavailable: the database is at fault."""
        async with self._engine.autocommit() as connection:
            found = await connection.execute(select(sessions.c.user_id).where(UNREVOKED).distinct())
            return [UserId(row[0]) for row in found]

    async def knows_device(self, user_id: UserId, device_id: bytes) -> bool:
        """Say whether this user has a session on this device, live or ended and still kept. Raises: Unavailable: the database is at fault."""
        async with self._engine.lane() as lane:
            return await has_device(lane, user_id, device_id)

    async def record(self, *events: Event) -> None:
        """Keep events that belong to no session write. Raises: Unavailable: the database is at fault."""
        kept = [event for event in events if event.kept]
        if kept:
            await self._recordings.call(kept)

    async def _record(self, group: Group[Sequence[Event], None]) -> None:
        events = [event for kept in group.items for event in kept]
        if self._engine.postgres:
            await self._engine.run(lambda connection: write_events(connection, events))
        else:
            await self._engine.transact(lambda: recording(events))
        for index in range(len(group.items)):
            group.answer(index, None)

    async def close(self) -> None:
        """Finish every presentation under way and write what waits; the engine stays open."""
        await self._presentations.drain()
        await self._joinings.drain()
        await self._recordings.drain()
        await self._touches.close()

    async def _live(self, connection: AsyncConnection, user_id: UserId) -> tuple[Sequence[Session], float]:
        now = await self._engine.read_now(connection, self._clock)
        statement = select(sessions).where(
            unrevoked(user_id),
            sessions.c.inactivity_expires_at > now,
            sessions.c.absolute_expires_at > now,
        )
        found = await connection.execute(statement)
        return [session_of(row) for row in found], now

    def _now(self, now: float) -> float:
        return now if self._clock is None else self._clock()
