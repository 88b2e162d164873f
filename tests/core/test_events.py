"""Events are values, and a caller who is refused cannot fill a table with them."""

from __future__ import annotations

import pytest

from keyturn.core.events import Event, EventType
from keyturn.core.model import RevokeReason

PASSING = {EventType.REFRESHED, EventType.REFRESH_REFUSED, EventType.CSRF_REFUSED, EventType.THROTTLED}


@pytest.mark.parametrize("kind", EventType)
def test_event_kept(kind: EventType) -> None:
    """All are kept in the database but those that anybody can cause without end."""
    assert Event(kind, 1.0).kept == (kind not in PASSING)


def test_event_without_data() -> None:
    """An event may have nothing to say."""
    assert Event(EventType.KEY_ROTATED, 1.0) == (EventType.KEY_ROTATED, 1.0, None, None, {})


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
