"""What a login leads to: the session it opens, the ones it evicts, and how failed attempts slow down.

Owns: these rules. Must not hold: password hashing (`tokens/password.py`), counting (`stores/throttle.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from keyturn.core.events import Event, EventType
from keyturn.core.model import Contact, NewToken, RevokeReason, Session, SessionId, UserId
from keyturn.core.policy import HOUR, Policy
from keyturn.core.rotation import Mint, end

NO_PARENT = bytes(8)
"""The parent fingerprint of a first token."""


class Login(NamedTuple):
    """A proven login, before it has a session."""

    session_id: SessionId
    user_id: UserId
    device_id: bytes
    device_name: str | None
    contact: Contact
    amr: tuple[str, ...]
    remember: bool
    new_device: bool = False
    """The user is known, and has no session on this device, live or ended, that is still kept."""


class Admission(NamedTuple):
    """What a login does to the user's sessions: one is opened, some are evicted."""

    session: Session
    token: NewToken
    evicted: tuple[Session, ...]
    events: tuple[Event, ...]


def admit(live: Sequence[Session], login: Login, now: float, policy: Policy, mint: Mint) -> Admission:
    """Open a session for a proven login; evict the oldest beyond the user's cap.

    Args:
        live: the user's sessions that are neither revoked nor expired, read under a lock on the user.
        login: who, from where, remembered or not.
        now: the database's clock, seconds.

    Spec: OWASP ASVS 5.0 7.1.2 (bounded concurrent sessions), 7.2.4 (a new session at each login).
    """
    token = mint(login.session_id, 0, now, NO_PARENT)
    session = Session(
        id=login.session_id,
        user_id=login.user_id,
        generation=0,
        token_hash=token.token_hash,
        previous_hash=None,
        confirmed_at=now,
        created_at=now,
        last_seen_at=now,
        last_active_at=now,
        inactivity_expires_at=now + policy.inactivity_for(remember=login.remember),
        absolute_expires_at=now + policy.absolute_for(remember=login.remember),
        revoked_at=None,
        revoked_reason=None,
        device_id=login.device_id,
        device_name=login.device_name,
        device=login.contact.device,
        ip=login.contact.ip,
        user_agent=login.contact.user_agent,
        amr=login.amr,
        authenticated_at=now,
        remember=login.remember,
    )
    surplus = len(live) - (policy.max_sessions - 1)
    oldest = sorted(live, key=lambda s: (s.created_at, s.id))[: max(0, surplus)]
    ended = [end(s, RevokeReason.EVICTED, now) for s in oldest]
    evicted = tuple(d.session for d in ended if d.session is not None)
    data = {"ip": session.ip, "user_agent": session.user_agent, "amr": " ".join(session.amr)}
    kinds = (EventType.SIGNED_IN, EventType.NEW_DEVICE) if login.new_device else (EventType.SIGNED_IN,)
    opened = (Event(kind, now, session.user_id, session.id, data) for kind in kinds)
    return Admission(session, token, evicted, (*opened, *(event for d in ended for event in d.events)))


class Limit(NamedTuple):
    """A counter that an attempt takes one from: at most `amount` per `window` seconds; None: until it is reset, or a year."""

    key: tuple[str, ...]
    amount: int
    window: float | None
    kept: bool = False
    """A success is not given back: it counts as well."""


def attempt_limits(account: str, network: str, device_id: bytes | None, policy: Policy) -> tuple[Limit, ...]:
    """List what a login attempt counts against.

    Why: counting per account alone lets anybody lock a victim out; counting per address alone lets a botnet spray. A
    device that has signed in to this account before counts by itself, so that its owner still gets in while others
    guess. Attempts on unknown accounts count alike: the limit tells nothing.
    Spec: OWASP ASVS 5.0 6.3.1; NIST SP 800-63B-4 3.2.2 (at most 100 consecutive failures); OWASP device cookies.

    Args:
        account: the normalised e-mail address that was typed, known or not.
        network: `device.network` of the caller.
        device_id: the device's id if it has signed in to this account before, else None.
    """
    window = policy.failure_window
    if device_id is not None:
        return (Limit(("login-device", account, device_id.hex()), policy.account_failures, window),)
    return (
        Limit(("login-account-address", account, network), policy.account_failures, window),
        Limit(("login-address", network), policy.address_failures, window),
        Limit(("login-account", account), policy.hard_failures, None),
    )


def login_limits(account: str, network: str, device_id: bytes | None, policy: Policy, what: str) -> tuple[Limit, ...]:
    """List what `logins` count against, or `changes` of a password: as any attempt, and by themselves, where successes count too, which cost hashes and rows.

    Why by account and network: whoever knows a password keeps out nobody who is elsewhere, and no neighbour. Whoever guesses
    beside the owner is counted in two windows of failures at most: there is room for that, so it takes no login from anybody.
    """
    amount = policy.account_logins + 2 * policy.account_failures
    counted = Limit((what, account, network), amount, policy.failure_window, kept=True)
    return (*attempt_limits(account, network, device_id, policy), counted)


def signup_limits(network: str, policy: Policy) -> tuple[Limit, ...]:
    """List what a sign-up counts against."""
    return (Limit(("signup-address", network), policy.signups_per_address, HOUR),)
