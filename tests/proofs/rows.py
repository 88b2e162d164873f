"""What both proofs share: a session row, a caller, and rules that are wrong on purpose."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from hashlib import sha256
from typing import NamedTuple, Protocol

from keyturn.core.model import Contact, NewToken, PresentedToken, RevokeReason, Session, SessionId
from keyturn.core.policy import Policy
from keyturn.core.rotation import Decision, Mint, Outcome, Write, decide, end, glance

SESSION_ID = SessionId(bytes(16))
CONTACT = Contact("192.0.2.1", "agent", "Firefox on Linux")
FOREVER = 1e12


class Rule(Protocol):
    """Anything with the signature of `decide`."""

    def __call__(
        self,
        session: Session | None,
        presented: PresentedToken,
        now: float,
        policy: Policy,
        *,
        contact: Contact,
        mint: Mint,
        healing: bool = False,
    ) -> Decision: ...


class Asked(NamedTuple):
    """What a rule is asked."""

    session: Session | None
    presented: PresentedToken
    now: float
    policy: Policy
    contact: Contact
    mint: Mint
    healing: bool

    @property
    def is_ahead(self) -> bool:
        """Whether the token is more than one generation on from the row."""
        return self.session is not None and self.presented.generation > self.session.generation + 1

    def decided(self) -> Decision:
        """Judge as `decide`."""
        return decide(
            self.session,
            self.presented,
            self.now,
            self.policy,
            contact=self.contact,
            mint=self.mint,
            healing=self.healing,
        )

    def glanced(self) -> Decision:
        """Judge as `glance`."""
        return glance(self.session, self.presented, self.now, self.policy, contact=self.contact, healing=self.healing)

    def issued_at(self, time: float) -> Asked:
        """Have the token made at another time."""
        return self._replace(presented=self.presented._replace(issued_at=int(time)))

    def child_of(self, session: Session) -> NewToken:
        """Make a child of a session's current token."""
        return self.mint(session.id, session.generation + 1, self.now, session.fingerprint)


def _instead(other: Callable[[Asked], Decision]) -> Rule:
    """Let another rule stand in for `decide`: most of them are wrong on purpose."""

    @wraps(other)
    def rule(
        session: Session | None,
        presented: PresentedToken,
        now: float,
        policy: Policy,
        *,
        contact: Contact,
        mint: Mint,
        healing: bool = False,
    ) -> Decision:
        return other(Asked(session, presented, now, policy, contact, mint, healing))

    return rule


def row(token_hash: bytes, now: float) -> Session:
    """Make the row of a session that has no deadline to speak of."""
    return Session(
        id=SESSION_ID,
        user_id="user",
        generation=0,
        token_hash=token_hash,
        previous_hash=None,
        confirmed_at=now,
        created_at=now,
        last_seen_at=now,
        last_active_at=now,
        inactivity_expires_at=FOREVER,
        absolute_expires_at=FOREVER,
        revoked_at=None,
        revoked_reason=None,
        device_id=bytes(16),
        device_name=None,
        device=CONTACT.device,
        ip=CONTACT.ip,
        user_agent=CONTACT.user_agent,
        amr=("pwd",),
        authenticated_at=now,
        remember=True,
    )


def _is_sibling(session: Session, presented: PresentedToken) -> bool:
    parent = session.previous_hash
    return (
        parent is not None
        and presented.generation == session.generation
        and presented.parent_fingerprint == parent[:8]
        and presented.token_hash != session.token_hash
    )


@_instead
def accepting_siblings(asked: Asked) -> Decision:
    """Judge as `decide`, but let a dead sibling go on from the current token, as a grace window does."""
    session = asked.session
    if session is not None and session.revoked_at is None and _is_sibling(session, asked.presented):
        return Decision(Outcome.ROTATE, session, Write.NOTHING, asked.child_of(session))
    return asked.decided()


@_instead
def rotating_in_the_tail(asked: Asked) -> Decision:
    """Judge as `decide`, but give a child of the current token to whoever presents the previous one in its tail."""
    decision = asked.decided()
    if decision.outcome is Outcome.TAIL and asked.session is not None:
        return decision._replace(child=asked.child_of(asked.session))
    return decision


@_instead
def giving_one_successor(asked: Asked) -> Decision:
    """Judge as `decide`, but let all children of a token be one, as rules do that keep one successor until it is used."""

    def same(session_id: SessionId, generation: int, at: float, parent_fingerprint: bytes) -> NewToken:
        made = asked.mint(session_id, generation, at, parent_fingerprint)
        return NewToken(made.text, sha256(parent_fingerprint).digest())

    return asked._replace(mint=same).decided()


