"""The frozen values everything else speaks in: sessions, tokens as seen, users, principals.

Owns: the shapes and their units. Must not hold: rules (`rotation.py`, `login.py`), I/O, clocks.

Units, everywhere in Keyturn: every `_at` is seconds since the Unix epoch by the database's clock, every duration is
seconds. The values on the hot path are `NamedTuple`: as immutable as a frozen dataclass, built from a database row in
a tenth of the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple, NewType

SessionId = NewType("SessionId", bytes)
"""16 random bytes; lower-case hex on the wire. It is also what other systems call the token family."""

UserId = str
"""Opaque to Keyturn: an application that brings its own users brings its own ids (at most 255 characters)."""


class RevokeReason(StrEnum):
    """Why a session ended. A closed list: it is the column, the event field and the word on the wire."""

    LOGOUT = "logout"
    REVOKED = "revoked"
    REUSE_DETECTED = "reuse_detected"
    INACTIVITY = "inactivity"
    ABSOLUTE = "absolute"
    PASSWORD_CHANGED = "password_changed"
    USER_DISABLED = "user_disabled"
    EVICTED = "evicted"
    REPLACED = "replaced"

    @property
    def on_the_wire(self) -> str:
        """Name the reason as the contract does: a login over an older session of the same browser is a logout."""
        return "logout" if self is RevokeReason.REPLACED else self.value


class Session(NamedTuple):
    """One login on one device: one row of constant size, however often it is refreshed."""

    id: SessionId
    user_id: UserId
    generation: int
    """The number of the current token: 0 for the first, one more at each confirmation. A heal skips some; at most 2**32 - 1."""
    token_hash: bytes
    """SHA-256 of the last confirmed refresh token, 32 bytes. Its first 8 are the fingerprint its children carry."""
    previous_hash: bytes | None
    """SHA-256 of the token confirmed before that one; None before the first confirmation and after a heal."""
    confirmed_at: float
    created_at: float
    last_seen_at: float
    last_active_at: float
    """When a person last acted, as the client reported it; a background refresh does not move it."""
    inactivity_expires_at: float
    absolute_expires_at: float
    revoked_at: float | None
    revoked_reason: RevokeReason | None
    device_id: bytes
    device_name: str | None
    """What the person called the device at login; never derived."""
    device: str
    """What the user agent says it is, for people: `Firefox on Windows`."""
    ip: str
    user_agent: str
    amr: tuple[str, ...]
    """Authentication methods of the login (RFC 8176 values)."""
    authenticated_at: float
    remember: bool

    @property
    def fingerprint(self) -> bytes:
        return self.token_hash[:8]


class PresentedToken(NamedTuple):
    """An authentic refresh token as it was presented. Only `tokens.refresh_token` makes one, after checking the tag."""

    session_id: SessionId
    generation: int
    issued_at: int
    """Whole seconds, rounded up: a token never looks older than it is."""
    parent_fingerprint: bytes
    token_hash: bytes


class NewToken(NamedTuple):
    """A refresh token just minted: the text goes into one Set-Cookie and nowhere else."""

    text: str
    token_hash: bytes

    def __repr__(self) -> str:
        """Why: a decision is logged in tests and tracebacks; the token in it must not be."""
        return "NewToken(redacted)"


class Contact(NamedTuple):
    """Who is calling, as far as HTTP tells."""

    ip: str
    user_agent: str
    device: str
    idle_seconds: float | None = None
    """How long ago a person last acted in the client; None: the client did not say, so nobody acted."""


class User(NamedTuple):
    """A person or machine that can sign in. Credentials are not part of it."""

    id: UserId
    email: str
    name: str | None = None
    disabled: bool = False


class Principal(NamedTuple):
    """Who a request acts as, from a verified access token; `expires_at` is by the clock of the node that signed it."""

    user_id: UserId
    session_id: SessionId
    token_id: str
    scopes: frozenset[str]
    amr: tuple[str, ...]
    authenticated_at: float
    expires_at: float
    claims: Mapping[str, object]
    """The application's own claims, as its claims hook added them."""
