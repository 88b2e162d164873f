"""Both guarantees, in every reachable state; and worlds and rules that break them, to show that the model can fail."""

from __future__ import annotations

import pytest

from keyturn.core.model import PresentedToken
from keyturn.core.policy import CRASH_LOSS, REQUEST_LIMIT, SETTLE_FLOOR, TAIL_FLOOR, Policy, Rotation
from keyturn.core.rotation import Outcome, decide
from keyturn.tokens.refresh_token import RefreshTokens
from tests.proofs.explorer import Exploration
from tests.proofs.model import explore
from tests.proofs.rows import CONTACT, Rule, accepting_siblings, rotating_in_the_tail, row
from tests.proofs.ruling import NOW
from tests.proofs.support import Report, hold, refute
from tests.proofs.world import ADVANCED, REFUSED, World, finest

GRIDS = [(1, 0), (1, 1), (1, 2), (1, 3), (2, 1)]
"""(L, F) in ticks."""


def test_shipped_numbers_without_a_thief(report: Report) -> None:
    """Tabs, losses, disorder and crashes never sign an owner out with the numbers we ship."""
    found = explore(finest(World, Policy(), REQUEST_LIMIT, CRASH_LOSS, 5))
    hold(found, report, "shipped policy, ticks of 5 s")
    assert found.outcomes.keys() >= {Outcome.ROTATE, Outcome.EARLY, Outcome.CONFIRM}


@pytest.mark.parametrize(("limit", "loss"), GRIDS)
def test_settle_time_at_its_bound(limit: int, loss: int) -> None:
    """With bounds taken inclusively, 3L + F is one tick too short and 3L + F + 1 is enough: the inequality is exact."""
    bound = 3 * limit + loss
    for settle in range(bound - 2, bound + 1):
        refute(explore(World(settle=settle, tail=limit, request_limit=limit, crash_loss=loss)), REFUSED)
    assert explore(World(settle=bound + 1, tail=limit, request_limit=limit, crash_loss=loss)).complete


@pytest.mark.parametrize(("limit", "landing", "loss"), [(1, 2, 0), (1, 4, 0), (1, 3, 1), (2, 3, 0)])
def test_settle_time_where_answers_land_later_than_requests_are_given_up(limit: int, landing: int, loss: int) -> None:
    """When an answer may be A old, which the server cannot bound, the exact inequality is S > 2A + L + F."""
    bound = 2 * landing + limit + loss

    def found(settle: int) -> Exploration:
        return explore(World(settle=settle, tail=limit, request_limit=limit, landing_limit=landing, crash_loss=loss))

    assert found(bound).counterexample is not None
    assert found(bound + 1).complete


def test_settle_floor() -> None:
    """The floor that the policy enforces is the model's bound, and what is shipped stands on it."""
    assert SETTLE_FLOOR == 3 * REQUEST_LIMIT + CRASH_LOSS
    assert Policy().settle_time >= SETTLE_FLOOR
    assert Policy().tail_time >= TAIL_FLOOR >= REQUEST_LIMIT


def test_settle_time_of_two_l_and_f() -> None:
    """With L = 15 s and F = 30 s, S = 2L + F = 60 s signs an owner out; 3L + F = 75 s does not.

    The model's way to it, in seconds. Two tabs refresh with the same cookie. The first child is made at 0 and lands at
    14; the second tab has read the old cookie just before, is served at once, and its child lands at 28, over the
    first. A tab reads the second child at 57. The browser crashes and loses the writes of the last 29.5 s, so the jar
    holds the first child again, which is presented at 60. The request of 57 outlives its browser and arrives at 61.
    """

    def judged(settle_time: float) -> tuple[Outcome, Outcome]:
        policy = Policy(settle_time=settle_time, access_lifetime=600.0)
        current = row(bytes(32), NOW)
        first = PresentedToken(current.id, 1, NOW, current.fingerprint, b"1" * 32)
        second = first._replace(issued_at=NOW + 14, token_hash=b"2" * 32)
        mint = RefreshTokens({1: bytes(32)}, 1).minter(bytes(16))
        confirmed = decide(current, first, NOW + 60.0, policy, contact=CONTACT, mint=mint)
        late = decide(confirmed.session, second, NOW + 61.0, policy, contact=CONTACT, mint=mint)
        return confirmed.outcome, late.outcome

    assert judged(60.0) == (Outcome.CONFIRM, Outcome.REUSE)
    assert judged(75.0) == (Outcome.EARLY, Outcome.EARLY)


