"""Ask the real rule about every kind of token there is to a row: what the model does not know by itself.

Owns: making rows and tokens of each standing, and naming what they are to the new row. Must not hold: a verdict.
"""

from __future__ import annotations

from hashlib import sha256
from typing import NamedTuple

from keyturn.core.model import NewToken, PresentedToken, Session, SessionId
from keyturn.core.policy import Policy
from keyturn.core.rotation import Outcome
from tests.proofs.rows import CONTACT, SESSION_ID, Rule, row

CURRENT, PREVIOUS, SIBLING, DEAD = range(4)
FIRST_CHILD = 4
NOW = 1_000_000_000
GENERATION = 10


class Ruling(NamedTuple):
    """What the rule said about one token, and what every token is to the row from then on."""

    outcome: Outcome
    standings: tuple[int, ...]
    """New standing of current, previous, sibling, dead, another child; FIRST_CHILD: a child of the new current token."""
    presented: int
    minted: int | None
    moved: bool


def _digest(name: str) -> bytes:
    return sha256(name.encode()).digest()


_OTHER, _PRESENTED = 4, 5
_HASHES = [_digest(name) for name in ("current", "previous", "sibling", "dead", "other child", "presented child")]
_MINTED = _digest("minted")


def _tokens(seconds: int) -> list[PresentedToken]:
    """Make one token of each standing, this old, as the reader of the token format would."""
    current, previous, stranger = _HASHES[CURRENT][:8], _HASHES[PREVIOUS][:8], bytes(8)
    kin = [
        (GENERATION, previous),
        (GENERATION - 1, stranger),
        (GENERATION, previous),
        (GENERATION - 1, stranger),
        (GENERATION + 1, current),
        (GENERATION + 1, current),
    ]
    return [
        PresentedToken(SESSION_ID, generation, NOW - seconds, parent, token_hash)
        for (generation, parent), token_hash in zip(kin, _HASHES, strict=True)
    ]


def _standing(session: Session, generation: int, parent: bytes, token_hash: bytes) -> int:
    """Name what a token is to a row, for the numbering of states; what it may do is for the rule to say."""
    if token_hash == session.token_hash:
        return CURRENT
    if token_hash == session.previous_hash:
        return PREVIOUS
    if generation == session.generation + 1 and parent == session.fingerprint:
        return FIRST_CHILD
    if session.previous_hash is not None and generation == session.generation and parent == session.previous_hash[:8]:
        return SIBLING
    return DEAD


class Judge:
    """Ask the rule, once for each different question."""

    def __init__(self, rule: Rule, policy: Policy, tick: int) -> None:
        self._rule = rule
        self._policy = policy
        self._tick = tick
        self._known: dict[tuple[int, int, int], Ruling] = {}

    def __call__(self, standing: int, age: int, confirmed_age: int) -> Ruling:
        """Rule on a token of this standing (a child: of this age), this long after the last confirm."""
        key = (standing, age, confirmed_age)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._ask(*key)
        return known

    def _ask(self, standing: int, age: int, confirmed_age: int) -> Ruling:
        tick = self._tick
        tokens = _tokens(age * tick)
        before = row(_HASHES[CURRENT], NOW)._replace(
            generation=GENERATION, previous_hash=_HASHES[PREVIOUS], confirmed_at=NOW - confirmed_age * tick
        )
        minted: list[tuple[int, bytes]] = []

        def mint(session_id: SessionId, generation: int, now: float, parent_fingerprint: bytes) -> NewToken:
            minted.append((generation, parent_fingerprint))
            return NewToken("", _MINTED)

        presented = _PRESENTED if standing >= FIRST_CHILD else standing
        decision = self._rule(before, tokens[presented], NOW, self._policy, contact=CONTACT, mint=mint)
        after = decision.session
        assert after is not None
        standings = [_standing(after, t.generation, t.parent_fingerprint, t.token_hash) for t in tokens]
        child = _standing(after, *minted[-1], _MINTED) if decision.child is not None else None
        moved = after.token_hash != before.token_hash
        return Ruling(decision.outcome, tuple(standings[:_PRESENTED]), standings[_PRESENTED], child, moved)
