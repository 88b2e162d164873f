"""The refresh rules. This file owns them; nothing else in Keyturn knows what rotation means.

Theory of operation
-------------------
A session row keeps the hash of one *confirmed* refresh token, the current one. Every refresh that presents the current
token gets a new child of its own; children are not stored. A child that comes back after the settle time S confirms:
it becomes current, and its siblings are dead. Because a child younger than S never confirms, every tab, straggler and
crash of one browser has converged on one cookie before anything is decided; because children are unique, a second
holder of the session holds a sibling, and the first of the two to confirm exposes the other.

      standing of the token              before S          from S on
      ----------------------------------------------------------------------------
      current                            rotate            rotate
      child of current                   early             confirm
        ... made by a clock ahead        rotate            -
      previous, tail not over            tail              tail
      generation beyond current + 1      ahead             ahead
        ... while healing                early             confirm
      any other authentic token          reuse             reuse

A session that is revoked, past a deadline or unknown is `ended`, whatever the token's standing.
A child made while the clock was ahead is taken for its parent: its own age would not be known until that time comes.
In strict mode S and the tail are zero and issuing a child makes it current at once.

Must not hold: a clock, randomness, I/O. `now` is the database's clock, read in the same round trip as the row, so that
nodes with skewed clocks cannot disagree. Time inequalities that make this safe are in `policy.py`.
Spec: RFC 9700 4.14.2 (refresh token rotation and replay detection), OWASP ASVS 5.0 10.4.5.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, StrEnum
from typing import NamedTuple

from keyturn.core.device import drift
from keyturn.core.events import Event, EventType
from keyturn.core.model import Contact, NewToken, PresentedToken, RevokeReason, Session, SessionId
from keyturn.core.policy import Drift, Policy


class Outcome(StrEnum):
    """What a presented refresh token turned out to be."""

    ROTATE = "rotate"
    EARLY = "early"
    CONFIRM = "confirm"
    TAIL = "tail"
    AHEAD = "ahead"
    REUSE = "reuse"
    ENDED = "ended"

    @property
    def accepted(self) -> bool:
        """True when the answer carries an access token."""
        return self in _ACCEPTED


_ACCEPTED = frozenset({Outcome.ROTATE, Outcome.EARLY, Outcome.CONFIRM, Outcome.TAIL})


class Write(Enum):
    """What the store must do with the session of a decision."""

    NOTHING = 0
    TOUCH = 1
    """Last-seen and last-active only: may be late, merged or lost; never holds up an answer."""
    SWAP = 2
    """Compare-and-set on the token hash that was read; committed before the answer leaves."""


class Decision(NamedTuple):
    """A refresh, decided. A value: making it changes nothing, so it is safe to make again when the row has moved."""

    outcome: Outcome
    session: Session | None
    """The row as it stands after this decision; None when there is no such session."""
    write: Write = Write.NOTHING
    child: NewToken | None = None
    reason: RevokeReason | None = None
    """Why the session ended; None while it lives and when it is unknown."""
    events: tuple[Event, ...] = ()


Mint = Callable[[SessionId, int, float, bytes], NewToken]
"""(session id, generation, now, parent fingerprint) -> token; pure, over entropy drawn before the decision."""

GENERATION_LIMIT = 2**32 - 2
"""The last generation that may have a child; the token format counts to 2**32 - 1."""


def decide(
    session: Session | None,
    presented: PresentedToken,
    now: float,
    policy: Policy,
    *,
    contact: Contact,
    mint: Mint,
    healing: bool = False,
) -> Decision:
    """Decide what a presented refresh token does.

    Args:
        session: the row as read, or None when there is none with the token's session id.
        presented: the token, already found authentic.
        now: the database's clock, seconds. policy: the numbers.
        contact: address, user agent and reported activity of the caller.
        mint: makes the child token from entropy drawn before.
        healing: the database is known to have lost commits (a failover); a token ahead of it is then believed.

    Returns: the decision; `session` in it is the new row state, `write` says whether and how to write it.
    """
    found = _refused_or_standing(session, presented, contact, now, policy, healing)
    if isinstance(found, Decision):
        return found
    session, outcome, active_at = found
    drifted = drift(session, contact, policy)
    if drifted is Drift.REQUIRE_LOGIN:
        return end(session, RevokeReason.REVOKED, now, _drift_event(session, contact, now))
    events: tuple[Event, ...] = ()
    if outcome is Outcome.CONFIRM:
        after, events = _advance(session, presented, contact, active_at, now, policy)
    elif outcome is Outcome.ROTATE and policy.strict:
        after = _seen(session, active_at, now, policy)
        if after is session:  # or whoever alternates between browsers has an event kept with each refresh
            return _issue(outcome, session, now, policy, mint, events)
        after = after._replace(ip=contact.ip, user_agent=contact.user_agent, device=contact.device)
    else:
        seen = _seen(session, active_at, now, policy)
        write = Write.NOTHING if seen is session else Write.TOUCH
        child = _child(seen, now, mint) if outcome is Outcome.ROTATE else None
        return Decision(outcome, seen, write, child)
    if drifted is Drift.NOTIFY:
        events = (*events, _drift_event(session, contact, now))
    return _issue(outcome, after, now, policy, mint, events)


def standing(
    session: Session, presented: PresentedToken, now: float, policy: Policy, *, healing: bool = False
) -> Outcome:
    """Say what an authentic token is to a live session: the table at the top of this file, row by row."""
    if presented.token_hash == session.token_hash:
        return Outcome.ROTATE
    ahead_by = presented.generation - session.generation
    is_child = ahead_by == 1 and presented.parent_fingerprint == session.fingerprint
    # Made by a clock that was ahead: a time is rounded up by less than a second. As `early` it would be served, to two holders
    # alike, until that time comes.
    if is_child and not policy.strict and presented.issued_at >= now + 1:
        return Outcome.ROTATE
    if is_child or (ahead_by > 1 and healing):
        # Healing waits out S as well: the token believed first would turn its siblings and its parent, still in
        # flight, into reuse.
        settled = policy.strict or now - presented.issued_at >= policy.settle_time
        return Outcome.CONFIRM if settled else Outcome.EARLY
    if ahead_by > 1:
        return Outcome.AHEAD
    tail = 0.0 if policy.strict else policy.tail_time
    # A clock that was ahead at the confirm and is set right must not keep the tail open until that time comes.
    in_tail = presented.token_hash == session.previous_hash and abs(now - session.confirmed_at) < tail
    return Outcome.TAIL if in_tail else Outcome.REUSE


def end(session: Session, reason: RevokeReason, now: float, *events: Event) -> Decision:
    """End a live session for a reason. Its tokens, all of them, are `ended` from then on."""
    revoked = session._replace(revoked_at=now, revoked_reason=reason)
    ended = _event(EventType.SESSION_ENDED, session, now, reason=reason.value)
    return Decision(Outcome.ENDED, revoked, Write.SWAP, reason=reason, events=(*events, ended))


def log_out(session: Session | None, now: float, reason: RevokeReason = RevokeReason.LOGOUT) -> Decision:
    """End the session of any authentic token, whatever the token's standing; ending twice changes nothing."""
    if session is None or session.revoked_at is not None:
        return Decision(Outcome.ENDED, session, reason=session and session.revoked_reason)
    return end(session, reason, now)


