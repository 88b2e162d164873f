"""No false logout and no silent thief over long and rough use; rules that fail, to show that the simulation can."""

from __future__ import annotations

from math import inf

import pytest

from keyturn.core.policy import DAY, Policy, Rotation
from keyturn.core.rotation import Outcome
from tests.proofs.rows import giving_one_successor
from tests.proofs.simulation import PLANS, QUIET, QUIET_PLAN, chase, describe, describe_owner, owner_alone
from tests.proofs.support import Report

AHEAD = 5 * DAY


def test_owner_alone(prove: bool, report: Report) -> None:
    """Eight tabs, renders, losses, crashes and sleep: not one false logout."""
    tally = owner_alone(1_000_000 if prove else 20_000)
    report(describe_owner("confirmed", tally))
    assert tally.false_logouts == 0
    assert tally.crashes > 10
    assert tally.cookies_lost > 0
    assert tally.outcomes.keys() == {Outcome.ROTATE, Outcome.EARLY, Outcome.CONFIRM}


@pytest.mark.parametrize("plan", PLANS)
def test_thief(plan: str, prove: bool, report: Report) -> None:
    """Every thief who goes on is found out."""
    chases = [chase(PLANS[plan], f"{plan} {n}") for n in range(200 if prove else 10)]
    report(describe(plan, chases))
    assert all(c.seconds < inf for c in chases)


def test_thief_who_gives_up(prove: bool, report: Report) -> None:
    """A thief who never advances and stops at the first sign is not found out, but locked out for good."""
    chases = [chase(QUIET_PLAN, f"{QUIET} {n}") for n in range(200 if prove else 10)]
    report(describe(QUIET, chases))
    assert all(c.gave_up or c.seconds < inf for c in chases)


def test_owner_while_the_clock_is_set_back(prove: bool, report: Report) -> None:
    """A database's clock that was days ahead and is set back, again and again, signs nobody out."""
    tally = owner_alone(300_000 if prove else 20_000, ahead=AHEAD, days=3.0)
    report(describe_owner("clock set back", tally))
    assert tally.false_logouts == 0
    assert tally.cookies_lost > 0


@pytest.mark.parametrize("plan", PLANS)
def test_thief_while_the_clock_is_set_back(plan: str, prove: bool, report: Report) -> None:
    """A thief who copied a child that was made by it is found out as any other, and not when that time has come."""
    chases = [chase(PLANS[plan], f"{plan} {n}", ahead=AHEAD, days=2.0) for n in range(100 if prove else 5)]
    report(describe(plan, chases))
    assert all(c.seconds < inf for c in chases)


def test_strict_rule() -> None:
    """The textbook rule signs the same browsers out again and again: the simulation can fail."""
    tally = owner_alone(2_000, policy=Policy(rotation=Rotation.STRICT))
    assert tally.false_logouts > 100


def test_no_settle_time() -> None:
    """Without a settle time the same browsers are signed out: it is what holds them."""
    tally = owner_alone(5_000, policy=Policy(settle_time=0.0, tail_time=0.0, relaxed=True))
    assert tally.false_logouts > 10


def test_rule_with_one_successor() -> None:
    """Where all children of a token are one, a thief who keeps in step is not found out."""
    chases = [
        chase(PLANS["5 s after the owner"], f"lock-step {n}", rule=giving_one_successor, days=0.25) for n in range(5)
    ]
    assert any(c.seconds == inf for c in chases)


def test_same_seed() -> None:
    """A run is a function of its seed."""
    assert owner_alone(2_000) == owner_alone(2_000)
    assert owner_alone(2_000) != owner_alone(2_000, seed="another")
