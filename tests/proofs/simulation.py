"""Owners alone, and thieves with a plan: `python -m tests.proofs.simulation` prints the table.

Owns: the thieves, the runs and their report. Must not hold: how a browser behaves (`browser.py`), a rule about tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import count
from math import inf
from statistics import median
from typing import NamedTuple

from keyturn.core.model import PresentedToken
from keyturn.core.policy import DAY, HOUR, Policy, Rotation
from keyturn.core.rotation import Outcome, decide
from tests.proofs.browser import REFUSED, Browser, Server, Tally, Weather, World
from tests.proofs.rows import Rule, giving_one_successor


class Thief:
    """Somebody with a copy of the jar, a perfect network and a plan."""

    def __init__(self, world: World, server: Server, browser: Browser, settle_time: float) -> None:
        self._world = world
        self._server = server
        self._browser = browser
        self._settle_time = settle_time
        self.parent = self.newest = browser.jar
        self.stolen_at = world.now
        self.found = False
        self.gave_up = False
        self.served = 0

    def present(self, token: PresentedToken) -> Outcome | None:
        """Show a token; None: it is all over."""
        if self.found or self._browser.exposed or self.gave_up:
            return None
        decision, child = self._server.refresh(token)
        if decision.outcome in REFUSED:
            self.found = True
            return None
        self.served += 1
        if child is not None:
            self.newest = child
        return decision.outcome

    def every(self, seconds: float, act: Callable[[], object]) -> None:
        """Act at a fixed pace, from a random moment on."""

        def again() -> None:
            act()
            self._world.after(seconds, again)

        self._world.after(self._world.random.uniform(0, seconds), again)

    def use_newest(self) -> None:
        """Refresh as a browser would."""
        self.present(self.newest)

    def follow(self) -> None:
        """Refresh 5 s after each refresh of the owner."""
        self._browser.on_refresh = lambda: self._world.after(5.0, self.use_newest)

    def poll_parent(self) -> None:
        """Ask with the parent whether it still is current; present the own child as soon as it is old enough."""
        ripe = self.newest is not self.parent and self._world.now - self.newest.issued_at >= self._settle_time
        if not ripe:
            held = self.newest
            self.present(self.parent)
            # The first child is the oldest, so it is the one to keep.
            self.newest = self.newest if held is self.parent else held
        elif self.present(self.newest) is Outcome.CONFIRM:
            self.parent = self.newest

    def poll_quietly(self) -> None:
        """Use the parent alone, and never come back once an answer without a cookie says that the owner has gone on."""
        if self.present(self.parent) is Outcome.TAIL:
            self.gave_up = True


PLANS: dict[str, Callable[[Thief], None]] = {
    "same pace as the owner": lambda thief: thief.every(600.0, thief.use_newest),
    "lazy: every 8 h": lambda thief: thief.every(8 * HOUR, thief.use_newest),
    "every 60 s": lambda thief: thief.every(60.0, thief.use_newest),
    "every 5 s": lambda thief: thief.every(5.0, thief.use_newest),
    "5 s after the owner": Thief.follow,
    "oracle: polls the parent every 5 s": lambda thief: thief.every(5.0, thief.poll_parent),
}
QUIET = "quiet oracle: gives up when the owner goes on"
QUIET_PLAN: Callable[[Thief], None] = lambda thief: thief.every(5.0, thief.poll_quietly)  # noqa: E731


def set_back(world: World, server: Server, ahead: float) -> None:
    """Let the server's clock begin that far ahead, and be set back by some part of it every few hours."""
    server.ahead = ahead

    def again() -> None:
        server.ahead *= world.random.random()
        world.after(world.random.expovariate(1 / (6 * HOUR)), again)

    world.after(world.random.expovariate(1 / (6 * HOUR)), again)


