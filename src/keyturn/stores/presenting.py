"""The hot path: a group of presented tokens is read at once, judged one after the other, and written at once.

Owns: the order of read, judge, compare-and-set, commit, answer. Must not hold: what rotation means (`core/rotation.py`),
SQL (`session_rows.py`), who waits with whom (`group_commit.py`).

A presentation that changes nothing is answered as soon as it is judged. One that changes its session is answered when
the group has committed. When another node was quicker with a session, its presentations are judged again on what that
node left: a judge is pure, so that is safe.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from keyturn.core.errors import Unavailable
from keyturn.core.events import Event
from keyturn.core.model import Session, SessionId
from keyturn.core.rotation import Decision, Outcome, Write
from keyturn.ports import Clock, Judge, Presented
from keyturn.stores.engine import AsyncConnection, Engine
from keyturn.stores.event_log import write_events
from keyturn.stores.failover import Failover
from keyturn.stores.group_commit import Group
from keyturn.stores.revocations import Denied
from keyturn.stores.revoking import OnRevoked, deny, tell_denied
from keyturn.stores.session_rows import Read, Swaps, read_group, swap_group, swap_in_transaction
from keyturn.stores.touches import Touches

_ATTEMPTS = 8
"""How often a presentation is judged, at most: anew only when another node has changed its session, or has it locked."""

_STUCK = 1.0
"""Seconds after which others are not to wait for a group that writes."""


class Presentation(NamedTuple):
    """A call of `SessionStore.present`."""

    session_id: SessionId
    judge: Judge


class _Judged:
    """A group as judged: nothing of it is true yet."""

    __slots__ = ("ahead", "decisions", "now", "places", "plain", "sessions", "swaps", "users")

    def __init__(self, read: Read, now: float) -> None:
        self.sessions = read.sessions
        """The sessions as read, then as each decision leaves them: the next presentation sees that."""
        self.places = read.places
        self.users = read.users
        self.now = now
        self.plain = True
        """Whether all there is to write is the swap itself."""
        self.swaps: dict[SessionId, Session] = {}
        """Each session that changes, as it was read."""
        self.decisions: list[tuple[int, Decision]] = []
        self.ahead: list[int] = []

    def judge(self, group: Group[Presentation, Presented], index: int, *, healing: bool) -> Decision | None:
        """Judge one presentation; None when its judge raised: that is its caller's affair alone."""
        session_id, judge = group.items[index]
        session = self.sessions.get(session_id)
        try:
            decision = judge(session, self.now, healing)
        except Exception as error:  # noqa: BLE001 - the caller raises it
            group.fail(index, error)
            return None
        if decision.write is not Write.NOTHING and session is not None and decision.session is not None:
            if decision.write is Write.SWAP:
                self.swaps.setdefault(session_id, session)
            self.sessions[session_id] = decision.session
            if decision.session.revoked_at is not None:
                self.plain = False
        if decision.events and any(event.kept for event in decision.events):
            self.plain = False
        return decision

    def swapped(self) -> Swaps:
        return {id_: (self.places[id_], read, self.sessions[id_]) for id_, read in self.swaps.items()}

    def kept(self, group: Group[Presentation, Presented], lost: set[SessionId]) -> Iterable[Event]:
        """List the events of the decisions that have become true."""
        for index, decision in self.decisions:
            if decision.events and group.items[index].session_id not in lost:
                yield from decision.events


