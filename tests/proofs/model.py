"""An explicit-state model of a browser, a network, a thief and the real `decide`, explored without gaps.

Owns: the states, what may happen in each, and what must never happen. Must not hold: a rule of its own about tokens;
every judgement and every new row comes from the rule under test.

A state holds no absolute time and no token text. A token is what it is to the row (current, previous, sibling of the
current one, dead) or, for a child of the current token, a number with an age; children that stand in the same places
are interchangeable and are numbered alike. So the reachable states are finite, and all of them are visited.

A database that loses commits has a model of its own beside this one: a token that is ahead has no name here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from keyturn.core.rotation import Outcome
from tests.proofs.explorer import Exploration, Forbidden, search
from tests.proofs.ruling import CURRENT, FIRST_CHILD, PREVIOUS, Judge, Ruling
from tests.proofs.world import (
    ADVANCED,
    BOTH,
    NOBODY,
    OWNER,
    REFUSED,
    THIEF,
    WAITS,
    Browser,
    Message,
    World,
    arrivals,
    clock_steps,
    grown,
    kept,
    landings,
    patience,
    reads,
)


class State(NamedTuple):
    """Everything that can matter for what happens next."""

    confirmed_age: int
    """By the database's clock; negative: confirmed while that was ahead."""
    browser: Browser
    ages: tuple[int, ...]
    """Of each child of the current token, in ticks of the database's clock; negative: made while that was ahead."""
    holders: tuple[int, ...]
    """Of each child: who ever held it."""
    current_holder: int
    stolen: tuple[int, ...] | None
    """The thief's tokens; None: nothing is stolen yet."""
    advanced: int
    """Who, after the copy, confirmed a token that the other never held."""
    ahead: int
    """Ticks by which the database's clock is ahead of the right time."""


