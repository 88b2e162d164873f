"""Both guarantees in strict mode while the database loses commits: they ask for what strict mode asks for, and no more."""

from __future__ import annotations

from dataclasses import replace

import pytest

from keyturn.core.policy import Rotation
from keyturn.core.rotation import Outcome, decide
from tests.proofs.model_loss import BELIEVED, LossyWorld, explore
from tests.proofs.rows import (
    Rule,
    accepting_siblings,
    always_healing,
    believing_the_next,
    ending_what_is_ahead,
    knowing_the_current_alone,
    never_healing,
    rendering,
    serving_what_is_ahead,
)
from tests.proofs.support import Report, hold, refute
from tests.proofs.world import ADVANCED, REFUSED

STRICT = LossyWorld(
    settle=1, rotation=Rotation.STRICT, crash_loss=1, crashes=False, in_flight=1, back=3, forth=True, render=rendering
)
ONE_BY_ONE = replace(STRICT, answers_lost=False, ahead=1, set_back=True, jumps=True)
THIEF = replace(STRICT, thief=True, thief_tokens=1, owner_alone=False, forth=False)


def test_one_request_at_a_time(report: Report) -> None:
    """Who asks one thing at a time and gets every answer is never signed out, whatever is lost and whatever the clock does."""
    found = explore(ONE_BY_ONE)
    hold(found, report, "strict mode, lost commits")
    assert found.outcomes.keys() == {Outcome.ROTATE, Outcome.CONFIRM, Outcome.AHEAD}


@pytest.mark.parametrize(
    "world",
    [replace(ONE_BY_ONE, in_flight=2), replace(ONE_BY_ONE, answers_lost=True), replace(ONE_BY_ONE, crashes=True)],
    ids=["two at a time", "a lost answer", "a crash"],
)
def test_what_strict_mode_asks_for(world: LossyWorld) -> None:
    """Two requests at a time, a lost answer or a crash sign an owner out, each alone, although nothing is lost."""
    refute(explore(replace(world, back=0)), REFUSED)


@pytest.mark.parametrize(
    ("rule", "claim"),
    [(knowing_the_current_alone, REFUSED), (ending_what_is_ahead, REFUSED), (never_healing, BELIEVED)],
)
def test_rule_that_fails_an_owner(rule: Rule, claim: str) -> None:
    """A rule that ends what it does not know, as textbooks do, signs an owner out once commits are lost."""
    refute(explore(replace(ONE_BY_ONE, rule=rule)), claim)


def test_page_that_rotates() -> None:
    """A render that is judged as a refresh signs an owner out, for nobody brings the child to the browser."""
    refute(explore(replace(ONE_BY_ONE, back=0, render=decide)), REFUSED)


def test_thief(report: Report) -> None:
    """Whoever holds a copy: after either has refreshed, the other is found out, or its token is ahead."""
    found = explore(THIEF)
    hold(found, report, "strict mode, lost commits, thief")
    assert found.outcomes.keys() == {Outcome.ROTATE, Outcome.CONFIRM, Outcome.AHEAD, Outcome.REUSE}


@pytest.mark.parametrize("rule", [accepting_siblings, believing_the_next, serving_what_is_ahead, always_healing])
def test_rule_that_lets_two_advance(rule: Rule) -> None:
    """A rule that takes a dead sibling, or what is ahead without healing or without moving to it, is found."""
    refute(explore(replace(THIEF, rule=rule)), ADVANCED)


FULL = {
    "strict mode, lost commits, thief with two tokens": replace(THIEF, thief_tokens=2),
    "strict mode, lost commits, thief, two in flight": replace(THIEF, in_flight=2, back=2),
    "strict mode, lost commits, thief and crashes": replace(THIEF, crashes=True),
}


def test_large_worlds(prove: bool, report: Report) -> None:
    """The same with a thief who keeps more, and an owner of whom more can be lost."""
    for what, world in FULL.items() if prove else []:
        hold(explore(world), report, what)
