"""The table of the protocol, said once more in its own words, and asked beside the rule about whatever may come in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from keyturn.core.model import PresentedToken, RevokeReason, Session
from keyturn.core.policy import Policy, Rotation
from keyturn.core.rotation import GENERATION_LIMIT, Outcome, Write, decide, glance
from tests.core.vectors import CONTACT, fingerprint, load, minter, session, token_hash
from tests.core.vectors import SESSION_ID as ID

NOW = 1_700_000_000.0
CONFIRMED, STRICT = Policy(), Policy(rotation=Rotation.STRICT)
ROW = load("refresh.json")["row"]
NAMES = ("current", "previous", "other", "stranger")
GENERATIONS = (0, 5, 5, 5, 5, GENERATION_LIMIT - 2, GENERATION_LIMIT - 1, GENERATION_LIMIT)
KIN = [
    ("current", 0, "previous"),
    ("previous", -1, None),
    ("other", 0, "previous"),
    ("other", 1, "current"),
    ("other", 2, "stranger"),
]
"""Tokens as they come: the current one, its parent, its sibling, its child, its child's child."""


class Case(NamedTuple):
    """What comes in."""

    row: Session
    token: PresentedToken
    policy: Policy
    idle: float | None
    healing: bool


def near(*times: float) -> st.SearchStrategy[float]:
    """Draw one of some times, or one just before or after it."""
    return st.tuples(st.sampled_from(times), st.sampled_from([0.0, -0.001, 0.001, -1.0, 1.0])).map(sum)


