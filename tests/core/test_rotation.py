"""What the vectors of the decision table do not say: events, devices, glances, logout, purity, chains of refreshes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyturn.core.device import network
from keyturn.core.events import EventType
from keyturn.core.model import Contact, NewToken, PresentedToken, RevokeReason, Session
from keyturn.core.policy import Drift, Policy, Rotation
from keyturn.core.rotation import (
    GENERATION_LIMIT,
    Decision,
    Outcome,
    Write,
    decide,
    end,
    glance,
    lapsed,
    log_out,
    standing,
)
from keyturn.tokens.refresh_token import RefreshTokens
from tests.core.vectors import CONTACT, SESSION_ID, load, minter, presented, session

ROW = load("refresh.json")["row"]
NOW = 1_000_000.0
POLICY = Policy()
STRANGER = Contact("203.0.113.9", "other/2", "Safari on macOS")
CURRENT = presented({"name": "B", "generation": 5, "parent": "A", "issued_at": 999_000})
PREVIOUS = presented({"name": "A", "generation": 4, "parent": "Z", "issued_at": 998_000})
CHILD = presented({"name": "C", "generation": 6, "parent": "B", "issued_at": 999_900})
YOUNG = CHILD._replace(issued_at=999_990)
SIBLING = presented({"name": "B2", "generation": 5, "parent": "A", "issued_at": 999_000})
AHEAD = presented({"name": "D", "generation": 7, "parent": "C", "issued_at": 999_900})
TOKENS = [CURRENT, PREVIOUS, CHILD, YOUNG, SIBLING, AHEAD]


def row(**changes: Any) -> Session:
    """Make the vectors' row with some changes."""
    return session(ROW | changes)


def judge(
    before: Session | None,
    token: PresentedToken,
    now: float = NOW,
    policy: Policy = POLICY,
    contact: Contact = CONTACT,
    *,
    healing: bool = False,
) -> Decision:
    """Decide with a minter that nobody looks at."""
    return decide(before, token, now, policy, contact=contact, mint=minter([]), healing=healing)


def test_reuse_event() -> None:
    """Both parties are in the event: who confirmed last and who presented."""
    decision = judge(row(), SIBLING, contact=STRANGER)
    event, ended = decision.events
    assert (event.type, event.at, event.user_id, event.session_id) == (
        EventType.REUSE_DETECTED,
        NOW,
        "user",
        SESSION_ID,
    )
    assert event.data == {
        "generation": "5",
        "presented": "5",
        "holder_ip": CONTACT.ip,
        "holder_user_agent": CONTACT.user_agent,
        "presenter_ip": STRANGER.ip,
        "presenter_user_agent": STRANGER.user_agent,
    }
    assert (ended.type, ended.data) == (EventType.SESSION_ENDED, {"reason": "reuse_detected"})


def test_events_of_lost_commits() -> None:
    """A token ahead of the database is noted with its generation, believed or not."""
    assert judge(row(), AHEAD).events[0].data == {"presented": "7"}
    assert judge(row(), AHEAD, healing=True).events[0].data == {"presented": "7"}


def test_lost_commits_that_nobody_has_told_of() -> None:
    """A token ahead of the database is believed only where it is said that commits were lost."""
    assert standing(row(), AHEAD, NOW, POLICY) is Outcome.AHEAD
    assert decide(row(), AHEAD, NOW, POLICY, contact=CONTACT, mint=minter([])).outcome is Outcome.AHEAD
    assert glance(row(), AHEAD, NOW, POLICY, contact=CONTACT).outcome is Outcome.AHEAD


def test_healing_of_young_siblings() -> None:
    """Two tabs whose parent's confirmation was lost stay in, whichever comes first: none is believed before S."""
    current = row(current="A", generation=4, previous=None)
    first, second = (
        presented({"name": name, "generation": 6, "parent": "B", "issued_at": 999_999}) for name in ("C1", "C2")
    )
    for token in (first, second):
        decision = judge(current, token, healing=True)
        assert (decision.outcome, decision.session, decision.child) == (Outcome.EARLY, current, None)
    # Their parent, still in flight, is a child of the current token and confirms as it did before.
    assert judge(current, CURRENT, healing=True).outcome is Outcome.CONFIRM


