"""Events are values, and a caller who is refused cannot fill a table with them."""

from __future__ import annotations

import pytest

from keyturn.core.events import Event, EventType
from keyturn.core.model import RevokeReason, SessionId

PASSING = {
    EventType.REFRESHED,
    EventType.REFRESH_REFUSED,
    EventType.DATABASE_BEHIND,
    EventType.CSRF_REFUSED,
    EventType.THROTTLED,
}


@pytest.mark.parametrize("kind", EventType)
def test_event_kept(kind: EventType) -> None:
    """All are kept in the database but those that somebody can cause without end."""
    assert Event(kind, 1.0).kept == (kind not in PASSING)


def test_event_without_data() -> None:
    """An event may have nothing to say."""
    assert Event(EventType.KEY_ROTATED, 1.0) == (EventType.KEY_ROTATED, 1.0, None, None, {})


def test_session_in_logs() -> None:
    """Its name tells one session from another, and holds nothing of the id itself."""
    first, same, other = (
        Event(EventType.REFRESHED, 1.0, None, SessionId(bytes([number]) * 16)) for number in (1, 1, 2)
    )
    assert first.session_hash == same.session_hash != other.session_hash
    assert first.session_hash is not None
    assert len(first.session_hash) == 32
    assert "01" * 8 not in first.session_hash
    assert Event(EventType.KEY_ROTATED, 1.0).session_hash is None


def test_reasons_on_the_wire() -> None:
    """The wire knows eight reasons; an older session of the same browser was logged out."""
    assert RevokeReason.REPLACED.on_the_wire == "logout"
    assert {reason.on_the_wire for reason in RevokeReason} == {
        "logout",
        "revoked",
        "reuse_detected",
        "inactivity",
        "absolute",
        "password_changed",
        "user_disabled",
        "evicted",
    }
