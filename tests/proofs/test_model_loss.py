"""Both guarantees while the database loses commits and heals: what still holds, and rules for which it does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from keyturn.core.model import PresentedToken, Session
from keyturn.core.policy import CRASH_LOSS, REQUEST_LIMIT, Policy
from keyturn.core.rotation import Outcome, decide
from keyturn.tokens.refresh_token import RefreshTokens
from tests.proofs.model_loss import BELIEVED, FIRST, TURNS, LossyWorld, explore
from tests.proofs.rows import (
    CONTACT,
    Rule,
    accepting_siblings,
    always_healing,
    believing_at_once,
    believing_the_next,
    ending_what_is_ahead,
    never_healing,
    rendering,
    rendering_unseen,
    rendering_without_healing,
    rotating_in_the_tail,
    row,
    serving_what_is_ahead,
    skipping_a_generation,
)
from tests.proofs.ruling import NOW
from tests.proofs.support import Report, hold, refute
from tests.proofs.world import ADVANCED, REFUSED, finest


@pytest.mark.parametrize(("limit", "loss"), [(1, 0), (1, 1)])
def test_settle_time_at_its_bound(limit: int, loss: int) -> None:
    """Lost commits ask for no more than 3L + F and for no tail, with healing switched on and off at any moment."""
    bound = 3 * limit + loss

    def world(settle: int) -> LossyWorld:
        return LossyWorld(settle=settle, tail=0, request_limit=limit, crash_loss=loss)

    found = explore(world(bound + 1))
    assert found.complete
    assert found.outcomes.keys() == {Outcome.ROTATE, Outcome.EARLY, Outcome.CONFIRM, Outcome.AHEAD}
    refute(explore(world(bound)), REFUSED)


@pytest.mark.parametrize(
    ("rule", "claim"),
    [
        (believing_at_once, REFUSED),
        (ending_what_is_ahead, REFUSED),
        (never_healing, BELIEVED),
        (skipping_a_generation, FIRST),
    ],
)
def test_rule_that_fails_an_owner(rule: Rule, claim: str) -> None:
    """A rule that believes what has not settled, or ends what is ahead, signs an owner out: the model can fail."""
    refute(explore(LossyWorld(settle=4, crash_loss=0, crashes=False, rule=rule)), claim)


THIEF = LossyWorld(settle=4, crash_loss=0, crashes=False, thief=True, thief_tokens=1, in_flight=1)


def test_thief(report: Report) -> None:
    """Once one has advanced, the other gets further only by a token ahead, while healing, and then the first does not.

    It gets no page either, but for such a token, however seldom it refreshes.
    """
    found = explore(replace(THIEF, render=rendering))
    hold(found, report, "lost commits, thief")
    assert found.outcomes.keys() == set(Outcome) - {Outcome.ENDED}


@pytest.mark.parametrize(
    ("rule", "claim"),
    [
        (accepting_siblings, ADVANCED),
        (rotating_in_the_tail, ADVANCED),
        (serving_what_is_ahead, ADVANCED),
        (believing_the_next, ADVANCED),
        (always_healing, ADVANCED),
        (skipping_a_generation, TURNS),
    ],
)
def test_rule_that_lets_two_advance(rule: Rule, claim: str) -> None:
    """A rule that takes a dead sibling, or a token ahead, without moving to it lets both holders go on."""
    refute(explore(replace(THIEF, owner_alone=rule is not skipping_a_generation, rule=rule)), claim)


def test_pages(report: Report) -> None:
    """Server-side renders sign no owner out, healing or not; a render that does not heal, or ends no session, is found."""
    pages = LossyWorld(settle=4, crash_loss=0, crashes=False, render=rendering)
    hold(explore(pages), report, "lost commits, pages")
    refute(explore(replace(pages, settle=3)), REFUSED)
    refute(explore(replace(pages, render=rendering_without_healing)), BELIEVED)
    refute(explore(replace(THIEF, render=rendering_unseen)), ADVANCED)


def test_owner_ahead_of_a_thief() -> None:
    """The limit of it: a thief whose token the loss has brought back is served, while the owner is ahead and not believed.

    Both hold the current token. The owner goes on by three generations, and the thief keeps a sibling, which is dead.
    All three are lost, and the sibling confirms. Without healing the owner is behind for as long as the thief shows
    nothing but that; with the thief's next advance it is found out, and with healing the thief is.
    """
    policy, mint = Policy(), RefreshTokens({1: bytes(32)}, 1).minter(bytes(16))

    def judged(
        session: Session | None, token: PresentedToken, *, healing: bool = False
    ) -> tuple[Outcome, Session | None]:
        made = decide(session, token, NOW + 900.0, policy, contact=CONTACT, mint=mint, healing=healing)
        return made.outcome, made.session

    restored = row(bytes(32), NOW)
    sibling = PresentedToken(restored.id, 1, NOW, restored.fingerprint, b"1" * 32)
    owners = PresentedToken(restored.id, 3, NOW, b"2" * 8, b"3" * 32)
    outcome, taken = judged(restored, sibling)
    assert outcome is Outcome.CONFIRM
    assert taken is not None
    assert [judged(taken, token)[0] for token in (owners, sibling, owners)] == ["ahead", "rotate", "ahead"]
    next_of_thief = PresentedToken(restored.id, 2, NOW, taken.fingerprint, b"4" * 32)
    assert judged(judged(taken, next_of_thief)[1], owners)[0] is Outcome.REUSE
    outcome, healed = judged(taken, owners, healing=True)
    assert outcome is Outcome.CONFIRM
    assert {judged(healed, token, healing=True)[0] for token in (sibling, next_of_thief)} == {Outcome.REUSE}


FULL = {
    "lost commits that come back, L 1, F 0": LossyWorld(settle=4, crash_loss=0, crashes=False, forth=True),
    "lost commits, L 1, F 3": LossyWorld(settle=7),
    "lost commits, shipped policy, ticks of 5 s": finest(LossyWorld, Policy(), REQUEST_LIMIT, CRASH_LOSS, 5),
    "lost commits, four generations": LossyWorld(settle=7, back=4),
    "lost commits, three in flight, three lost writes": LossyWorld(settle=7, in_flight=3, writes=3),
    "lost commits, ticks of L/2": LossyWorld(settle=13, tail=2, request_limit=2, crash_loss=6, writes=3),
    "lost commits that come back, L 1, F 3": LossyWorld(settle=7, forth=True),
    "lost commits, thief, two in flight": replace(THIEF, in_flight=2),
    "lost commits, thief and crashes": replace(THIEF, settle=5, crash_loss=1, crashes=True),
    "lost commits, thief, four generations": replace(THIEF, settle=2, owner_alone=False, back=4),
    "lost commits that come back, thief": replace(THIEF, forth=True),
    "lost commits, pages, L 1, F 3": LossyWorld(settle=7, render=rendering),
    "lost commits, pages, thief, two in flight": replace(THIEF, in_flight=2, render=rendering),
}


def test_large_worlds(prove: bool, report: Report) -> None:
    """The same with more that can be lost, and states that come back; the smallest of them by default."""
    for what, world in FULL.items() if prove else list(FULL.items())[:1]:
        hold(explore(world), report, what)