def test_caller_looks_different() -> None:
    """By default another browser is worth an event once it confirms, and becomes the session's device."""
    decision = judge(row(), CHILD, contact=STRANGER)
    assert decision.outcome is Outcome.CONFIRM
    assert [event.type for event in decision.events] == [EventType.DEVICE_DRIFT]
    assert decision.session is not None
    assert (decision.session.ip, decision.session.user_agent, decision.session.device) == STRANGER[:3]


@pytest.mark.parametrize("token", [CURRENT, YOUNG])
def test_caller_looks_different_on_a_read(token: PresentedToken) -> None:
    """What writes no row notes no device either."""
    decision = judge(row(), token, contact=STRANGER)
    assert (decision.write, decision.events, decision.session) == (Write.NOTHING, (), row())


def test_drift_off() -> None:
    """Without the policy, another browser is no event."""
    assert judge(row(), CHILD, policy=Policy(user_agent_drift=Drift.OFF), contact=STRANGER).events == ()


@pytest.mark.parametrize("token", [CURRENT, CHILD, YOUNG])
def test_drift_requires_login(token: PresentedToken) -> None:
    """Where the policy asks for a login, another browser ends the session whatever it presents."""
    policy = Policy(user_agent_drift=Drift.REQUIRE_LOGIN)
    decision = judge(row(), token, policy=policy, contact=STRANGER)
    assert (decision.outcome, decision.write, decision.child) == (Outcome.ENDED, Write.SWAP, None)
    assert decision.reason is RevokeReason.REVOKED
    assert [event.type for event in decision.events] == [EventType.DEVICE_DRIFT, EventType.SESSION_ENDED]
    assert judge(row(), token, policy=policy).outcome.accepted


def test_drift_and_reuse() -> None:
    """A dead token is reuse, whoever presents it."""
    decision = judge(row(), SIBLING, policy=Policy(user_agent_drift=Drift.REQUIRE_LOGIN), contact=STRANGER)
    assert decision.outcome is Outcome.REUSE


def test_drift_in_strict_mode() -> None:
    """In strict mode a refresh meets the device once a touch interval, however many come between."""
    before, policy = row(last_seen_at=NOW - POLICY.touch_interval), Policy(rotation=Rotation.STRICT)
    decision = judge(before, CURRENT, policy=policy, contact=STRANGER)
    assert [event.type for event in decision.events] == [EventType.DEVICE_DRIFT]
    assert decision.session is not None
    assert (decision.session.ip, decision.session.user_agent, decision.session.device) == STRANGER[:3]
    sooner = judge(before._replace(last_seen_at=NOW - 59.0), CURRENT, policy=policy, contact=STRANGER)
    assert (sooner.write, sooner.events) == (Write.SWAP, ())
    assert sooner.session is not None
    assert (sooner.session.ip, sooner.session.user_agent, sooner.session.device) == CONTACT[:3]


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("healing", [False, True])
def test_glance(token: PresentedToken, *, healing: bool) -> None:
    """A render is judged as a refresh would be, and an accepted one changes nothing at all."""
    refresh = judge(row(), token, healing=healing)
    seen = glance(row(), token, NOW, POLICY, contact=CONTACT._replace(idle_seconds=0.0), healing=healing)
    assert seen.outcome is refresh.outcome
    if seen.outcome.accepted:
        assert seen == Decision(seen.outcome, row())
    else:
        assert seen == refresh


