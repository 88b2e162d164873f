"""The contract of a session store, put to the test: it takes a store that is right, and finds what is wrong with others."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

import pytest

from keyturn.core.events import Event, EventType
from keyturn.core.login import Admission
from keyturn.core.model import RevokeReason, Session, SessionId, UserId
from keyturn.core.rotation import Decision, Outcome, Write
from keyturn.ports import Admit, Judge, Listing
from keyturn.testing import FrozenClock, StoreContract
from tests.stores.wrong import failures

pytestmark = pytest.mark.anyio


class Rows:
    """What all nodes share."""

    def __init__(self) -> None:
        self.sessions: dict[SessionId, Session] = {}
        self.events: list[Event] = []
        self.denied: set[str] = set()
        self.healing_until = 0.0
        self.login = asyncio.Lock()


class DictStore:
    """Sessions in a dictionary, as somebody may write it who has read `ports.SessionStore`: what a database would do in between
    happens where it waits.
    """

    def __init__(self, rows: Rows, clock: FrozenClock) -> None:
        self.rows = rows
        self.clock = clock

    async def present(self, session_id: SessionId, judge: Judge) -> Decision:
        while True:
            await asyncio.sleep(0)
            read = self.rows.sessions.get(session_id)
            await asyncio.sleep(0)
            decision = judge(read, self.clock(), False)
            if decision.outcome is Outcome.AHEAD:
                decision = judge(read, self.clock(), self.clock() < self.rows.healing_until)
            if decision.session is not None and decision.write is Write.TOUCH:
                self.touch(decision.session)
            if decision.session is None or decision.write is not Write.SWAP:
                self.keep(decision.events)
                return decision
            now = self.rows.sessions[session_id]
            if read is not None and now.revoked_at is None and now.token_hash == read.token_hash:
                self.rows.sessions[session_id] = later(decision.session, now)
                if decision.session.revoked_at is not None:
                    self.rows.denied.add(session_id.hex())
                self.keep(decision.events)
                return decision

    def touch(self, session: Session) -> None:
        now = self.rows.sessions[session.id]
        if now.revoked_at is None:
            self.rows.sessions[session.id] = later(now, session)

    async def open(self, user_id: UserId, admit: Admit) -> Admission:
        async with self.rows.login:
            while True:
                admission = admit((await self.list_live(user_id)).sessions, self.clock())
                await asyncio.sleep(0)
                if self.evict(admission):
                    break
            self.rows.sessions[admission.session.id] = admission.session
            self.keep(admission.events)
        return admission

    def evict(self, admission: Admission) -> bool:
        """End whom the login evicts, all or nobody: one may have ended meanwhile."""
        if any(self.rows.sessions[session.id].revoked_at is not None for session in admission.evicted):
            return False
        self.rows.sessions |= {session.id: session for session in admission.evicted}
        self.rows.denied |= {session.id.hex() for session in admission.evicted}
        return True

    async def get(self, session_id: SessionId) -> tuple[Session | None, float]:
        return self.rows.sessions.get(session_id), self.clock()

    async def list_live(self, user_id: UserId) -> Listing:
        await asyncio.sleep(0)
        now, mine = self.clock(), [s for s in self.rows.sessions.values() if s.user_id == user_id]
        live = [s for s in mine if s.revoked_at is None and min(s.inactivity_expires_at, s.absolute_expires_at) > now]
        return Listing(sorted(live, key=lambda session: (-session.created_at, session.id)), now)

    async def revoke(
        self, user_id: UserId, reason: RevokeReason, *, only: SessionId | None = None, keep: SessionId | None = None
    ) -> Sequence[SessionId]:
        async with self.rows.login:
            now, ended = self.clock(), list[SessionId]()
            mine = [s for s in self.rows.sessions.values() if s.user_id == user_id and only in {None, s.id}]
            kept = self.rows.sessions[keep].device_id if keep is not None else None
            for session in mine:
                if reason is RevokeReason.PASSWORD_CHANGED and session.device_id != kept:
                    self.rows.sessions[session.id] = session._replace(device_id=session.id)
                if session.id != keep and self.to_be_ended(session, now):
                    inactive = session.inactivity_expires_at <= now
                    ended += [] if inactive else [session.id]
                    self.end(session.id, RevokeReason.INACTIVITY if inactive else reason, now)
            return ended

    def to_be_ended(self, session: Session, now: float) -> bool:
        return session.revoked_at is None and session.absolute_expires_at > now

    def end(self, id_: SessionId, reason: RevokeReason, now: float) -> None:
        session = self.rows.sessions[id_]._replace(revoked_at=now, revoked_reason=reason)
        self.rows.sessions[id_] = session
        self.rows.denied.add(id_.hex())
        self.keep([Event(EventType.SESSION_ENDED, now, session.user_id, id_)])

    async def knows_device(self, user_id: UserId, device_id: bytes) -> bool:
        return (user_id, device_id) in {(s.user_id, s.device_id) for s in self.rows.sessions.values()}

    async def record(self, *events: Event) -> None:
        self.keep(events)

    def keep(self, events: Sequence[Event]) -> None:
        self.rows.events += [event for event in events if event.kept]


def later(session: Session, other: Session) -> Session:
    """Give a session the times of another one, where those are later."""
    return session._replace(
        last_seen_at=max(session.last_seen_at, other.last_seen_at),
        last_active_at=max(session.last_active_at, other.last_active_at),
        inactivity_expires_at=max(session.inactivity_expires_at, other.inactivity_expires_at),
    )


class WholeRowTouched(DictStore):
    """Writes what was judged, and not the times alone."""

    def touch(self, session: Session) -> None:
        self.rows.sessions[session.id] = later(session, self.rows.sessions[session.id])


class WrittenAsJudged(DictStore):
    """Writes the session of every decision."""

    async def present(self, session_id: SessionId, judge: Judge) -> Decision:
        decision = await super().present(session_id, judge)
        if decision.session is not None and decision.write is Write.NOTHING:
            self.rows.sessions[session_id] = decision.session
        return decision


class Overtaken(DictStore):
    """Evicts a session that has ended meanwhile once more."""

    def evict(self, admission: Admission) -> bool:
        self.rows.denied |= {session.id.hex() for session in admission.evicted}
        self.rows.sessions |= {session.id: session for session in admission.evicted}
        return True


class InactiveSpared(DictStore):
    """Takes who is inactive for ended, though a refresh that is late in telling of its user may follow."""

    def to_be_ended(self, session: Session, now: float) -> bool:
        return super().to_be_ended(session, now) and session.inactivity_expires_at > now


class EndedAsRead(DictStore):
    """Revokes what it has read a moment ago, whatever has become of it."""

    async def revoke(
        self, user_id: UserId, reason: RevokeReason, *, only: SessionId | None = None, keep: SessionId | None = None
    ) -> Sequence[SessionId]:
        read = (await self.list_live(user_id)).sessions
        await asyncio.sleep(0)
        self.rows.sessions |= {session.id: session for session in read}
        return await super().revoke(user_id, reason, only=only, keep=keep)


class ToldTwice(DictStore):
    """Keeps the events of an end in the log twice."""

    async def present(self, session_id: SessionId, judge: Judge) -> Decision:
        decision = await super().present(session_id, judge)
        self.keep(decision.events if decision.write is Write.SWAP else ())
        return decision


class TestOverDictionary(StoreContract):
    """The contract of whatever store the tests below put in the place of this one."""

    kind: type[DictStore] = DictStore

    @pytest.fixture(autouse=True)
    def _rows(self) -> None:
        self.rows = Rows()

    async def make_store(self, clock: FrozenClock) -> DictStore:
        return self.kind(self.rows, clock)

    async def kept_events(self) -> Sequence[str]:
        return [event.type.value for event in self.rows.events]

    async def denied(self) -> Collection[str]:
        return self.rows.denied

    async def start_healing(self, seconds: float, clock: FrozenClock) -> None:
        self.rows.healing_until = clock() + seconds


@pytest.mark.parametrize(
    ("kind", "found_by"),
    [
        (WholeRowTouched, {"test_touch_that_comes_late"}),
        (WrittenAsJudged, {"test_events_that_pass"}),
        (Overtaken, {"test_ends_that_meet"}),
        (EndedAsRead, {"test_ends_that_meet"}),
        (InactiveSpared, {"test_revoke_of_an_expired_session"}),
        (ToldTwice, {"test_reuse", "test_ends_that_meet"}),
    ],
)
async def test_store_that_is_wrong(kind: type[DictStore], found_by: set[str]) -> None:
    """Each is found, by the test that is about it, and the failure says what was found and what was expected."""

    def over_the_wrong_one() -> TestOverDictionary:
        contract = TestOverDictionary()
        contract.kind, contract.rows = kind, Rows()
        return contract

    failed = await failures(over_the_wrong_one)
    assert failed.keys() >= found_by
    assert all(" == " in str(failure) or " in " in str(failure) for failure in failed.values())
