"""What both proofs share: a session row, a caller, and rules that are wrong on purpose."""

from __future__ import annotations

from hashlib import sha256
from typing import Protocol

from keyturn.core.model import Contact, NewToken, PresentedToken, Session, SessionId
from keyturn.core.policy import Policy
from keyturn.core.rotation import Decision, Mint, Outcome, Write, decide

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


def _child(session: Session, now: float, mint: Mint) -> NewToken:
    return mint(session.id, session.generation + 1, now, session.fingerprint)


def accepting_siblings(
    session: Session | None,
    presented: PresentedToken,
    now: float,
    policy: Policy,
    *,
    contact: Contact,
    mint: Mint,
    healing: bool = False,
) -> Decision:
    """Judge as `decide`, but let a dead sibling go on from the current token, as a grace window does."""
    if session is not None and session.revoked_at is None and _is_sibling(session, presented):
        return Decision(Outcome.ROTATE, session, Write.NOTHING, _child(session, now, mint))
    return decide(session, presented, now, policy, contact=contact, mint=mint, healing=healing)


def rotating_in_the_tail(
    session: Session | None,
    presented: PresentedToken,
    now: float,
    policy: Policy,
    *,
    contact: Contact,
    mint: Mint,
    healing: bool = False,
) -> Decision:
    """Judge as `decide`, but give a child of the current token to whoever presents the previous one in its tail."""
    decision = decide(session, presented, now, policy, contact=contact, mint=mint, healing=healing)
    if decision.outcome is Outcome.TAIL and session is not None:
        return decision._replace(child=_child(session, now, mint))
    return decision


def giving_one_successor(
    session: Session | None,
    presented: PresentedToken,
    now: float,
    policy: Policy,
    *,
    contact: Contact,
    mint: Mint,
    healing: bool = False,
) -> Decision:
    """Judge as `decide`, but let all children of a token be one, as rules do that keep one successor until it is used."""

    def same(session_id: SessionId, generation: int, at: float, parent_fingerprint: bytes) -> NewToken:
        made = mint(session_id, generation, at, parent_fingerprint)
        return NewToken(made.text, sha256(parent_fingerprint).digest())

    return decide(session, presented, now, policy, contact=contact, mint=same, healing=healing)


def waiting_for_the_clock(
    session: Session | None,
    presented: PresentedToken,
    now: float,
    policy: Policy,
    *,
    contact: Contact,
    mint: Mint,
    healing: bool = False,
) -> Decision:
    """Judge as `decide`, but let a child that a clock ahead has made be early until that time comes."""
    if presented.issued_at > now:
        presented = presented._replace(issued_at=int(now))
    return decide(session, presented, now, policy, contact=contact, mint=mint, healing=healing)


def confirming_at_once(
    session: Session | None,
    presented: PresentedToken,
    now: float,
    policy: Policy,
    *,
    contact: Contact,
    mint: Mint,
    healing: bool = False,
) -> Decision:
    """Judge as `decide`, but let a child that a clock ahead has made confirm without a settle time."""
    if presented.issued_at > now:
        presented = presented._replace(issued_at=int(now - policy.settle_time))
    return decide(session, presented, now, policy, contact=contact, mint=mint, healing=healing)


def leaving_the_tail_open(
    session: Session | None,
    presented: PresentedToken,
    now: float,
    policy: Policy,
    *,
    contact: Contact,
    mint: Mint,
    healing: bool = False,
) -> Decision:
    """Judge as `decide`, but let the tail of a confirm by a clock ahead last until that time comes."""
    if session is not None and session.confirmed_at > now:
        session = session._replace(confirmed_at=now)
    return decide(session, presented, now, policy, contact=contact, mint=mint, healing=healing)


def believing_at_once(
    session: Session | None,
    presented: PresentedToken,
    now: float,
    policy: Policy,
    *,
    contact: Contact,
    mint: Mint,
    healing: bool = False,
) -> Decision:
    """Judge as `decide`, but let a token that is ahead be believed before it is settled."""
    if healing and session is not None and presented.generation > session.generation + 1:
        presented = presented._replace(issued_at=int(now - policy.settle_time))
    return decide(session, presented, now, policy, contact=contact, mint=mint, healing=healing)


def ending_what_is_ahead(
    session: Session | None,
    presented: PresentedToken,
    now: float,
    policy: Policy,
    *,
    contact: Contact,
    mint: Mint,
    healing: bool = False,
) -> Decision:
    """Judge as `decide`, but let a token that is ahead and not believed be reuse, as one that nobody ever made would be."""
    decision = decide(session, presented, now, policy, contact=contact, mint=mint, healing=healing)
    return decision._replace(outcome=Outcome.REUSE) if decision.outcome is Outcome.AHEAD else decision


def serving_what_is_ahead(
    session: Session | None,
    presented: PresentedToken,
    now: float,
    policy: Policy,
    *,
    contact: Contact,
    mint: Mint,
    healing: bool = False,
) -> Decision:
    """Judge as `decide`, but answer a token that is ahead with a child of the current one instead of moving to it."""
    decision = decide(session, presented, now, policy, contact=contact, mint=mint, healing=healing)
    if session is not None and presented.generation > session.generation + 1:
        return Decision(Outcome.ROTATE, session, Write.NOTHING, _child(session, now, mint))
    return decision


def believing_the_next(
    session: Session | None,
    presented: PresentedToken,
    now: float,
    policy: Policy,
    *,
    contact: Contact,
    mint: Mint,
    healing: bool = False,
) -> Decision:
    """Judge as `decide`, but believe while healing whatever is of the next generation, whoever's child it is."""
    if healing and session is not None and presented.generation == session.generation + 1:
        presented = presented._replace(parent_fingerprint=session.fingerprint)
    return decide(session, presented, now, policy, contact=contact, mint=mint, healing=healing)


def never_healing(
    session: Session | None,
    presented: PresentedToken,
    now: float,
    policy: Policy,
    *,
    contact: Contact,
    mint: Mint,
    healing: bool = False,
) -> Decision:
    """Judge as `decide`, but believe nothing while healing."""
    del healing
    return decide(session, presented, now, policy, contact=contact, mint=mint)


def skipping_a_generation(
    session: Session | None,
    presented: PresentedToken,
    now: float,
    policy: Policy,
    *,
    contact: Contact,
    mint: Mint,
    healing: bool = False,
) -> Decision:
    """Judge as `decide`, but make each child two generations on, so that it is ahead of its row from the first."""

    def ahead(session_id: SessionId, generation: int, at: float, parent_fingerprint: bytes) -> NewToken:
        return mint(session_id, generation + 1, at, parent_fingerprint)

    return decide(session, presented, now, policy, contact=contact, mint=ahead, healing=healing)


def always_healing(
    session: Session | None,
    presented: PresentedToken,
    now: float,
    policy: Policy,
    *,
    contact: Contact,
    mint: Mint,
    healing: bool = False,
) -> Decision:
    """Judge as `decide`, but believe what is ahead without healing as well."""
    del healing
    return decide(session, presented, now, policy, contact=contact, mint=mint, healing=True)