def test_glance_at_the_deadlines() -> None:
    """The absolute deadline ends a session that renders; inactivity is for the browser to tell."""
    over = glance(row(absolute_expires_at=NOW), CURRENT, NOW, POLICY, contact=CONTACT)
    assert (over.write, over.reason) == (Write.SWAP, RevokeReason.ABSOLUTE)
    idle = row(inactivity_expires_at=NOW, last_active_at=NOW - 3600)
    assert glance(idle, CURRENT, NOW, POLICY, contact=CONTACT) == Decision(
        Outcome.ENDED, idle, reason=RevokeReason.INACTIVITY
    )
    # The person acted a minute before the deadline: the browser says so, and goes on.
    assert judge(idle, CURRENT, contact=CONTACT._replace(idle_seconds=60.0)).outcome is Outcome.ROTATE


def test_glance_of_nothing() -> None:
    """No session and an ended session are the same for a render."""
    assert glance(None, CURRENT, NOW, POLICY, contact=CONTACT) == Decision(Outcome.ENDED, None)
    ended = row(revoked_at=NOW, revoked_reason="inactivity")
    assert glance(ended, CURRENT, NOW, POLICY, contact=CONTACT).reason is RevokeReason.INACTIVITY


@pytest.mark.parametrize("token", TOKENS)
def test_logout(token: PresentedToken) -> None:
    """Logout ends the session once; afterwards every token of it is `ended` for that reason."""
    decision = log_out(row(), NOW)
    assert (decision.outcome, decision.write, decision.reason) == (Outcome.ENDED, Write.SWAP, RevokeReason.LOGOUT)
    after = decision.session
    assert judge(after, token) == Decision(Outcome.ENDED, after, reason=RevokeReason.LOGOUT)
    assert log_out(after, NOW + 1) == Decision(Outcome.ENDED, after, reason=RevokeReason.LOGOUT)


def test_logout_of_nothing() -> None:
    """There is nothing to end when there is no session."""
    assert log_out(None, NOW) == Decision(Outcome.ENDED, None)


def test_logout_over_an_older_session() -> None:
    """A login over an older session ends it as replaced, which is a logout on the wire."""
    assert log_out(row(), NOW, RevokeReason.REPLACED).reason is RevokeReason.REPLACED


def test_end() -> None:
    """Ending keeps the rest of the row and puts the reason into the event."""
    decision = end(row(), RevokeReason.EVICTED, NOW)
    assert decision.session == row(revoked_at=NOW, revoked_reason="evicted")
    assert decision.events[0].data == {"reason": "evicted"}


@pytest.mark.parametrize(
    ("changes", "over"),
    [
        ({}, False),
        ({"revoked_at": NOW - 1, "revoked_reason": "logout"}, True),
        ({"inactivity_expires_at": NOW}, True),
        ({"absolute_expires_at": NOW}, True),
        ({"inactivity_expires_at": NOW + 1, "absolute_expires_at": NOW + 1}, False),
    ],
)
def test_lapsed(changes: dict[str, Any], *, over: bool) -> None:
    """A session is over when it was revoked or from its deadlines on."""
    assert lapsed(row(**changes), NOW) is over


def test_last_generation() -> None:
    """No token is made beyond what the format can count."""
    token = CHILD._replace(generation=GENERATION_LIMIT)
    assert judge(row(generation=GENERATION_LIMIT - 1), token).outcome is Outcome.ENDED
    assert judge(row(), token, healing=True).outcome is Outcome.ENDED


Tokens = st.sampled_from(TOKENS)
Rows = st.builds(
    row,
    confirmed_at=st.sampled_from([NOW, NOW - 14.9, NOW - 15, NOW - 1000]),
    last_seen_at=st.sampled_from([NOW, NOW - 59, NOW - 60]),
    inactivity_expires_at=st.sampled_from([NOW - 10, NOW, NOW + 1]),
    absolute_expires_at=st.sampled_from([NOW, NOW + 1]),
    previous=st.sampled_from(["A", None]),
)
Contacts = st.builds(
    Contact,
    ip=st.sampled_from([CONTACT.ip, STRANGER.ip]),
    user_agent=st.sampled_from([CONTACT.user_agent, STRANGER.user_agent]),
    device=st.sampled_from([CONTACT.device, STRANGER.device]),
    idle_seconds=st.none() | st.floats(allow_nan=False, min_value=-1e6, max_value=1e6),
)
Policies = st.builds(
    Policy,
    rotation=st.sampled_from(Rotation),
    user_agent_drift=st.sampled_from(Drift),
    address_drift=st.sampled_from(Drift),
)