def owner_alone(
    refreshes: int,
    *,
    seed: str = "owner",
    policy: Policy | None = None,
    rule: Rule = decide,
    days: float = 10.0,
    ahead: float = 0.0,
) -> Tally:
    """Run browser after browser, each for some days, until there were enough refreshes. Args: ahead: see `set_back`."""
    tally, policy = Tally(), policy or Policy()
    for number in count():
        if tally.refreshes >= refreshes:
            return tally
        world = World(f"{seed} {number}")
        start = world.now
        server = Server(world, policy, rule)
        if ahead:
            set_back(world, server, ahead)
        Browser(world, server, Weather(), tally)
        world.run(start + days * DAY, lambda: tally.refreshes >= refreshes)
        tally.days += (world.now - start) / DAY
    raise AssertionError


class Chase(NamedTuple):
    """What became of one theft."""

    seconds: float
    """From the copy to the end of the session; infinite: never."""
    served: int
    """Answers with an access token that the thief got."""
    gave_up: bool


def chase(
    plan: Callable[[Thief], None], seed: str, *, rule: Rule = decide, days: float = 7.0, ahead: float = 0.0
) -> Chase:
    """Let a thief copy the jar at a random moment of a browser's life, and follow the plan.

    Args: ahead: seconds by which the server's clock is ahead until then, when it is set right.
    """
    world, policy, tally = World(seed), Policy(), Tally()
    server = Server(world, policy, rule)
    server.ahead = ahead
    browser = Browser(world, server, Weather(), tally, alone=False)
    world.run(world.now + world.random.uniform(HOUR, 3 * HOUR), lambda: False)
    assert not browser.exposed
    thief = Thief(world, server, browser, policy.settle_time)
    server.ahead = 0.0
    plan(thief)
    world.run(thief.stolen_at + days * DAY, lambda: browser.exposed or thief.found or thief.gave_up)
    detected = browser.exposed or thief.found
    return Chase(world.now - thief.stolen_at if detected else inf, thief.served, thief.gave_up)


def describe(name: str, chases: list[Chase]) -> str:
    """Put the chases of one plan into a line."""
    times = sorted(c.seconds for c in chases if c.seconds < inf)
    share = 100 * len(times) / len(chases)
    spread = f"median {median(times):7.0f} s, longest {times[-1]:7.0f} s" if times else "-"
    served = f"served {median(c.served for c in chases):g} times (median)"
    quiet = sum(c.gave_up for c in chases)
    return f"{name:46} detected {share:5.1f} % of {len(chases)}: {spread}, {served}" + f", {quiet} gave up" * bool(
        quiet
    )


def describe_owner(name: str, tally: Tally) -> str:
    """Put a run without a thief into a line."""
    outcomes = ", ".join(f"{name} {number}" for name, number in sorted(tally.outcomes.items()))
    per_month = tally.false_logouts / (tally.days / 30)
    return (
        f"{name}: {tally.refreshes} refreshes and {tally.renders} renders in {tally.days:.0f} browser days, "
        f"{tally.crashes} crashes ({tally.cookies_lost} rolled the jar back): "
        f"{tally.false_logouts} false logouts ({per_month:.2f} per session-month); {outcomes}"
    )


def main(refreshes: int = 1_000_000, thefts: int = 200) -> None:
    """Print the table."""

    def say(line: str) -> None:
        print(line, flush=True)  # noqa: T201

    say(describe_owner("confirmed rotation", owner_alone(refreshes)))
    strict = Policy(rotation=Rotation.STRICT)
    say(describe_owner("strict rule       ", owner_alone(refreshes // 50, policy=strict)))
    for name, plan in (PLANS | {QUIET: QUIET_PLAN}).items():
        say(describe(name, [chase(plan, f"{name} {n}") for n in range(thefts)]))
    say("with a rule that gives all children of a token as one (the thief's copy stays good), in 2 days:")
    for name in ("every 60 s", "5 s after the owner"):
        chases = [
            chase(PLANS[name], f"{name} {n}", rule=giving_one_successor, days=2.0) for n in range(max(1, thefts // 10))
        ]
        say(describe(name, chases))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
