"""Ask the real rule about any token and any row, each named by what it is itself: what a database that goes back needs.

Owns: making real rows and tokens of the model's, and reading back what became of them. Must not hold: a verdict.
"""

from __future__ import annotations

from hashlib import sha256
from typing import NamedTuple

from keyturn.core.model import NewToken, PresentedToken, SessionId
from keyturn.core.policy import Policy
from keyturn.core.rotation import Outcome
from tests.proofs.rows import CONTACT, SESSION_ID, Rule, row
from tests.proofs.ruling import GENERATION, NOW

NONE = -1
"""In place of a token: one that nothing can ever show, or none."""
MINTED = -2
"""In a verdict: the child that the answer carries."""


class Token(NamedTuple):
    """A token by its number in the state."""

    generation: int
    parent: int
    age: int
    holders: int
    """Who ever held it, or one that descends from it."""


class Row(NamedTuple):
    """A state of the session's row; its generation is that of its current token."""

    current: int
    previous: int
    confirmed_age: int


class Verdict(NamedTuple):
    """What the rule said about one token."""

    outcome: Outcome
    row: Row
    ended: bool
    """The session is over."""
    child: tuple[int, int] | None
    """Generation and parent of the child that the answer carries."""


def _hash(token: int) -> bytes:
    return sha256(f"token {token}".encode()).digest()


class Court:
    """Ask the rule, once for each different question."""

    def __init__(self, rule: Rule, policy: Policy, tick: int) -> None:
        self._rule = rule
        self._policy = policy
        self._tick = tick
        self._known: dict[tuple[Row, int, int, Token, bool], Verdict] = {}

    def __call__(self, row: Row, generation: int, number: int, token: Token, *, healing: bool) -> Verdict:
        """Rule on a token, presented to a row of this generation."""
        key = (row, generation, number, token, healing)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._ask(*key)
        return known

    def _ask(self, before: Row, generation: int, number: int, token: Token, healing: bool) -> Verdict:
        session = row(_hash(before.current), NOW)._replace(
            generation=GENERATION + generation,
            previous_hash=None if before.previous == NONE else _hash(before.previous),
            confirmed_at=NOW - before.confirmed_age * self._tick,
        )
        presented = PresentedToken(
            session_id=SESSION_ID,
            generation=GENERATION + token.generation,
            issued_at=NOW - token.age * self._tick,
            parent_fingerprint=_hash(token.parent)[:8],
            token_hash=_hash(number),
        )
        numbers = {_hash(n): n for n in (before.current, before.previous, number, MINTED)}
        parents = {known[:8]: n for known, n in numbers.items()}
        minted: list[tuple[int, int]] = []

        def mint(session_id: SessionId, made: int, now: float, parent_fingerprint: bytes) -> NewToken:
            minted.append((made - GENERATION, parents[parent_fingerprint]))
            return NewToken("", _hash(MINTED))

        decision = self._rule(session, presented, NOW, self._policy, contact=CONTACT, mint=mint, healing=healing)
        after = decision.session
        assert after is not None
        child = minted[-1] if decision.child is not None else None
        current = numbers[after.token_hash]
        generations = {before.current: generation, number: token.generation, MINTED: child[0] if child else NONE}
        assert after.generation == GENERATION + generations[current]
        age = (NOW - int(after.confirmed_at)) // self._tick
        previous = NONE if after.previous_hash is None else numbers[after.previous_hash]
        return Verdict(decision.outcome, Row(current, previous, age), after.revoked_at is not None, child)
