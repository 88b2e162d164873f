"""What a login opens, evicts and counts against."""

from __future__ import annotations

import pytest

from keyturn.core.events import EventType
from keyturn.core.login import NO_PARENT, Limit, Login, admit, attempt_limits, login_limits, signup_limits
from keyturn.core.model import Contact, RevokeReason, Session, SessionId
from keyturn.core.policy import DAY, HOUR, Policy
from tests.core.vectors import CONTACT, SESSION_ID, load, minter, session, token_hash

NOW = 1_000_000.0
LOGIN = Login(SESSION_ID, "user", b"d" * 16, "my laptop", CONTACT, ("pwd", "otp"), remember=False)
ROW = load("refresh.json")["row"]


def live(*created_at: float) -> list[Session]:
    """Make live sessions opened at these times, with their order as id."""
    return [
        session(ROW)._replace(id=SessionId(bytes([i]) * 16), created_at=at) for i, at in enumerate(created_at, start=1)
    ]


@pytest.mark.parametrize(("remember", "idle", "absolute"), [(False, HOUR, DAY), (True, 14 * DAY, 30 * DAY)])
def test_session_opened(remember: bool, idle: float, absolute: float) -> None:
    """A new session is its login's, of generation 0, current is its first token, and its deadlines are the policy's."""
    made: list[tuple[int, bytes]] = []
    admission = admit([], LOGIN._replace(remember=remember), NOW, Policy(), minter(made))
    opened = admission.session
    assert made == [(0, NO_PARENT)]
    assert admission.token.token_hash == opened.token_hash == token_hash("child")
    assert (opened.id, opened.user_id, opened.generation, opened.previous_hash) == (SESSION_ID, "user", 0, None)
    times = {opened.created_at, opened.confirmed_at, opened.last_seen_at, opened.last_active_at}
    assert times == {opened.authenticated_at} == {NOW}
    assert (opened.inactivity_expires_at, opened.absolute_expires_at) == (NOW + idle, NOW + absolute)
    assert (opened.revoked_at, opened.revoked_reason) == (None, None)
    assert (opened.device_id, opened.device_name, opened.device) == (b"d" * 16, "my laptop", CONTACT.device)
    assert (opened.ip, opened.user_agent, opened.amr) == (CONTACT.ip, CONTACT.user_agent, ("pwd", "otp"))
    assert opened.remember is remember
    assert admission.evicted == ()


def test_events_of_a_login() -> None:
    """A login is an event; one on a device that is new to the user is two."""
    known = admit([], LOGIN, NOW, Policy(), minter([]))
    assert [event.type for event in known.events] == [EventType.SIGNED_IN]
    assert known.events[0].data == {"ip": CONTACT.ip, "user_agent": CONTACT.user_agent, "amr": "pwd otp"}
    new = admit([], LOGIN._replace(new_device=True), NOW, Policy(), minter([]))
    assert [event.type for event in new.events] == [EventType.SIGNED_IN, EventType.NEW_DEVICE]
    assert all((event.user_id, event.session_id) == ("user", SESSION_ID) for event in new.events)


@pytest.mark.parametrize(
    ("cap", "count", "evicted"),
    [(3, 0, 0), (3, 1, 0), (3, 2, 0), (3, 3, 1), (3, 5, 3), (9, 7, 0), (9, 8, 0), (9, 9, 1)],
)
def test_session_cap(cap: int, count: int, evicted: int) -> None:
    """The oldest go, so many that the cap holds with the new one; where there is room, nobody goes."""
    policy = Policy(max_sessions=cap)
    sessions = live(*(NOW - 10 * i for i in range(count)))
    admission = admit(sessions, LOGIN, NOW, policy, minter([]))
    oldest = sorted(sessions, key=lambda s: s.created_at)[:evicted]
    assert [s.id for s in admission.evicted] == [s.id for s in oldest]
    assert all(s.revoked_reason is RevokeReason.EVICTED and s.revoked_at == NOW for s in admission.evicted)
    assert [event.session_id for event in admission.events[1:]] == [s.id for s in oldest]
    assert count - evicted + 1 <= cap


def test_session_cap_of_one() -> None:
    """With a cap of one a login ends every other session."""
    assert len(admit(live(1, 2, 3), LOGIN, NOW, Policy(max_sessions=1), minter([])).evicted) == 3


def test_eviction_of_equals() -> None:
    """Of sessions of one moment the order is settled by their ids, the same on every node."""
    sessions = live(5, 5, 5)
    for order in (sessions, sessions[::-1]):
        evicted = admit(order, LOGIN, NOW, Policy(max_sessions=3), minter([])).evicted
        assert [s.id for s in evicted] == [sessions[0].id]


def test_limits_of_an_unknown_device() -> None:
    """An attempt counts against account and address together, against the address, and against the account for good."""
    policy = Policy()
    first, second, third = attempt_limits("a@example.com", "192.0.2.1", None, policy)
    assert first == Limit(("login-account-address", "a@example.com", "192.0.2.1"), 10, 900.0)
    assert second == Limit(("login-address", "192.0.2.1"), 50, 900.0)
    assert third == Limit(("login-account", "a@example.com"), 100, None)


def test_limits_of_a_known_device() -> None:
    """A device of the account counts by itself: others who guess do not lock its owner out."""
    (limit,) = attempt_limits("a@example.com", "192.0.2.1", b"\x0d" * 16, Policy())
    assert limit == Limit(("login-device", "a@example.com", "0d" * 16), 10, 900.0)


@pytest.mark.parametrize("device_id", [None, b"\x0d" * 16])
@pytest.mark.parametrize("what", ["logins", "changes"])
def test_limits_of_a_login(device_id: bytes | None, what: str) -> None:
    """Beside what any attempt counts against, successes count by account and network, the same for all devices.

    Beyond the policy's number there is room for the guesses that others may make meanwhile, in two windows of theirs.
    """
    policy = Policy(account_logins=30, account_failures=4, failure_window=60.0)
    *others, logins = login_limits("a@example.com", "192.0.2.1", device_id, policy, what)
    assert tuple(others) == attempt_limits("a@example.com", "192.0.2.1", device_id, policy)
    assert logins == Limit((what, "a@example.com", "192.0.2.1"), 38, 60.0, kept=True)
    assert not any(limit.kept for limit in others)


def test_limits_of_a_sign_up() -> None:
    """Sign-ups are counted by address and hour."""
    assert signup_limits("192.0.2.1", Policy()) == (Limit(("signup-address", "192.0.2.1"), 20, HOUR),)


def test_contact_without_activity() -> None:
    """A caller who does not say when a person acted says that nobody did."""
    assert Contact("", "", "").idle_seconds is None