class Presenter:
    """Do groups of presentations; `SqlSessions` makes one."""

    def __init__(
        self,
        engine: Engine,
        *,
        touches: Touches,
        failover: Failover,
        on_revoked: OnRevoked | None,
        denylist_lifetime: float,
        clock: Clock | None,
    ) -> None:
        self._engine = engine
        self._touches = touches
        self._failover = failover
        self._on_revoked = on_revoked
        self._denylist_lifetime = denylist_lifetime
        self._clock = clock

    async def present(self, group: Group[Presentation, Presented]) -> None:
        """Answer every presentation of a group. Raises: Unavailable: the database is at fault."""
        with self._stepping_aside(group):
            indexes = await self._attempt(group, range(len(group.items)))
        if not indexes:
            return
        # Whoever has locked a row may take as long as they like. Only that session's browser waits for them: to answer the
        # others, the group has stepped aside.
        for _ in range(_ATTEMPTS - 1):
            try:
                indexes = await self._attempt(group, indexes, wait=True)
            except Unavailable as fault:
                if len(indexes) == 1 or not _is_locked(fault):
                    raise
                # One that is locked still has undone what those beside it had written.
                for index in await self._attempt(group, indexes):
                    group.fail(index, fault)
                return
            if not indexes:
                return
        raise Unavailable("database")

    @contextmanager
    def _stepping_aside(self, group: Group[Presentation, Presented]) -> Generator[None]:
        """Let a group of SQLite step aside when it has to wait for its turn to write: reading never has to.

        Why not before each write: whoever comes meanwhile would be a group with a commit of its own.
        """
        if self._engine.postgres:
            yield
            return
        timer = asyncio.get_running_loop().call_later(_STUCK, group.step_aside)
        try:
            yield
        finally:
            timer.cancel()

    async def _attempt(
        self, group: Group[Presentation, Presented], indexes: Sequence[int], *, wait: bool = False
    ) -> Sequence[int]:
        """Do what can be done; return the presentations whose sessions have moved meanwhile, or are locked.

        Args: wait: a while for what is locked; then it is `Unavailable`.
        """
        async with self._engine.lane() as lane:
            read = await read_group(lane, {group.items[index].session_id for index in indexes})
            judged = self._judge(read, group, indexes)
            if judged.plain and not judged.ahead:
                self._answer_unchanged(group, judged)
                if not judged.swaps:
                    return ()
                if not wait:
                    won = await swap_group(lane, judged.swapped())
                    return self._answer(group, judged, judged.swaps.keys() - won)
        if judged.ahead:
            await self._judge_ahead(group, judged)

        async def write(connection: AsyncConnection) -> tuple[set[SessionId], Sequence[Denied]]:
            swaps = judged.swapped()
            won = await swap_in_transaction(connection, swaps, wait=wait) if swaps else set[SessionId]()
            return judged.swaps.keys() - won, await self._write_rest(connection, group, judged, won)

        lost, denied = await self._engine.run(write)
        tell_denied(self._on_revoked, denied)
        return self._answer(group, judged, lost)

    def _judge(self, read: Read, group: Group[Presentation, Presented], indexes: Sequence[int]) -> _Judged:
        self._touches.overlay(read.sessions)
        judged = _Judged(read, read.now if self._clock is None else self._clock())
        for index in indexes:
            decision = judged.judge(group, index, healing=False)
            if decision is None:
                continue
            if decision.outcome is Outcome.AHEAD:
                judged.ahead.append(index)
            else:
                judged.decisions.append((index, decision))
        return judged

    async def _judge_ahead(self, group: Group[Presentation, Presented], judged: _Judged) -> None:
        """Judge those again that are ahead of the database, with fresh word on whether that is to be believed."""
        async with self._engine.autocommit() as connection:
            healing = await self._failover.healing(connection)
        for index in judged.ahead:
            if decision := judged.judge(group, index, healing=healing):
                judged.decisions.append((index, decision))

    async def _write_rest(
        self,
        connection: AsyncConnection,
        group: Group[Presentation, Presented],
        judged: _Judged,
        won: set[SessionId],
    ) -> Sequence[Denied]:
        """Write the denylist entries and the events that belong to a swap, in its transaction."""
        ended = [id_ for id_ in won if judged.sessions[id_].revoked_at is not None]
        denied = await deny(connection, ended, judged.now, self._denylist_lifetime) if ended else ()
        await write_events(connection, judged.kept(group, judged.swaps.keys() - won))
        return denied

    def _answer_unchanged(self, group: Group[Presentation, Presented], judged: _Judged) -> None:
        """Answer those whose sessions nobody in the group changes: they need not wait for its commit."""
        if len(judged.swaps) == len(judged.decisions):
            return
        rest: list[tuple[int, Decision]] = []
        for index, decision in judged.decisions:
            if group.items[index].session_id in judged.swaps:
                rest.append((index, decision))
            else:
                self._answer_one(group, judged, index, decision)
        judged.decisions = rest

    def _answer(self, group: Group[Presentation, Presented], judged: _Judged, lost: set[SessionId]) -> Sequence[int]:
        """Answer those whose decision is true; return the others.

        Why the next group begins first: to answer this one takes the event loop milliseconds, in which the database can
        already work on what has gathered.
        """
        group.step_aside()
        again: list[int] = []
        for index, decision in judged.decisions:
            if lost and group.items[index].session_id in lost:
                again.append(index)
            else:
                self._answer_one(group, judged, index, decision)
        return again

    def _answer_one(
        self, group: Group[Presentation, Presented], judged: _Judged, index: int, decision: Decision
    ) -> None:
        session = decision.session
        if session is None:
            group.answer(index, Presented(decision, None))
            return
        if decision.write is Write.TOUCH:
            self._touches.add(session)
        group.answer(index, Presented(decision, judged.users.get(session.user_id)))


def _is_locked(fault: Unavailable) -> bool:
    """Say whether it is one because a row was not let go in time."""
    return getattr(getattr(fault.__cause__, "orig", None), "sqlstate", None) == "55P03"
