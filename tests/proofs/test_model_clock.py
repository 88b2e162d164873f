"""Both guarantees while the database's clock is set back or jumps ahead, and what each of them needs then."""

from __future__ import annotations

import pytest

from keyturn.core.rotation import Outcome
from tests.proofs.model import explore
from tests.proofs.rows import Rule, confirming_at_once, leaving_the_tail_open, waiting_for_the_clock
from tests.proofs.support import Report, hold, refute
from tests.proofs.world import REFUSED, WAITS, World


@pytest.mark.parametrize("loss", [0, 1])
def test_clock_that_is_set_back(loss: int, report: Report) -> None:
    """A clock that is only ever set back asks for no more than 3L + F, and for no tail: no child looks older than it is."""
    bound = 3 + loss

    def world(settle: int, tail: int = 1) -> World:
        return World(settle=settle, tail=tail, crash_loss=loss, ahead=2 - loss, set_back=True)

    hold(explore(world(bound + 1)), report, f"clock set back, L 1, F {loss}")
    assert explore(world(bound + 1, tail=0)).complete
    refute(explore(world(bound)), REFUSED)


@pytest.mark.parametrize(("loss", "ahead", "to_and_fro"), [(0, 1, True), (1, 1, True), (0, 2, False), (1, 1, False)])
def test_clock_that_jumps_ahead(loss: int, ahead: int, to_and_fro: bool) -> None:
    """A child looks older by what the clock has jumped: the settle time has to be longer by that, however often it jumps."""
    bound = 3 + loss + ahead

    def world(settle: int) -> World:
        return World(settle=settle, crash_loss=loss, ahead=ahead, jumps=True, set_back=to_and_fro)

    assert explore(world(bound + 1)).complete
    refute(explore(world(bound)), REFUSED)


def test_thief_while_the_clock_is_off(report: Report) -> None:
    """Whatever the clock does, two holders never both go on: that takes no settle time."""
    found = explore(World(settle=2, thief=True, crashes=False, ahead=1, set_back=True, jumps=True, owner_alone=False))
    hold(found, report, "thief, clock to and fro")
    assert found.outcomes.keys() >= {Outcome.REUSE, Outcome.TAIL}


@pytest.mark.parametrize(
    ("rule", "claim"), [(waiting_for_the_clock, WAITS), (leaving_the_tail_open, WAITS), (confirming_at_once, REFUSED)]
)
def test_rule_that_goes_by_the_wrong_time(rule: Rule, claim: str) -> None:
    """A rule that lets a child wait or a tail last until the wrong time comes, or a child confirm unsettled, is found."""
    refute(explore(World(settle=4, crash_loss=0, crashes=False, thief=True, ahead=3, set_back=True, rule=rule)), claim)


FULL = {
    "clock to and fro, L 1, F 0": World(settle=6, crash_loss=0, ahead=2, set_back=True, jumps=True),
    "clock set back, L 1, F 3": World(settle=7, ahead=3, set_back=True),
    "clock set back by more than S": World(settle=4, crash_loss=0, ahead=6, set_back=True),
    "clock to and fro, L 1, F 1": World(settle=7, crash_loss=1, ahead=2, set_back=True, jumps=True),
    "clock set back, thief": World(settle=4, crash_loss=0, crashes=False, thief=True, ahead=3, set_back=True),
    "clock to and fro by S, thief": World(
        settle=2, thief=True, crashes=False, ahead=2, set_back=True, jumps=True, owner_alone=False
    ),
}


def test_large_worlds(prove: bool, report: Report) -> None:
    """The same with more that can be lost and farther steps; the smallest of them by default."""
    for what, world in FULL.items() if prove else list(FULL.items())[:1]:
        hold(explore(world), report, what)