def test_requests_that_die_with_their_browser() -> None:
    """If no request outlived its browser, a crash would cost nothing up to F = 2L: the bound is then 3L."""
    assert explore(World(settle=4, crash_loss=2, orphans=False)).complete
    assert explore(World(settle=3, crash_loss=2, orphans=False)).counterexample is not None


def test_no_settle_time() -> None:
    """Without the settle time two tabs are enough for a false logout: the model can fail."""
    refute(explore(World(settle=0, crashes=False)), REFUSED)


def test_strict_mode() -> None:
    """The textbook rule signs out a browser with two tabs."""
    found = explore(World(settle=7, crashes=False, rotation=Rotation.STRICT))
    assert found.counterexample is not None
    assert len(found.counterexample.steps) <= 4


def test_no_tail() -> None:
    """The tail is a margin and no premise: while S keeps its bound, no straggler with the parent outlives it."""
    found = explore(World(settle=7, tail=0))
    assert found.complete
    assert Outcome.TAIL not in found.outcomes


def test_tail_of_a_straggler() -> None:
    """The tail takes in a straggler where S is broken: under S = 2L, one with the parent is refused only without it."""

    def refused(tail: int) -> bool:
        world = World(settle=2, tail=tail, crashes=False, in_flight=2)
        found = explore(world)
        assert found.counterexample is not None
        return found.counterexample.steps[-1] == "the server answers reuse to previous of the owner"

    assert refused(tail=0)
    assert not refused(tail=1)


def test_thief_in_any_window(report: Report) -> None:
    """A copy of the jar at any moment: after either has advanced, the other is found out or gets no further."""
    found = explore(World(settle=4, crash_loss=0, crashes=False, thief=True))
    hold(found, report, "thief")
    assert found.outcomes.keys() >= {Outcome.REUSE, Outcome.TAIL}


@pytest.mark.parametrize("rule", [accepting_siblings, rotating_in_the_tail])
def test_rule_that_lets_two_advance(rule: Rule) -> None:
    """A rule that takes a dead sibling, or gives a child in the tail, lets both holders go on: the model can fail."""
    refute(explore(World(settle=4, crash_loss=0, crashes=False, thief=True, rule=rule)), ADVANCED)


FULL = {
    "shipped policy, ticks of 2 s": finest(World, Policy(), REQUEST_LIMIT, CRASH_LOSS, 2),
    "three in flight, three lost writes": World(settle=7, in_flight=3, writes=3),
    "ticks of L/2": World(settle=13, tail=2, request_limit=2, crash_loss=6, writes=3),
    "thief and crashes": World(settle=7, thief=True),
    "thief, ticks of L/2": World(settle=7, tail=2, request_limit=2, crash_loss=0, crashes=False, thief=True),
    "thief, three in flight": World(settle=4, crash_loss=0, crashes=False, in_flight=3, thief=True),
    "thief with three tokens": World(settle=4, crash_loss=0, crashes=False, thief=True, thief_tokens=3),
}


def test_large_worlds(prove: bool, report: Report) -> None:
    """The same in finer time, with three in flight, and with a thief beside crashes; the smallest of them by default."""
    for what, world in FULL.items() if prove else [("ticks of L/2", FULL["ticks of L/2"])]:
        hold(explore(world), report, what)