def glance(
    session: Session | None,
    presented: PresentedToken,
    now: float,
    policy: Policy,
    *,
    contact: Contact,
    healing: bool = False,
) -> Decision:
    """Judge a token for a server-side render: as `decide`, but nothing advances and nothing is marked used.

    Why: a render server may be raced by the browser whose cookie it forwards; only the browser rotates. Reuse still
    ends the session: a thief who only ever renders pages must not go unseen. The caller is the render server, so its
    address and user agent say nothing about the device.
    """
    found = _refused_or_standing(session, presented, contact._replace(idle_seconds=None), now, policy, healing)
    if not isinstance(found, Decision):
        live, outcome, _ = found
        return Decision(outcome, live)
    # Only the browser knows when a person last acted, so its next refresh may yet find the session alive.
    idle = found.reason is RevokeReason.INACTIVITY
    return Decision(found.outcome, session, reason=found.reason) if idle else found


def lapsed(session: Session, now: float) -> bool:
    """Say whether a session is over: revoked, or past a deadline."""
    return session.revoked_at is not None or now >= min(session.inactivity_expires_at, session.absolute_expires_at)


def _refused_or_standing(
    session: Session | None, presented: PresentedToken, contact: Contact, now: float, policy: Policy, healing: bool
) -> Decision | tuple[Session, Outcome, float]:
    """Refuse what ends here; else say what the token is to the session, which lives, and when a person last acted."""
    if session is None or session.revoked_at is not None:
        return Decision(Outcome.ENDED, session, reason=session and session.revoked_reason)
    active_at = _active_at(session, contact, now)
    if reason := _expired(session, active_at, now, policy):
        return end(session, reason, now)
    if max(session.generation, presented.generation) >= GENERATION_LIMIT:
        return end(session, RevokeReason.ABSOLUTE, now)
    outcome = standing(session, presented, now, policy, healing=healing)
    if outcome is Outcome.REUSE:
        return _reuse(session, presented, contact, now)
    if outcome is Outcome.AHEAD:
        event = _event(EventType.DATABASE_BEHIND, session, now, presented=str(presented.generation))
        return Decision(outcome, session, events=(event,))
    return session, outcome, active_at


