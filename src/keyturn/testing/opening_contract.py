# ruff: noqa: S101 - these are tests
"""`SessionStore`'s other methods as tests: open, get, list, revoke, devices, events.

Owns: these tests. Must not hold: those of `present` (`presenting_contract.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from keyturn.core.events import Event, EventType
from keyturn.core.login import Admission, Login, admit
from keyturn.core.model import RevokeReason, Session, SessionId
from keyturn.core.policy import DAY, Policy
from keyturn.core.rotation import Outcome
from keyturn.testing.clock import FrozenClock
from keyturn.testing.contract_base import ContractBase, hexes, stored
from keyturn.testing.sessions import CONTACT, Holder, refresh_tokens, sign_in

CAP = 3


class OpeningContract(ContractBase):
    """Tests of everything but `present`."""

    async def test_session_opened(self) -> None:
        """What was opened is read back as it was, every field, at another node; and the event is kept."""
        clock = FrozenClock(1_800_000_000.125)
        odd = CONTACT._replace(user_agent="Opera/9 \u200b 🦊 '\"\\%s $1", ip="2001:db8::1", device="Ünknown")
        holder = await sign_in(
            await self.make_store(clock),
            "user ü",
            device_name="Büro",
            contact=odd,
            amr=("pwd", "otp"),
            device_id=b"\0\xff",
        )
        session = await stored(holder.copy(await self.make_store(clock)))
        assert session == Session(
            id=holder.session_id,
            user_id="user ü",
            generation=0,
            token_hash=holder.presented.token_hash,
            previous_hash=None,
            confirmed_at=clock.now,
            created_at=clock.now,
            last_seen_at=clock.now,
            last_active_at=clock.now,
            inactivity_expires_at=clock.now + holder.policy.remembered_inactivity_timeout,
            absolute_expires_at=clock.now + holder.policy.remembered_absolute_lifetime,
            revoked_at=None,
            revoked_reason=None,
            device_id=b"\0\xff",
            device_name="Büro",
            device="Ünknown",
            ip="2001:db8::1",
            user_agent="Opera/9 \u200b 🦊 '\"\\%s $1",
            amr=("pwd", "otp"),
            authenticated_at=clock.now,
            remember=True,
        )
        assert session.remember is True
        assert await self.kept_events() == ["signed_in"]

    async def test_admit_sees_live_sessions(self) -> None:
        """Only the user's own that are neither revoked nor past a deadline, and the clock."""
        clock = FrozenClock()
        store = await self.make_store(clock)
        await sign_in(store, remember=False)
        revoked = await sign_in(store)
        await store.revoke("user-1", RevokeReason.LOGOUT, only=revoked.session_id)
        await sign_in(store, "user-2")
        live = await sign_in(store)
        clock.advance(3600.0)
        seen: list[tuple[list[SessionId], float]] = []

        def decline(sessions: Sequence[Session], now: float) -> Admission:
            seen.append(([session.id for session in sessions], now))
            raise LookupError("declined")

        try:
            await store.open("user-1", decline)
        except LookupError:
            seen.append(([], 0.0))
        assert seen == [([live.session_id], clock.now), ([], 0.0)]
        assert [session.id for session in (await store.list_live("user-1")).sessions] == [live.session_id]

    async def test_session_too_many(self) -> None:
        """The evicted session ends in the same transaction: its reason, its denylist entry, its event."""
        clock = FrozenClock()
        store = await self.make_store(clock)
        policy = Policy(max_sessions=CAP)
        holders: list[Holder] = []
        for _ in range(CAP + 1):
            clock.advance(1.0)
            holders.append(await sign_in(store, policy=policy))
        assert (await stored(holders[0])).revoked_reason is RevokeReason.EVICTED
        assert set(await self.denied()) == hexes(holders[0].session_id)
        assert await self.kept_events() == ["signed_in"] * (CAP + 1) + ["session_ended"]
        assert (await holders[0].refresh()).reason is RevokeReason.EVICTED
        listed = [session.id for session in (await store.list_live("user-1")).sessions]
        assert listed == [holder.session_id for holder in reversed(holders[1:])]

    async def test_many_logins_at_once(self) -> None:
        """The cap holds exactly, over two nodes."""
        clock = FrozenClock()
        nodes = [await self.make_store(clock), await self.make_store(clock)]
        policy = Policy(max_sessions=CAP)
        await asyncio.gather(*(sign_in(nodes[number % 2], policy=policy) for number in range(4 * CAP)))
        assert len((await nodes[0].list_live("user-1")).sessions) == CAP

    async def test_get(self) -> None:
        """An ended session is still read, an unknown one is None; both with the clock."""
        clock = FrozenClock()
        store = await self.make_store(clock)
        holder = await sign_in(store)
        await store.revoke("user-1", RevokeReason.REVOKED)
        clock.advance(5.0)
        session, now = await store.get(holder.session_id)
        assert session is not None
        assert (session.revoked_reason, now) == (RevokeReason.REVOKED, clock.now)
        assert await store.get(SessionId(bytes(16))) == (None, clock.now)

    async def test_list_of_nothing(self) -> None:
        """A user without sessions has an empty list."""
        clock = FrozenClock()
        listing = await (await self.make_store(clock)).list_live("nobody")
        assert (list(listing.sessions), listing.now) == ([], clock.now)

    async def test_revoke_all(self) -> None:
        """Every live session of this user ends, and is returned, denied and told; nobody else's."""
        store = await self.make_store(FrozenClock())
        mine = [await sign_in(store) for _ in range(3)]
        other = await sign_in(store, "user-2")
        ended = await store.revoke("user-1", RevokeReason.PASSWORD_CHANGED)
        assert set(ended) == {holder.session_id for holder in mine}
        assert {(await stored(holder)).revoked_reason for holder in mine} == {RevokeReason.PASSWORD_CHANGED}
        assert set(await self.denied()) == hexes(*ended)
        assert (await self.kept_events())[4:] == ["session_ended"] * 3
        assert (await stored(other)).revoked_at is None
        assert list(await store.revoke("user-1", RevokeReason.LOGOUT)) == []
        assert (await stored(mine[0])).revoked_reason is RevokeReason.PASSWORD_CHANGED

    async def test_revoke_some(self) -> None:
        """`only` ends one and `keep` spares one; another user's session is not reached by its id."""
        store = await self.make_store(FrozenClock())
        one, two, three = [await sign_in(store) for _ in range(3)]
        assert list(await store.revoke("user-2", RevokeReason.REVOKED, only=one.session_id)) == []
        assert list(await store.revoke("user-1", RevokeReason.REVOKED, only=one.session_id)) == [one.session_id]
        assert list(await store.revoke("user-1", RevokeReason.REVOKED, keep=two.session_id)) == [three.session_id]
        assert [session.id for session in (await store.list_live("user-1")).sessions] == [two.session_id]

    async def test_revoke_of_an_expired_session(self) -> None:
        """What inactivity had ended is not returned, and ends all the same, for that reason: else a refresh that is late in
        telling of its user would bring it back.
        """
        clock = FrozenClock()
        store = await self.make_store(clock)
        holder = await sign_in(store, remember=False)
        clock.advance(3600.0)
        assert list(await store.revoke("user-1", RevokeReason.LOGOUT)) == []
        decision = await holder.refresh(CONTACT._replace(idle_seconds=10.0))
        assert (decision.outcome, decision.reason) == (Outcome.ENDED, RevokeReason.INACTIVITY)
        assert set(await self.denied()) == hexes(holder.session_id)
        assert await self.kept_events() == ["signed_in", "session_ended"]

    async def test_absolute_end(self) -> None:
        """A session that is over by itself stays as it is, whoever revokes or logs in, and its owner learns why it ended."""
        clock = FrozenClock()
        store = await self.make_store(clock)
        holder = await sign_in(store)
        for _ in range(2):
            clock.advance(10 * DAY)
            assert (await holder.refresh()).outcome.accepted
        clock.advance(10 * DAY)
        assert clock.now == (await stored(holder)).absolute_expires_at
        assert list(await store.revoke("user-1", RevokeReason.LOGOUT)) == []
        newer = await sign_in(store, policy=Policy(max_sessions=1))
        assert [session.id for session in (await store.list_live("user-1")).sessions] == [newer.session_id]
        assert (await stored(holder)).revoked_at is None
        assert list(await self.denied()) == []
        assert await self.kept_events() == ["signed_in", "signed_in"]
        assert (await holder.refresh()).reason is RevokeReason.ABSOLUTE

    async def test_revoke_while_refreshing(self) -> None:
        """A refresh commits first and is revoked, or finds the session ended: no survivor."""
        clock = FrozenClock()
        nodes = [await self.make_store(clock), await self.make_store(clock)]
        children = [await (await sign_in(nodes[number % 2])).child() for number in range(20)]
        clock.advance(60.0)
        storm = [asyncio.create_task(child.refresh()) for child in children]
        await asyncio.sleep(0)
        await nodes[1].revoke("user-1", RevokeReason.LOGOUT)
        outcomes = {decision.outcome for decision in await asyncio.gather(*storm)}
        assert outcomes <= {Outcome.CONFIRM, Outcome.ENDED}
        assert not (await nodes[0].list_live("user-1")).sessions
        again = await asyncio.gather(*(child.refresh() for child in children))
        assert {decision.outcome for decision in again} == {Outcome.ENDED}

    async def test_ends_that_meet(self) -> None:
        """A session that is revoked, evicted and presented by a thief at once ends once, and that is told once."""
        clock = FrozenClock()
        nodes = [await self.make_store(clock), await self.make_store(clock)]
        policy = Policy(max_sessions=CAP)
        for end_all in (False, True) * 3:
            await nodes[0].revoke("user-1", RevokeReason.LOGOUT)
            holders = [await sign_in(nodes[number % 2]) for number in range(CAP)]
            dead = [await holder.child() for holder in holders]
            children = [await holder.child() for holder in holders]
            clock.advance(60.0)
            await asyncio.gather(*(child.refresh() for child in children))
            already = len(await self.kept_events())
            ends = [nodes[1].revoke("user-1", RevokeReason.REVOKED)] if end_all else []
            logins = [sign_in(node, policy=policy) for node in nodes]
            await asyncio.gather(*(thief.refresh() for thief in dead), *ends, *logins)
            rows = [await stored(holder) for holder in holders]
            reasons = [session.revoked_reason for session in rows]
            assert {session.generation for session in rows} == {1}
            told = (await self.kept_events())[already:]
            assert told.count("reuse_detected") == reasons.count(RevokeReason.REUSE_DETECTED)
            live = len((await nodes[0].list_live("user-1")).sessions)
            assert told.count("session_ended") == CAP + len(logins) - live
            assert set(await self.denied()) >= hexes(*(holder.session_id for holder in holders))

    async def test_revoke_while_signing_in(self) -> None:
        """A login that had seen the sessions which were ended is ended with them."""
        clock = FrozenClock()
        nodes = [await self.make_store(clock), await self.make_store(clock)]
        old = await sign_in(nodes[0])
        saw: dict[SessionId, bool] = {}

        async def log_in(number: int) -> None:
            tokens, id_ = refresh_tokens(), SessionId(bytes([number]) * 16)
            login = Login(id_, "user-1", bytes(16), None, CONTACT, ("pwd",), remember=True)

            def decide(live: Sequence[Session], now: float) -> Admission:
                saw[id_] = old.session_id in {session.id for session in live}
                return admit(live, login, now, Policy(), tokens.minter(bytes(16)))

            await nodes[number % 2].open("user-1", decide)

        await asyncio.gather(
            *(log_in(number) for number in range(5)),
            nodes[0].revoke("user-1", RevokeReason.LOGOUT),
            *(log_in(number) for number in range(5, 10)),
        )
        survivors = {session.id for session in (await nodes[1].list_live("user-1")).sessions}
        assert survivors == {id_ for id_, saw_it in saw.items() if not saw_it}

    async def test_device(self) -> None:
        """A device is known to the user who had a session on it, also when that has ended, and to nobody else."""
        store = await self.make_store(FrozenClock())
        await sign_in(store, device_id=b"known")
        await store.revoke("user-1", RevokeReason.LOGOUT)
        assert await store.knows_device("user-1", b"known") is True
        assert await store.knows_device("user-1", b"other") is False
        assert await store.knows_device("user-2", b"known") is False

    async def test_devices_after_a_password_change(self) -> None:
        """None is known any more, but for that of the session that is kept; where one session ends alone, none but its own."""
        store = await self.make_store(FrozenClock())
        before = await sign_in(store, device_id=b"before")
        await store.revoke("user-1", RevokeReason.LOGOUT, only=before.session_id)
        alone = await sign_in(store, device_id=b"alone")
        await sign_in(store, device_id=b"ended")
        kept = await sign_in(store, device_id=b"kept")
        devices = (b"before", b"alone", b"ended", b"kept")
        for more, known in (
            ({"only": alone.session_id}, [True, False, True, True]),
            ({"keep": kept.session_id}, [False, False, False, True]),
            ({}, [False] * 4),
        ):
            await store.revoke("user-1", RevokeReason.PASSWORD_CHANGED, **more)
            assert [await store.knows_device("user-1", device) for device in devices] == known

    async def test_record(self) -> None:
        """Events of the kept kind are kept, in order; the rest is not."""
        store = await self.make_store(FrozenClock())
        kinds = (EventType.SIGN_IN_REFUSED, EventType.THROTTLED, EventType.PASSWORD_CHANGED)
        await store.record(*(Event(kind, 1.0, data={"ip": "::1"}) for kind in kinds))
        await store.record()
        assert await self.kept_events() == ["sign_in_refused", "password_changed"]
