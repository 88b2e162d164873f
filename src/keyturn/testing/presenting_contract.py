# ruff: noqa: S101 - these are tests
"""`SessionStore.present` as tests: read, judge, compare-and-set, commit, answer.

Owns: these tests. Must not hold: the other methods' (`opening_contract.py`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from keyturn.core.events import Event, EventType
from keyturn.core.model import RevokeReason, Session, SessionId
from keyturn.core.policy import Policy, Rotation
from keyturn.core.rotation import Decision, Outcome, Write
from keyturn.ports import Judge
from keyturn.testing.clock import FrozenClock
from keyturn.testing.contract_base import ContractBase, hexes, soon, stored
from keyturn.testing.sessions import CONTACT, Holder, sign_in

PARALLEL = 50


class PresentingContract(ContractBase):
    """Tests of `present`."""

    async def test_unknown_session(self) -> None:
        """The judge gets None and the database's clock, and its decision is the answer."""
        clock = FrozenClock()
        store = await self.make_store(clock)
        seen: list[tuple[Session | None, float, bool]] = []

        def judge(session: Session | None, now: float, healing: bool) -> Decision:
            seen.append((session, now, healing))
            return Decision(Outcome.ENDED, None)

        assert await store.present(SessionId(bytes(16)), judge) == Decision(Outcome.ENDED, None)
        assert seen == [(None, clock.now, False)]

    async def test_current_token(self) -> None:
        """A rotation that changes nothing writes nothing; each answer has a child of its own."""
        store = await self.make_store(FrozenClock())
        holder = await sign_in(store)
        before = await stored(holder)
        twin = holder.copy()
        first, second = await asyncio.gather(holder.refresh(), twin.refresh())
        assert first.outcome is second.outcome is Outcome.ROTATE
        assert holder.token != twin.token
        assert await stored(holder) == before

    async def test_child_before_it_settles(self) -> None:
        """An early child changes nothing."""
        clock = FrozenClock()
        holder = await sign_in(await self.make_store(clock))
        before = await stored(holder)
        child = await holder.child()
        clock.advance(59.0)
        assert (await child.refresh()).outcome is Outcome.EARLY
        assert await stored(holder) == before

    async def test_ripe_child(self) -> None:
        """A confirmation is committed when it is answered: another node reads it, whole, at once."""
        clock = FrozenClock()
        holder = await sign_in(await self.make_store(clock))
        parent = await stored(holder)
        child = await holder.child()
        clock.advance(60.0)
        moved = CONTACT._replace(ip="198.51.100.9", user_agent="Mozilla/5.0 ü", device="Chrome on Android")
        presented = child.presented
        decision = await child.refresh(moved)
        assert decision.outcome is Outcome.CONFIRM
        after = await stored(child.copy(await self.make_store(clock)))
        assert after == decision.session
        assert (after.generation, after.token_hash, after.previous_hash) == (1, presented.token_hash, parent.token_hash)
        assert (after.ip, after.user_agent, after.device) == (moved.ip, moved.user_agent, moved.device)
        assert (after.confirmed_at, after.last_seen_at, after.last_active_at) == (clock.now,) * 3
        assert after.inactivity_expires_at > parent.inactivity_expires_at
        assert after.absolute_expires_at == parent.absolute_expires_at

    async def test_what_is_written_is_what_was_decided(self) -> None:
        """Whoever confirms together, and whatever else of a session changes then: its row is as its decision says."""

        def altered(plain: Judge, change: Callable[[Session], Session]) -> Judge:
            def judge(session: Session | None, now: float, healing: bool) -> Decision:
                decision = plain(session, now, healing)
                assert decision.session is not None
                return decision._replace(session=change(decision.session))

            return judge

        clock = FrozenClock()
        node, other = await self.make_store(clock), await self.make_store(clock)
        contacts = [CONTACT, CONTACT._replace(user_agent="Mozilla/5.0 newer"), CONTACT._replace(idle_seconds=7.5)]
        changes: list[Callable[[Session], Session]] = [
            lambda session: session._replace(last_seen_at=clock.now + 500.0),
            lambda session: session._replace(previous_hash=None),
            lambda session: session._replace(generation=session.generation + 1),
        ]
        holders = [await sign_in(node, f"user-{n}") for n in range(6)]
        for together in ([0], [1], [2], [3], [4], [5], [0, 2, 3], range(6)):
            children = [await holder.child() for holder in holders]
            clock.advance(61.0)
            judges = [child.judge(contacts[n % 3]) for n, child in enumerate(children)]
            # The fourth session is then one whose row was last seen in the future.
            if len(together) != 3:
                judges[3:] = map(altered, [child.judge() for child in children[3:]], changes)
            decisions = await asyncio.gather(*(node.present(children[n].session_id, judges[n]) for n in together))
            for n, decision in zip(together, decisions, strict=True):
                assert decision.outcome is Outcome.CONFIRM
                assert await stored(children[n].copy(other)) == decision.session
                holders[n] = children[n]

    async def test_tail_of_a_confirmation(self) -> None:
        """A straggler with the parent is answered for a while, at any node, and then it is reuse."""
        clock = FrozenClock()
        holder = await sign_in(await self.make_store(clock))
        child = await holder.child()
        clock.advance(60.0)
        await child.refresh()
        straggler = holder.copy(await self.make_store(clock))
        clock.advance(14.0)
        assert (await straggler.refresh()).outcome is Outcome.TAIL
        clock.advance(1.0)
        assert (await straggler.refresh()).outcome is Outcome.REUSE

    async def test_reuse(self) -> None:
        """The session ends with its reason, on the denylist and in the event log, all before the answer."""
        clock = FrozenClock()
        holder = await sign_in(await self.make_store(clock))
        dead = await holder.child()
        child = await holder.child()
        clock.advance(60.0)
        await child.refresh()
        assert (await dead.refresh()).outcome is Outcome.REUSE
        session = await stored(child.copy(await self.make_store(clock)))
        assert (session.revoked_at, session.revoked_reason) == (clock.now, RevokeReason.REUSE_DETECTED)
        assert set(await self.denied()) == hexes(session.id)
        assert await self.kept_events() == ["signed_in", "reuse_detected", "session_ended"]
        ended = await child.refresh()
        assert (ended.outcome, ended.reason) == (Outcome.ENDED, RevokeReason.REUSE_DETECTED)
        assert await stored(child) == session

    async def test_one_ripe_child_many_times_at_once(self) -> None:
        """N presentations at two nodes behave as one after the other: one confirms, the others find it current."""
        clock = FrozenClock()
        nodes = [await self.make_store(clock), await self.make_store(clock)]
        child = await (await sign_in(nodes[0])).child()
        clock.advance(60.0)
        copies = [child.copy(nodes[number % 2]) for number in range(PARALLEL)]
        outcomes = Counter(decision.outcome for decision in await asyncio.gather(*(c.refresh() for c in copies)))
        assert outcomes == {Outcome.CONFIRM: 1, Outcome.ROTATE: PARALLEL - 1}
        assert (await stored(child)).generation == 1
        assert len({copy.token for copy in copies}) == PARALLEL

    async def test_two_ripe_siblings_at_once(self) -> None:
        """Whoever is first confirms, at one node or at two; the other one is reuse and the session ends."""
        for same_node in (True, False):
            clock = FrozenClock()
            here = await self.make_store(clock)
            there = here if same_node else await self.make_store(clock)
            holder = await sign_in(here, f"user-{same_node}")
            one, other = await holder.child(), (await holder.child()).copy(there)
            clock.advance(60.0)
            decisions = await asyncio.gather(one.refresh(), other.refresh())
            assert {decision.outcome for decision in decisions} == {Outcome.CONFIRM, Outcome.REUSE}
            assert (await stored(holder)).revoked_reason is RevokeReason.REUSE_DETECTED

    async def test_strict_rotation_twice_at_once(self) -> None:
        """Under the textbook rule the second presentation of a token is reuse, also in the same moment."""
        policy = Policy(rotation=Rotation.STRICT)
        store = await self.make_store(FrozenClock())
        holder = await sign_in(store, policy=policy)
        decisions = await asyncio.gather(holder.refresh(), holder.copy().refresh())
        assert {decision.outcome for decision in decisions} == {Outcome.ROTATE, Outcome.REUSE}
        assert (await stored(holder)).revoked_reason is RevokeReason.REUSE_DETECTED

    async def test_many_sessions_at_once(self) -> None:
        """Every caller gets the decision on its own session."""
        clock = FrozenClock()
        store = await self.make_store(clock)
        children = [await (await sign_in(store, f"user-{number % 7}")).child() for number in range(PARALLEL)]
        clock.advance(60.0)
        ids = [child.session_id for child in children]
        decisions = await asyncio.gather(*(child.refresh() for child in children))
        assert [decision.outcome for decision in decisions] == [Outcome.CONFIRM] * PARALLEL
        assert [decision.session.id for decision in decisions if decision.session] == ids
        assert [child.session_id for child in children] == ids

    async def test_touch(self) -> None:
        """Last-seen and last-active move forward some time soon, and never back."""
        clock = FrozenClock()
        store = await self.make_store(clock)
        holder, other = await sign_in(store), await sign_in(store, "user-2")
        old = await stored(holder)
        clock.advance(120.0)
        decision = await holder.refresh()
        assert decision.write is Write.TOUCH
        assert decision.session is not None

        async def touched() -> bool:
            return await stored(holder) == decision.session

        await soon(touched)
        await store.present(holder.session_id, lambda _s, _n, _h: Decision(Outcome.ROTATE, old, Write.TOUCH))
        fence = (await other.refresh()).session

        async def passed() -> bool:
            return await stored(other) == fence

        await soon(passed)
        assert await stored(holder) == decision.session

    async def test_touch_before_a_confirmation_from_an_older_reading(self) -> None:
        """A swap does not move back what was touched after it had been judged."""
        clock = FrozenClock()
        store = await self.make_store(clock)
        holder = await sign_in(store)
        session = await stored(holder)
        seen = session._replace(last_seen_at=clock.now + 500.0, inactivity_expires_at=clock.now + 2e6)
        await store.present(session.id, lambda _s, _n, _h: Decision(Outcome.ROTATE, seen, Write.TOUCH))

        async def touched() -> bool:
            return await stored(holder) == seen

        await soon(touched)
        older = session._replace(generation=1, token_hash=bytes(32))
        await store.present(session.id, lambda _s, _n, _h: Decision(Outcome.CONFIRM, older, Write.SWAP))
        assert await stored(holder) == seen._replace(generation=1, token_hash=bytes(32))

    async def test_touch_that_comes_late(self) -> None:
        """A touch from a reading that is old moves the times alone: it undoes no confirmation, and brings nobody back to life."""
        clock = FrozenClock()
        store = await self.make_store(clock)
        holder, other = await sign_in(store), await sign_in(store, "user-2")

        async def touch(session: Session) -> None:
            seen = session._replace(last_seen_at=clock.now + 500.0)
            await store.present(seen.id, lambda _s, _n, _h: Decision(Outcome.ROTATE, seen, Write.TOUCH))
            clock.advance(120.0)
            fence = (await other.refresh()).session

            async def passed() -> bool:
                return await stored(other) == fence

            await soon(passed)

        old, child = await stored(holder), await holder.child()
        clock.advance(60.0)
        confirmed = (await child.refresh()).session
        assert confirmed is not None
        await touch(old)
        assert (await stored(holder))._replace(last_seen_at=0.0) == confirmed._replace(last_seen_at=0.0)
        await store.revoke("user-1", RevokeReason.REVOKED)
        ended = await stored(holder)
        await touch(confirmed)
        assert (await stored(holder))._replace(last_seen_at=0.0) == ended._replace(last_seen_at=0.0)

    async def test_judge_that_raises(self) -> None:
        """The error is its caller's alone; those who came with it are served."""
        clock = FrozenClock()
        store = await self.make_store(clock)
        child = await (await sign_in(store)).child()
        clock.advance(60.0)

        def judge(_session: Session | None, _now: float, _healing: bool) -> Decision:
            raise LookupError("mine")

        failed, served = await asyncio.gather(
            store.present(child.session_id, judge), child.refresh(), return_exceptions=True
        )
        assert isinstance(failed, LookupError)
        assert isinstance(served, Decision)
        assert served.outcome is Outcome.CONFIRM

    async def test_caller_who_goes_away(self) -> None:
        """A cancelled call takes nobody else's answer with it; its own confirmation has happened whole, or never will."""
        clock = FrozenClock()
        store = await self.make_store(clock)
        leaving, staying = [await (await sign_in(store, name)).child() for name in ("user-1", "user-2")]
        clock.advance(60.0)
        tasks = [asyncio.create_task(holder.refresh()) for holder in (leaving, staying)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        gone, decision = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(gone, asyncio.CancelledError)
        assert isinstance(decision, Decision)
        assert decision.session == await stored(staying)
        again = await leaving.refresh()
        assert again.outcome in {Outcome.CONFIRM, Outcome.ROTATE}
        assert (await stored(leaving)).generation == 1

    async def test_token_ahead_of_the_database(self) -> None:
        """Lost commits are told and end nothing; they are believed while the operator says so, and no longer."""
        clock = FrozenClock()
        store = await self.make_store(clock)
        ahead = await self.ahead(await sign_in(store), clock)
        before = await stored(ahead)
        already = await self.kept_events()
        decision = await ahead.refresh()
        assert (decision.outcome, decision.session) == (Outcome.AHEAD, before)
        assert [event.type for event in decision.events] == ["database_behind"]
        assert await stored(ahead) == before
        assert await self.kept_events() == already
        await self.start_healing(100.0, clock)
        clock.advance(100.0)
        assert (await ahead.refresh()).outcome is Outcome.AHEAD
        await self.start_healing(100.0, clock)
        clock.advance(99.0)
        presented = ahead.presented
        assert (await ahead.refresh()).outcome is Outcome.CONFIRM
        assert (await stored(ahead)).token_hash == presented.token_hash
        assert (await self.kept_events())[-1] == "healed"

    async def ahead(self, holder: Holder, clock: FrozenClock) -> Holder:
        """Make a token three generations on, as one that a lost commit had confirmed."""
        mint = holder.tokens.minter(bytes(16))
        return Holder(holder.store, mint(holder.session_id, 3, clock.now, bytes(8)).text)

    async def test_events_that_pass(self) -> None:
        """A decision's events are kept if they are of the kind that is, also of one that writes nothing of the session."""
        store = await self.make_store(FrozenClock())
        holder = await sign_in(store)
        session = await stored(holder)
        already = len(await self.kept_events())
        events = tuple(
            Event(kind, 1.5, session.user_id, session.id, {"ip": "::1"})
            for kind in (EventType.REFRESHED, EventType.DEVICE_DRIFT)
        )
        other = session._replace(generation=7, device_name="other")
        await store.present(session.id, lambda _s, _n, _h: Decision(Outcome.ROTATE, other, events=events))
        assert (await self.kept_events())[already:] == ["device_drift"]
        assert await stored(holder) == session

    async def test_deadline(self) -> None:
        """A session past a deadline is ended in the store, with the reason."""
        clock = FrozenClock()
        store = await self.make_store(clock)
        holder = await sign_in(store, remember=False)
        clock.advance(3600.0)
        assert (await holder.refresh(CONTACT._replace(idle_seconds=None))).reason is RevokeReason.INACTIVITY
        assert (await stored(holder)).revoked_reason is RevokeReason.INACTIVITY
        assert set(await self.denied()) == hexes(holder.session_id)
