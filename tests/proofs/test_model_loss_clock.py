"""Both guarantees while the database loses commits and its clock is wrong as well, and the one thing that both together do."""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from keyturn.core.rotation import Outcome
from keyturn.stores.sql import SqlSessions
from keyturn.testing import FrozenClock, sign_in
from tests.databases import sqlite_database
from tests.proofs.model_loss import LossyWorld, explore
from tests.proofs.rows import (
    Rule,
    believing_at_once,
    confirming_at_once,
    leaving_the_tail_open,
    rendering,
    serving_what_is_ahead,
    taking_what_is_ahead_for_its_parent,
    waiting_for_the_clock,
)
from tests.proofs.support import Report, hold, refute
from tests.proofs.world import ADVANCED, REFUSED, WAITS
from tests.stores.support import open_database

ALONE = LossyWorld(settle=4, crash_loss=0, crashes=False)
BACK = replace(ALONE, ahead=1, set_back=True)
TO_AND_FRO = replace(ALONE, ahead=1, set_back=True, jumps=True)
THIEF = replace(TO_AND_FRO, settle=1, request_limit=0, in_flight=1, thief=True, thief_tokens=1, owner_alone=False)


def test_clock_that_is_set_back(report: Report) -> None:
    """A clock that is only set back, and lost commits, ask for no more than 3L + F between them, and for no tail."""
    world = replace(BACK, ahead=2, tail=0)
    found = explore(world)
    hold(found, report, "lost commits, clock set back")
    assert found.outcomes.keys() == {Outcome.ROTATE, Outcome.EARLY, Outcome.CONFIRM, Outcome.AHEAD}
    refute(explore(replace(world, settle=3)), REFUSED)


@pytest.mark.parametrize("world", [TO_AND_FRO, replace(TO_AND_FRO, set_back=False)])
def test_clock_that_jumps_ahead(world: LossyWorld) -> None:
    """The settle time has to be longer by what the clock may jump, and by no more where commits are lost besides."""
    assert explore(replace(world, settle=5)).complete
    refute(explore(world), REFUSED)


@pytest.mark.parametrize(
    ("rule", "claim"),
    [
        (waiting_for_the_clock, WAITS),
        (confirming_at_once, REFUSED),
        (believing_at_once, REFUSED),
        (taking_what_is_ahead_for_its_parent, REFUSED),
    ],
)
def test_rule_that_fails_an_owner(rule: Rule, claim: str) -> None:
    """A rule that goes by the wrong time, or takes for its parent what is ahead and from the future, is found."""
    refute(explore(replace(BACK, rule=rule)), claim)


def test_thief(report: Report) -> None:
    """Whatever the clock does and the database loses, two holders never both go on: that takes no settle time."""
    found = explore(THIEF)
    hold(found, report, "lost commits, clock to and fro, thief")
    assert found.outcomes.keys() == set(Outcome) - {Outcome.ENDED}


@pytest.mark.parametrize("rule", [leaving_the_tail_open, serving_what_is_ahead])
def test_rule_that_lets_two_advance(rule: Rule) -> None:
    """A rule whose tail lasts until a wrong time comes, or that gives a child for what is ahead, is found."""
    refute(explore(replace(THIEF, rule=rule)), ADVANCED)


def test_clock_that_is_set_back_by_more_than_the_settle_time(report: Report) -> None:
    """The limit of both together: then an owner is signed out where a commit is lost and comes back, and only there."""
    world = replace(BACK, settle=2, in_flight=1, back=1, forth=True)
    hold(explore(replace(world, ahead=2)), report, "lost commits that come back, clock set back by S, one in flight")
    refute(explore(replace(world, ahead=3)), REFUSED)
    assert explore(replace(world, ahead=3, forth=False)).complete


@asynccontextmanager
async def server(directory: Path, clock: FrozenClock) -> AsyncGenerator[SqlSessions]:
    """Run a store over the database in a directory."""
    async with open_database(sqlite_database(directory)) as engine:
        store = SqlSessions(engine, denylist_lifetime=610.0, heal_time=900.0, clock=clock)
        yield store
        await store.close()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("difference", "meanwhile", "outcome"),
    [(60.0, Outcome.EARLY, Outcome.ROTATE), (120.0, Outcome.ROTATE, Outcome.REUSE)],
)
async def test_failover_there_and_back(tmp_path: Path, difference: float, meanwhile: Outcome, outcome: Outcome) -> None:
    """The model's way to it, in seconds, over the real store and two copies of one file.

    A first server confirms the browser's token 60 s after it was made, and the answer is lost. A second one has not seen
    that commit, and its clock is behind the other's by so much that the token is from the future there: it is answered
    as its parent, with a new child of that. For the first server, when it takes over again, that is a dead sibling.
    """
    first, second, clock = tmp_path / "first", tmp_path / "second", FrozenClock()
    first.mkdir()
    async with server(first, clock) as store:
        browser = await (await sign_in(store)).child()
    shutil.copytree(first, second)
    clock.advance(60.0)
    async with server(first, clock) as store:
        assert (await browser.copy(store).refresh()).outcome is Outcome.CONFIRM
    async with server(second, FrozenClock(clock.now - difference)) as store:
        browser = browser.copy(store)
        assert (await browser.refresh()).outcome is meanwhile
    async with server(first, clock) as store:
        assert (await browser.copy(store).refresh()).outcome is outcome


FULL = {
    "lost commits that come back, clock to and fro": replace(TO_AND_FRO, settle=5, forth=True),
    "lost commits that come back, clock set back by S": replace(BACK, ahead=4, forth=True),
    "lost commits, clock set back by more than S": replace(BACK, ahead=6),
    "lost commits, clock set back by more than S, three generations": replace(BACK, ahead=5, back=3),
    "lost commits, clock set back, L 1, F 3": LossyWorld(settle=7, ahead=1, set_back=True),
    "lost commits, clock to and fro, L 1, F 1": replace(TO_AND_FRO, settle=6, crash_loss=1, crashes=True),
    "lost commits, clock set back by more than S, thief": replace(THIEF, request_limit=1, ahead=2, jumps=False),
    "lost commits, clock to and fro by S, pages, thief": replace(
        THIEF, settle=2, request_limit=1, ahead=2, render=rendering
    ),
}


def test_large_worlds(prove: bool, report: Report) -> None:
    """The same with more that can be lost and farther steps."""
    for what, world in FULL.items() if prove else []:
        hold(explore(world), report, what)