@_instead
def waiting_for_the_clock(asked: Asked) -> Decision:
    """Judge as `decide`, but let a child that a clock ahead has made be early until that time comes."""
    if asked.presented.issued_at > asked.now:
        return asked.issued_at(asked.now).decided()
    return asked.decided()


@_instead
def confirming_at_once(asked: Asked) -> Decision:
    """Judge as `decide`, but let a child that a clock ahead has made confirm without a settle time."""
    if asked.presented.issued_at > asked.now:
        return asked.issued_at(asked.now - asked.policy.settle_time).decided()
    return asked.decided()


@_instead
def leaving_the_tail_open(asked: Asked) -> Decision:
    """Judge as `decide`, but let the tail of a confirm by a clock ahead last until that time comes."""
    session = asked.session
    if session is not None and session.confirmed_at > asked.now:
        return asked._replace(session=session._replace(confirmed_at=asked.now)).decided()
    return asked.decided()


@_instead
def believing_at_once(asked: Asked) -> Decision:
    """Judge as `decide`, but let a token that is ahead be believed before it is settled."""
    if asked.healing and asked.is_ahead:
        return asked.issued_at(asked.now - asked.policy.settle_time).decided()
    return asked.decided()


@_instead
def ending_what_is_ahead(asked: Asked) -> Decision:
    """Judge as `decide`, but let a token that is ahead and not believed be reuse, as one that nobody ever made would be."""
    decision = asked.decided()
    return decision._replace(outcome=Outcome.REUSE) if decision.outcome is Outcome.AHEAD else decision


@_instead
def serving_what_is_ahead(asked: Asked) -> Decision:
    """Judge as `decide`, but answer a token that is ahead with a child of the current one instead of moving to it."""
    if asked.session is not None and asked.is_ahead:
        return Decision(Outcome.ROTATE, asked.session, Write.NOTHING, asked.child_of(asked.session))
    return asked.decided()


@_instead
def believing_the_next(asked: Asked) -> Decision:
    """Judge as `decide`, but believe while healing whatever is of the next generation, whoever's child it is."""
    session, presented = asked.session, asked.presented
    if asked.healing and session is not None and presented.generation == session.generation + 1:
        return asked._replace(presented=presented._replace(parent_fingerprint=session.fingerprint)).decided()
    return asked.decided()


@_instead
def never_healing(asked: Asked) -> Decision:
    """Judge as `decide`, but believe nothing while healing."""
    return asked._replace(healing=False).decided()


@_instead
def skipping_a_generation(asked: Asked) -> Decision:
    """Judge as `decide`, but make each child two generations on, so that it is ahead of its row from the first."""

    def ahead(session_id: SessionId, generation: int, at: float, parent_fingerprint: bytes) -> NewToken:
        return asked.mint(session_id, generation + 1, at, parent_fingerprint)

    return asked._replace(mint=ahead).decided()


@_instead
def always_healing(asked: Asked) -> Decision:
    """Judge as `decide`, but believe what is ahead without healing as well."""
    return asked._replace(healing=True).decided()


@_instead
def rendering(asked: Asked) -> Decision:
    """Judge as `glance`, for a server-side render."""
    return asked.glanced()


@_instead
def rendering_unseen(asked: Asked) -> Decision:
    """Judge as `glance`, but let no render end a session."""
    decision = asked.glanced()
    return decision._replace(session=asked.session) if decision.outcome is Outcome.REUSE else decision


@_instead
def rendering_without_healing(asked: Asked) -> Decision:
    """Judge as `glance`, but believe nothing while healing."""
    return asked._replace(healing=False).glanced()


@_instead
def knowing_the_current_alone(asked: Asked) -> Decision:
    """Judge as `decide`, but let whatever is not the current token be reuse, as textbooks do."""
    session, presented = asked.session, asked.presented
    if session is not None and presented.token_hash != session.token_hash:
        return end(session, RevokeReason.REUSE_DETECTED, asked.now)._replace(outcome=Outcome.REUSE)
    return asked.decided()


@_instead
def taking_what_is_ahead_for_its_parent(asked: Asked) -> Decision:
    """Judge as `decide`, but answer a token that is ahead and from the future with a child of the current one."""
    if asked.healing and asked.is_ahead and asked.presented.issued_at > asked.now:
        assert asked.session is not None
        return Decision(Outcome.ROTATE, asked.session, Write.NOTHING, asked.child_of(asked.session))
    return asked.decided()