@given(Rows, Tokens, Contacts, Policies, st.booleans())
def test_any_decision(before: Session, token: PresentedToken, contact: Contact, policy: Policy, healing: bool) -> None:
    """Whatever comes in, a decision is of one of few shapes, and what it says it writes is what it changes."""
    decision = judge(before, token, policy=policy, contact=contact, healing=healing)
    after = decision.session
    assert after is not None
    assert decision == judge(before, token, policy=policy, contact=contact, healing=healing)
    assert (decision.child is not None) == (decision.outcome in {Outcome.ROTATE, Outcome.CONFIRM})
    assert (decision.reason is not None) == (decision.outcome in {Outcome.ENDED, Outcome.REUSE})
    assert (after.revoked_at is not None) == (decision.reason is not None)
    assert after.absolute_expires_at == before.absolute_expires_at
    assert after.inactivity_expires_at >= before.inactivity_expires_at
    assert after.created_at == before.created_at
    assert after.generation >= before.generation
    if decision.write is Write.NOTHING:
        assert after == before
    if decision.write is Write.TOUCH:
        seen = {"last_seen_at", "last_active_at", "inactivity_expires_at"}
        assert after == before._replace(**{name: getattr(after, name) for name in seen})
    if token is SIBLING:
        assert not decision.outcome.accepted


@given(st.lists(st.tuples(st.integers(60, 2000), st.booleans()), max_size=30))
def test_chain(steps: list[tuple[int, bool]]) -> None:
    """One browser that refreshes at its own pace advances by one generation at each confirm, over real tokens."""
    tokens = RefreshTokens({1: bytes(32)}, 1)
    now = NOW

    def mint(entropy: int) -> Any:
        return tokens.minter(entropy.to_bytes(16))

    first = mint(0)(SESSION_ID, 0, now, bytes(8))
    current = row(generation=0, previous=None, absolute_expires_at=1e9, inactivity_expires_at=1e9)
    current = current._replace(token_hash=first.token_hash)
    jar: NewToken = first
    confirmed = 0
    for number, (pause, lost) in enumerate(steps, start=1):
        now += pause
        read = tokens.read(jar.text.encode())
        assert read is not None
        decision = decide(current, read, now, POLICY, contact=CONTACT, mint=mint(number))
        assert decision.outcome is (Outcome.ROTATE if read.generation == current.generation else Outcome.CONFIRM)
        confirmed += decision.outcome is Outcome.CONFIRM
        assert decision.session is not None
        assert decision.child is not None
        current = decision.session
        assert current.generation == confirmed
        if not lost:
            jar = decision.child


@pytest.mark.parametrize("seconds", [0.0, 0.25, 0.999])
def test_age_of_a_real_token(seconds: float) -> None:
    """A child made within a second is believed to be S old only when it really is."""
    tokens = RefreshTokens({1: bytes(32)}, 1)
    made = tokens.minter(bytes(16))(SESSION_ID, 6, NOW + seconds, row().fingerprint)
    child = tokens.read(made.text.encode())
    assert child is not None
    assert standing(row(), child, NOW + seconds + 59.99, POLICY) is Outcome.EARLY
    assert standing(row(), child, NOW + seconds + 61.0, POLICY) is Outcome.CONFIRM


def test_decision_printed() -> None:
    """A decision that ends up in a traceback does not show the token it made."""
    made = RefreshTokens({1: bytes(32)}, 1).minter(bytes(16))(SESSION_ID, 6, NOW, bytes(8))
    assert made.text not in repr(Decision(Outcome.ROTATE, row(), child=made))


def test_network_of_contacts() -> None:
    """The two callers of these tests are in different networks, or the drift tests would say nothing."""
    assert network(CONTACT.ip) != network(STRANGER.ip)
