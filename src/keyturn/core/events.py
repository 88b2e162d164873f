"""What happened, as values: the closed list of events that applications, logs and the event log receive.

Owns: the names and which of them the database keeps. Must not hold: delivery (`ports.EventSink`).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from hashlib import sha256
from typing import NamedTuple

from keyturn.core.model import SessionId, UserId


class EventType(StrEnum):
    """Every event there is. Spec: OWASP ASVS 5.0 16.3.1-16.3.4 (what must be logged)."""

    SIGNED_UP = "signed_up"
    SIGNED_IN = "signed_in"
    SIGN_IN_REFUSED = "sign_in_refused"
    NEW_DEVICE = "new_device"
    REFRESHED = "refreshed"
    REFRESH_REFUSED = "refresh_refused"
    REUSE_DETECTED = "reuse_detected"
    DATABASE_BEHIND = "database_behind"
    HEALED = "healed"
    DEVICE_DRIFT = "device_drift"
    SESSION_ENDED = "session_ended"
    PASSWORD_CHANGED = "password_changed"
    USER_DISABLED = "user_disabled"
    USER_ENABLED = "user_enabled"
    USER_DELETED = "user_deleted"
    CSRF_REFUSED = "csrf_refused"
    THROTTLED = "throttled"
    CONTROL_FAULT = "control_fault"
    KEY_ROTATED = "key_rotated"


_PASSING = frozenset(map(EventType, ("refreshed", "refresh_refused", "database_behind", "csrf_refused", "throttled")))


class Event(NamedTuple):
    """One thing that happened, to whom, when. `data` holds no credential, ever."""

    type: EventType
    at: float
    """Seconds since the Unix epoch, by the database's clock."""
    user_id: UserId | None = None
    session_id: SessionId | None = None
    data: Mapping[str, str] = {}

    @property
    def session_hash(self) -> str | None:
        """A name for the session in logs: the same each time, and nobody can tell from it how to reach the session.

        Spec: OWASP ASVS 5.0 16.2.5.
        """
        return None if self.session_id is None else sha256(self.session_id).hexdigest()[:32]

    @property
    def kept(self) -> bool:
        """True when the event log in the database keeps it; the rest is for sinks, logs and metrics.

        Why: a refresh costs at most one row write, and a caller who is refused must not be able to fill a table.
        """
        return self.type not in _PASSING