class Model:
    """The transitions of one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.judge = Judge(world.rule, world.policy, world.tick)
        self.outcomes: dict[str, int] = {}

    def steps(self, state: State) -> Iterator[tuple[str, State]]:
        """Yield everything that can happen next.

        Raises: Forbidden: one of them must never happen.
        """
        world, browser = self.world, state.browser
        for step, after in reads(world, browser):
            yield step, state._replace(browser=after)
        for request, rest in arrivals(browser):
            yield "a request is lost", state._replace(browser=rest)
            yield from self._arrive(state._replace(browser=rest), request)
        for step, after in landings(world, browser, _name):
            yield step, state._replace(browser=after)
        if world.thief:
            yield from self._steal(state)
        for step, by in clock_steps(world, state.ahead):
            yield step, self._age(state._replace(ahead=state.ahead + by), by)
        yield "time passes", self._age(state._replace(browser=grown(world, browser)), 1)

    def _arrive(self, state: State, request: Message) -> Iterator[tuple[str, State]]:
        outcome, after, child = self._present(state, request.token, OWNER)
        if outcome not in (Outcome.REUSE, Outcome.ENDED):
            answered = after.browser.answered(request, child)
            yield f"the server answers {outcome} to {_name(request.token)}", after._replace(browser=answered)

    def _present(self, state: State, token: int, who: int) -> tuple[Outcome, State, int | None]:
        """Let the server judge a token; return the outcome, the state with tokens named anew, and the child."""
        index = token - FIRST_CHILD
        age = state.ages[index] if index >= 0 else 0
        ruling = self.judge(token, age, state.confirmed_age)
        outcome = ruling.outcome
        step = f"the server answers {outcome} to {_name(token)} of the {'owner' if who == OWNER else 'thief'}"
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        self._wait(outcome, token, age, state.confirmed_age, step)
        if self.world.owner_alone and state.stolen is None and outcome in (Outcome.REUSE, Outcome.AHEAD, Outcome.ENDED):
            raise Forbidden(REFUSED, step)
        other_has_advanced = state.advanced not in (NOBODY, who)
        if other_has_advanced and outcome is not Outcome.REUSE:
            parent_in_tail = token == PREVIOUS and outcome is Outcome.TAIL and ruling.minted is None
            if not parent_in_tail or abs(state.confirmed_age) >= self.world.tail:
                raise Forbidden(ADVANCED, step)
        advanced, holder = state.advanced, state.current_holder
        if ruling.moved:
            holder = state.holders[index] if index >= 0 else holder
            if state.stolen is not None and holder == who:
                advanced = who
        after = self._rename(state, ruling, token)._replace(advanced=advanced, current_holder=holder)
        if ruling.minted is None:
            return outcome, after, None
        child = ruling.minted
        if child >= FIRST_CHILD:
            child = FIRST_CHILD + len(after.ages)
            after = after._replace(ages=(*after.ages, 0), holders=(*after.holders, who))
        elif child == CURRENT:
            after = after._replace(current_holder=who)
        return outcome, after, child

    def _wait(self, outcome: Outcome, token: int, age: int, confirmed_age: int, step: str) -> None:
        """Require that what is early, or in the tail, is so no more when that has gone by and the clock was not set."""
        longest = patience(self.world, outcome)
        if longest is not None and self.judge(token, age + longest, confirmed_age + longest).outcome is outcome:
            raise Forbidden(WAITS, step)

    def _rename(self, state: State, ruling: Ruling, presented: int) -> State:
        """Name every token by what it is to the new row."""
        if not ruling.moved:
            return state

        def name(token: int) -> int:
            if token == presented:
                return ruling.presented if presented >= FIRST_CHILD else ruling.standings[token]
            return ruling.standings[min(token, FIRST_CHILD)]

        assert FIRST_CHILD not in ruling.standings, "no old token is a child of a token made current later"
        return state._replace(
            confirmed_age=0,
            browser=state.browser.renamed(name),
            ages=(),
            holders=(),
            stolen=None if state.stolen is None else tuple(name(token) for token in state.stolen),
        )

    def _steal(self, state: State) -> Iterator[tuple[str, State]]:
        if state.stolen is None:
            holders, current_holder, jar = list(state.holders), state.current_holder, state.browser.jar
            if jar >= FIRST_CHILD:
                holders[jar - FIRST_CHILD] = BOTH
            elif jar == CURRENT:
                current_holder = BOTH
            copied = state._replace(stolen=(jar,), holders=tuple(holders), current_holder=current_holder)
            yield f"a thief copies {_name(jar)}", copied
            return
        for token in set(state.stolen):
            outcome, after, child = self._present(state, token, THIEF)
            if outcome in (Outcome.REUSE, Outcome.ENDED):
                continue
            step = f"the thief is answered {outcome} to {_name(token)}"
            yield step, after
            if child is None:
                continue
            assert after.stolen is not None
            for how, stolen in kept(self.world, after.stolen, child):
                yield step + how, after._replace(stolen=stolen)

    def _age(self, state: State, by: int) -> State:
        """Let the database's clock move: from some age on a token's standing is the same, however far it is set back."""
        oldest, longest = (self.world.oldest(enough, state.ahead) for enough in (self.world.settle, self.world.tail))
        return state._replace(
            confirmed_age=min(state.confirmed_age + by, longest),
            ages=tuple(min(age + by, oldest) for age in state.ages),
        )

    def start(self) -> State:
        """Return a row that was confirmed long ago, and a jar that holds its token."""
        world, ahead = self.world, self.world.ahead_at_first
        holder, longest = OWNER if world.thief else NOBODY, world.oldest(world.tail, ahead)
        return State(longest, Browser(CURRENT), (), (), holder, None, NOBODY, ahead)

    def canonical(self, state: State) -> State:
        """Forget children that are nowhere, and number the others by where they stand: their names mean nothing."""
        places = {token: at for token, at in state.browser.places().items() if token >= FIRST_CHILD}
        stolen = state.stolen
        for token in stolen or ():
            if token >= FIRST_CHILD:
                places.setdefault(token, []).append((4,))
        ages, holders = state.ages, state.holders
        order = sorted(places, key=lambda t: (ages[t - FIRST_CHILD], holders[t - FIRST_CHILD], sorted(places[t])))
        names = list(range(FIRST_CHILD + len(ages)))
        for i, token in enumerate(order, FIRST_CHILD):
            names[token] = i
        name = names.__getitem__
        return State(
            state.confirmed_age,
            state.browser.renamed(name),
            tuple([ages[t - FIRST_CHILD] for t in order]),
            tuple([holders[t - FIRST_CHILD] for t in order]),
            state.current_holder,
            None if stolen is None else tuple(sorted(map(name, stolen))),
            state.advanced,
            state.ahead,
        )


def _name(token: int) -> str:
    return ("current", "previous", "sibling", "dead")[token] if token < FIRST_CHILD else f"child {token - FIRST_CHILD}"


def explore(world: World) -> Exploration:
    """Visit every reachable state of a world."""
    return search(Model(world))