@st.composite
def tokens(draw: st.DrawFn, generation: int, settle_time: float) -> PresentedToken:
    """Draw a token of the session, one that has its place in the protocol or any other."""
    strange = st.tuples(st.sampled_from(NAMES[1:]), st.sampled_from([-1, 0, 1, 2, 40]), st.sampled_from([None, *NAMES]))
    name, ahead, parent = draw(st.sampled_from(KIN) | strange)
    known = min(max(0, generation + ahead), 2**32 - 1)
    settling = [int(settle_time) + more for more in (-1, 0, 1)]
    issued_at = int(NOW) - draw(st.sampled_from([*settling, 0, -1, -2, -86400]))
    return PresentedToken(ID, known, issued_at, fingerprint(parent), token_hash(name))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a row, a token of its session, a policy and what the client says, most of it at some boundary."""
    policy = draw(st.sampled_from([CONFIRMED, STRICT, replace(CONFIRMED, settle_time=90.0, tail_time=20.0)]))
    generation, remember = draw(st.sampled_from(GENERATIONS)), draw(st.booleans())
    revoked = draw(st.none() | st.none() | st.none() | st.sampled_from(RevokeReason))
    patience = policy.inactivity_for(remember=remember)
    active = NOW - draw(near(600.0, 0.0, patience))
    row = session(
        ROW
        | {
            "current": "current",
            "previous": draw(st.sampled_from(["previous", None])),
            "generation": generation,
            "confirmed_at": NOW - draw(near(0.0, policy.tail_time, -policy.tail_time, 1e5, -86400.0)),
            "last_seen_at": NOW - draw(near(0.0, policy.touch_interval)),
            "last_active_at": active,
            "inactivity_expires_at": active + patience,
            "absolute_expires_at": draw(st.just(NOW + 1e6) | near(NOW)),
            "revoked_at": None if revoked is None else NOW - 5.0,
            "revoked_reason": revoked,
            "remember": remember,
        }
    )
    idle = draw(st.none() | near(0.0, 600.0, patience))
    return Case(row, draw(tokens(generation, policy.settle_time)), policy, idle, draw(st.booleans()))


def deadline(case: Case) -> float:
    """Say by when somebody must have acted, with what the client reports: only what was before the old one counts."""
    row, policy = case.row, case.policy
    acted = None if case.idle is None else NOW - max(case.idle, 0.0)
    if acted is None or acted <= row.last_active_at or acted >= row.inactivity_expires_at:
        return row.inactivity_expires_at
    return max(row.inactivity_expires_at, acted + policy.inactivity_for(remember=row.remember))


def ending(case: Case, by: float) -> RevokeReason | None:
    """Say why a session is over, whatever is presented. Args: by: when somebody must have acted."""
    row = case.row
    if row.revoked_reason is not None:
        return row.revoked_reason
    if row.absolute_expires_at <= NOW:
        return RevokeReason.ABSOLUTE
    if by <= NOW:
        return RevokeReason.INACTIVITY
    if row.generation >= GENERATION_LIMIT or case.token.generation >= GENERATION_LIMIT:
        return RevokeReason.ABSOLUTE
    return None


def table(case: Case) -> Outcome:
    """Read the table of `rotation.md` from its top to its bottom, for a session that lives; decisions 0035 and 0036 are in it."""
    row, token, policy = case.row, case.token, case.policy
    strict = policy.rotation is Rotation.STRICT
    settle, tail = (0.0, 0.0) if strict else (policy.settle_time, policy.tail_time)
    age = NOW - token.issued_at
    child = token.generation == row.generation + 1 and token.parent_fingerprint == row.token_hash[:8]
    rows = [
        (token.token_hash == row.token_hash, Outcome.ROTATE),
        (child and age <= -1 and not strict, Outcome.ROTATE),
        (child and age < settle and not strict, Outcome.EARLY),
        (child, Outcome.CONFIRM),
        (token.generation > row.generation + 1 and not case.healing, Outcome.AHEAD),
        (token.generation > row.generation + 1 and age < settle and not strict, Outcome.EARLY),
        (token.generation > row.generation + 1, Outcome.CONFIRM),
        (token.token_hash == row.previous_hash and abs(NOW - row.confirmed_at) < tail, Outcome.TAIL),
        (True, Outcome.REUSE),
    ]
    return next(outcome for fits, outcome in rows if fits)


def written(case: Case, outcome: Outcome, child: bytes) -> dict[str, Any]:
    """Say what a refresh of this outcome makes of the row, but for the times of last-seen and last-active."""
    row, token = case.row, case.token
    if outcome is Outcome.REUSE:
        return {"revoked_at": NOW, "revoked_reason": RevokeReason.REUSE_DETECTED}
    if case.policy.strict and outcome in {Outcome.ROTATE, Outcome.CONFIRM}:
        generation = token.generation + 1
        return {"generation": generation, "token_hash": child, "previous_hash": token.token_hash, "confirmed_at": NOW}
    if outcome is Outcome.CONFIRM:
        previous = row.token_hash if token.generation == row.generation + 1 else None
        confirmed = {"token_hash": token.token_hash, "previous_hash": previous, "confirmed_at": NOW}
        return {"generation": token.generation, **confirmed}
    return {}


@settings(max_examples=500)
@given(cases())
def test_refresh(case: Case) -> None:
    """A refresh is answered as the table says, and the row becomes what the table says."""
    made: list[tuple[int, bytes]] = []
    contact = CONTACT._replace(idle_seconds=case.idle)
    decision = decide(case.row, case.token, NOW, case.policy, contact=contact, mint=minter(made), healing=case.healing)
    after = decision.session
    assert after is not None
    reason = ending(case, deadline(case))
    if reason is not None:
        assert (decision.outcome, decision.reason, made) == (Outcome.ENDED, reason, [])
        assert after == case.row._replace(revoked_at=after.revoked_at, revoked_reason=reason)
        return
    expected = table(case)
    assert decision.outcome is expected
    times: dict[str, Any] = {
        name: getattr(after, name) for name in ("last_seen_at", "last_active_at", "inactivity_expires_at")
    }
    assert after == case.row._replace(**times, **written(case, expected, token_hash("child")))
    assert after.inactivity_expires_at in {case.row.inactivity_expires_at, deadline(case)}
    if expected is Outcome.CONFIRM:
        assert (after.inactivity_expires_at, after.last_seen_at) == (deadline(case), max(NOW, case.row.last_seen_at))
    parent = case.token if expected is Outcome.CONFIRM or case.policy.strict else case.row
    with_child = expected in {Outcome.ROTATE, Outcome.CONFIRM}
    assert made == ([(parent.generation + 1, parent.token_hash[:8])] if with_child else [])


@settings(max_examples=500)
@given(cases())
def test_render(case: Case) -> None:
    """A render is answered as the table says; it changes the row only to end it, and never for inactivity."""
    contact = CONTACT._replace(idle_seconds=case.idle)
    decision = glance(case.row, case.token, NOW, case.policy, contact=contact, healing=case.healing)
    reason = ending(case, case.row.inactivity_expires_at)
    expected = Outcome.ENDED if reason is not None else table(case)
    assert decision.outcome is expected
    assert decision.child is None
    if expected is Outcome.REUSE:
        reason = RevokeReason.REUSE_DETECTED
    assert decision.reason is reason
    ends = case.row.revoked_reason is None and reason not in {None, RevokeReason.INACTIVITY}
    assert decision.write is (Write.SWAP if ends else Write.NOTHING)
    changes: dict[str, Any] = {"revoked_at": NOW, "revoked_reason": reason} if ends else {}
    assert decision.session == case.row._replace(**changes)