def _active_at(session: Session, contact: Contact, now: float) -> float:
    """When a person last acted: as reported, if that was before the deadline they were to act by.

    Why: a browser that wakes after the deadline reports activity *now*; believing it would make the timeout void.
    """
    if contact.idle_seconds is None:
        return session.last_active_at
    reported = now - max(0.0, contact.idle_seconds)
    return max(session.last_active_at, reported if reported < session.inactivity_expires_at else 0.0)


def _inactivity_deadline(session: Session, active_at: float, policy: Policy) -> float:
    if active_at <= session.last_active_at:
        return session.inactivity_expires_at
    return max(session.inactivity_expires_at, active_at + policy.inactivity_for(remember=session.remember))


def _expired(session: Session, active_at: float, now: float, policy: Policy) -> RevokeReason | None:
    if now >= session.absolute_expires_at:
        return RevokeReason.ABSOLUTE
    return RevokeReason.INACTIVITY if now >= _inactivity_deadline(session, active_at, policy) else None


def _seen(session: Session, active_at: float, now: float, policy: Policy) -> Session:
    """Move last-seen and last-active, at most once a touch interval; the same object when nothing is worth a write."""
    if max(now - session.last_seen_at, active_at - session.last_active_at) < policy.touch_interval:
        return session
    return session._replace(
        last_seen_at=max(now, session.last_seen_at),
        last_active_at=active_at,
        inactivity_expires_at=_inactivity_deadline(session, active_at, policy),
    )


def _advance(
    session: Session, presented: PresentedToken, contact: Contact, active_at: float, now: float, policy: Policy
) -> tuple[Session, tuple[Event, ...]]:
    """Make the presented token current and its caller the one last seen, with one `_replace`: each copies the whole session."""
    # A heal skips generations: the token between is unknown, so nothing is accepted as the tail of this one.
    healed = presented.generation > session.generation + 1
    after = session._replace(
        generation=presented.generation,
        token_hash=presented.token_hash,
        previous_hash=None if healed else session.token_hash,
        confirmed_at=now,
        last_seen_at=max(now, session.last_seen_at),
        last_active_at=active_at,
        inactivity_expires_at=_inactivity_deadline(session, active_at, policy),
        ip=contact.ip,
        user_agent=contact.user_agent,
        device=contact.device,
    )
    events = (_event(EventType.HEALED, session, now, presented=str(presented.generation)),) if healed else ()
    return after, events


def _child(session: Session, now: float, mint: Mint) -> NewToken:
    return mint(session.id, session.generation + 1, now, session.fingerprint)


def _issue(
    outcome: Outcome, session: Session, now: float, policy: Policy, mint: Mint, events: tuple[Event, ...]
) -> Decision:
    """Give a new unique child of the token just made current; in strict mode the child is current at once."""
    child = _child(session, now, mint)
    if policy.strict:
        before, generation = session.token_hash, session.generation + 1
        session = session._replace(
            generation=generation, token_hash=child.token_hash, previous_hash=before, confirmed_at=now
        )
    return Decision(outcome, session, Write.SWAP, child, events=events)


def _reuse(session: Session, presented: PresentedToken, contact: Contact, now: float) -> Decision:
    data = {"generation": str(session.generation), "presented": str(presented.generation)}
    event = _event(EventType.REUSE_DETECTED, session, now, **data, **_parties(session, contact))
    return end(session, RevokeReason.REUSE_DETECTED, now, event)._replace(outcome=Outcome.REUSE)


def _drift_event(session: Session, contact: Contact, now: float) -> Event:
    return _event(EventType.DEVICE_DRIFT, session, now, **_parties(session, contact))


def _parties(session: Session, contact: Contact) -> dict[str, str]:
    return {
        "holder_ip": session.ip,
        "holder_user_agent": session.user_agent,
        "presenter_ip": contact.ip,
        "presenter_user_agent": contact.user_agent,
    }


def _event(kind: EventType, session: Session, now: float, **data: str) -> Event:
    return Event(kind, now, session.user_id, session.id, data)
