"""A model beside the first: the database loses commits, as often as it likes, and heals, or does not.

Owns: the states, what may happen in each, and what must never happen. Must not hold: a rule of its own about tokens;
every judgement and every new row comes from the rule under test.

A row that goes back makes dead tokens alive, and others ahead of it. So a token is not named by what it is to the row,
but has a generation and a parent, and a number by which rows and places know it. Numbers mean nothing, and only
differences of generations do: states that differ in no more are one. A token that no row, now or later, can know is
like any other of that kind. How many generations a loss may undo is bounded, so the reachable states are finite.

Healing may be switched on and off at any moment: whoever presents a token is judged both ways. A loss may come at any
moment and any number of times; what the answers on their way carry is not lost with it. A session that was found out
and revoked is left at that, although a loss may undo it: for all that follows, the requests since might have been lost.

In worlds that say so, the database's clock is wrong as well, a token is shown for a page as often as for a refresh, or
the rule is the strict one, by which a child is the row's current token from the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from keyturn.core.rotation import Outcome
from tests.proofs.explorer import Exploration, Forbidden, search
from tests.proofs.lineage import MINTED, NONE, Court, Row, Token, Verdict
from tests.proofs.rows import Rule
from tests.proofs.world import (
    ADVANCED,
    BOTH,
    NOBODY,
    OWNER,
    REFUSED,
    THIEF,
    WAITS,
    Browser,
    World,
    arrivals,
    clock_steps,
    grown,
    kept,
    landings,
    patience,
    reads,
)

BELIEVED = "while healing, a token that is ahead is believed, or early"
FIRST = "an owner alone shows nothing that is ahead once the row has gone on since the loss"
TURNS = (
    "once the row has gone on since the loss, an owner is believed once at most, a thief once for each token it keeps"
)
OVER = (Outcome.REUSE, Outcome.ENDED)


@dataclass(frozen=True)
class LossyWorld(World):
    """An environment in which the database may lose commits."""

    back: int = 2
    """The row goes back to no more than so many generations before the newest that it ever had."""
    forth: bool = False
    """It may also come back to a state that had been lost, as when the first server takes over again."""
    render: Rule | None = None
    """What judges a token that a render server shows; None: none does."""


class State(NamedTuple):
    """Everything that can matter for what happens next."""

    rows: tuple[Row, ...]
    """The row as it is, last, and as it may be again."""
    browser: Browser
    tokens: tuple[Token, ...]
    stolen: tuple[int, ...] | None
    """The thief's tokens; None: nothing is stolen yet."""
    gone_on: bool = True
    """The row has moved since commits were last lost."""
    turns: tuple[int, int] = (0, 0)
    """How often, after that, the owner, and the thief, were believed with a token that was ahead."""
    ahead: int = 0
    """Ticks by which the database's clock is ahead of the right time."""


class Model:
    """The transitions of one world."""

    def __init__(self, world: LossyWorld) -> None:
        self.world = world
        rules = {False: world.rule} if world.render is None else {False: world.rule, True: world.render}
        self.courts = {page: Court(rule, world.policy, world.tick) for page, rule in rules.items()}
        self.outcomes: dict[str, int] = {}

    def start(self) -> State:
        """Return a row that was confirmed long ago, and a jar that holds its token."""
        world, ahead = self.world, self.world.ahead_at_first
        first = Token(0, NONE, world.oldest(world.settle, ahead), OWNER)
        return State((Row(0, NONE, world.oldest(world.tail, ahead)),), Browser(0), (first,), None, ahead=ahead)

    def steps(self, state: State) -> Iterator[tuple[str, State]]:
        """Yield everything that can happen next.

        Raises: Forbidden: one of them must never happen.
        """
        world, browser = self.world, state.browser
        for step, after in reads(world, browser):
            yield step, state._replace(browser=after)
        for request, rest in arrivals(browser):
            yield "a request is lost", state._replace(browser=rest)
            for step, judged, child in self._present(state._replace(browser=rest), request.token, OWNER):
                yield step, judged._replace(browser=judged.browser.answered(request, child))
        for step, after in landings(world, browser, lambda token: _name(state, token)):
            yield step, state._replace(browser=after)
        if world.thief:
            yield from self._steal(state)
        for i, row in enumerate(state.rows[:-1]):
            others = state.rows[:i] + (state.rows[i + 1 :] if world.forth else ())
            yield f"the database goes back to {_name(state, row.current)}", self._back(state, (*others, row))
        for step, by in clock_steps(world, state.ahead):
            yield step, self._age(state._replace(ahead=state.ahead + by), by)
        yield "time passes", self._age(state._replace(browser=grown(world, browser)), 1)

    def _present(self, state: State, number: int, who: int) -> Iterator[tuple[str, State, int | None]]:
        """Let the server judge a token, for a refresh or a page; yield how, the state after, and the child."""
        row, token = state.rows[-1], state.tokens[number]
        generation = state.tokens[row.current].generation
        asks = f"the {'owner' if who == OWNER else 'thief'} is answered"
        for page, court in self.courts.items():
            shown = f"{_name(state, number)}{' for a page' if page else ''}"
            plain, healed = (court(row, generation, number, token, healing=healing) for healing in (False, True))
            if healed.outcome is Outcome.AHEAD:
                raise Forbidden(BELIEVED, f"{shown} is not believed while healing")
            for healing, verdict in [(False, plain)] if healed == plain else [(False, plain), (True, healed)]:
                outcome = verdict.outcome
                step = f"{asks} {outcome} to {shown}{' while healing' if healing else ''}"
                self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
                self._wait(court, state, number, outcome, healing=healing, step=step)
                self._require(state, number, who, verdict, healing=healing, step=step)
                if outcome not in OVER:
                    after, child = self._answer(state, number, verdict, who, step)
                    yield step, after, None if page else child

    def _wait(self, court: Court, state: State, number: int, outcome: Outcome, *, healing: bool, step: str) -> None:
        """Require that what is early, or in the tail, is so no more when that has gone by and the clock was not set."""
        row, token, longest = state.rows[-1], state.tokens[number], patience(self.world, outcome)
        if longest is None:
            return
        generation = state.tokens[row.current].generation
        if token.generation > generation + 1:
            longest -= min(token.age, 0)  # what is ahead and from the future waits for its time as well
        row, token = row._replace(confirmed_age=row.confirmed_age + longest), token._replace(age=token.age + longest)
        if court(row, generation, number, token, healing=healing).outcome is outcome:
            raise Forbidden(WAITS, step)

    def _require(self, state: State, number: int, who: int, verdict: Verdict, *, healing: bool, step: str) -> None:
        """Require of an answer what the claims say."""
        row, token, outcome = state.rows[-1], state.tokens[number], verdict.outcome
        current = state.tokens[row.current]
        ahead = token.generation > current.generation + 1
        if state.stolen is None:
            if self.world.owner_alone and (outcome in OVER or (ahead and state.gone_on)):
                raise Forbidden(REFUSED if outcome in OVER else FIRST, step)
        elif not current.holders & who and not (outcome is Outcome.REUSE and verdict.ended):
            nothing = verdict.child is None and verdict.row == row
            in_tail = outcome is Outcome.TAIL and number == row.previous and abs(row.confirmed_age) < self.world.tail
            believed = outcome is Outcome.CONFIRM and number in (verdict.row.current, verdict.row.previous)
            ahead_only = ahead and (nothing or believed if healing else nothing and outcome is Outcome.AHEAD)
            if not ((in_tail and nothing) or ahead_only):
                raise Forbidden(ADVANCED, step)

    def _answer(self, state: State, number: int, verdict: Verdict, who: int, step: str) -> tuple[State, int | None]:
        """Make the child, and write what the rule decided."""
        before, row, tokens, child = state.rows[-1], verdict.row, state.tokens, len(state.tokens)
        if verdict.child is not None:
            tokens = (*tokens, Token(*verdict.child, 0, who))
        if row.current == MINTED:
            row = row._replace(current=child)
        if row != before:
            newest, (owner, thief) = tokens[row.current].generation, state.turns
            ahead = tokens[number].generation > tokens[before.current].generation + 1
            if state.stolen is not None and state.gone_on and ahead:
                owner, thief = (owner + 1, thief) if who == OWNER else (owner, thief + 1)
                if owner > 1 or thief > self.world.thief_tokens:
                    raise Forbidden(TURNS, step)
            kept_rows = [other for other in state.rows if tokens[other.current].generation >= newest - self.world.back]
            state = state._replace(rows=(*kept_rows, row), gone_on=True, turns=(owner, thief))
        return state._replace(tokens=tokens), None if verdict.child is None else child

    def _back(self, state: State, rows: tuple[Row, ...]) -> State:
        return state._replace(rows=rows, gone_on=False, turns=(0, 0))

    def _steal(self, state: State) -> Iterator[tuple[str, State]]:
        if state.stolen is None:
            jar = state.browser.jar
            generation, parent = state.tokens[jar].generation, state.tokens[jar].parent
            rows = [row.current for row in state.rows if state.tokens[row.current].generation < generation]
            shared = {jar, parent, *rows}
            tokens = [t._replace(holders=BOTH) if n in shared else t for n, t in enumerate(state.tokens)]
            yield f"a thief copies {_name(state, jar)}", state._replace(tokens=tuple(tokens), stolen=(jar,))
            return
        for token in set(state.stolen):
            for step, after, child in self._present(state, token, THIEF):
                yield step, after
                if child is not None:
                    for how, stolen in kept(self.world, state.stolen, child):
                        yield step + how, after._replace(stolen=stolen)

    def _age(self, state: State, by: int) -> State:
        """Let the database's clock move: from some age on a token's standing is the same, however far it is set back."""
        oldest, longest = (self.world.oldest(enough, state.ahead) for enough in (self.world.settle, self.world.tail))
        return state._replace(
            rows=tuple([row._replace(confirmed_age=min(row.confirmed_age + by, longest)) for row in state.rows]),
            tokens=tuple([token._replace(age=min(token.age + by, oldest)) for token in state.tokens]),
        )

    def canonical(self, state: State) -> State:
        """Forget what nobody can present and no row knows, and number the rest by what it is and where it stands."""
        places = state.browser.places()
        for number in state.stolen or ():
            places.setdefault(number, []).append((4,))
        rows, lowest = self._rows(state, places), min(state.tokens[row.current].generation for row in state.rows)
        roles: dict[int, list[tuple[int, int]]] = {}
        for i, row in enumerate(rows):
            roles.setdefault(row.current, []).append((i, 0))
            if row.previous != NONE:
                roles.setdefault(row.previous, []).append((i, 1))
        kin: dict[int, Token] = {}
        keys: dict[int, tuple[object, ...]] = {}
        for number in sorted(places.keys() | roles.keys(), key=lambda n: state.tokens[n].generation):
            generation, parent, age, holders = state.tokens[number]
            at = sorted(places.get(number, ()))
            if not at:
                age = self.world.settle
            if not at or parent not in kin:
                parent = NONE
            if number in roles or parent != NONE or generation > lowest:
                token = kin[number] = Token(max(generation - lowest, -1), parent, age, holders)
                keys[number] = (token.generation, keys.get(parent, ()), age, holders, roles.get(number, []), at)
        order = sorted(keys, key=keys.__getitem__)
        names = {number: i for i, number in enumerate(order)}
        tokens = [kin[number]._replace(parent=names.get(kin[number].parent, NONE)) for number in order]
        if places.keys() - names.keys():
            tokens.append(Token(-1, NONE, self.world.settle, NOBODY))
        dead = len(order)
        return State(
            tuple([Row(names[row.current], names.get(row.previous, NONE), row.confirmed_age) for row in rows]),
            state.browser.renamed(lambda number: names.get(number, dead)),
            tuple(tokens),
            None if state.stolen is None else tuple(sorted([names.get(number, dead) for number in state.stolen])),
            state.gone_on,
            state.turns,
            state.ahead,
        )

    def _rows(self, state: State, places: dict[int, list[tuple[int, ...]]]) -> list[Row]:
        """Forget the previous token where it cannot be presented, and no child of it can, and since when it is that."""
        parents = {state.tokens[number].parent for number in places}
        rows: list[Row] = []
        for row in state.rows:
            shown = row.previous in places
            previous = row.previous if shown or row.previous in parents else NONE
            rows.append(Row(row.current, previous, row.confirmed_age if shown else self.world.tail))
        return [*sorted(set(rows[:-1])), rows[-1]] if self.world.forth else rows


def _name(state: State, number: int) -> str:
    token = state.tokens[number]
    return f"token {number} of generation {token.generation - state.tokens[state.rows[-1].current].generation:+}"


def explore(world: LossyWorld) -> Exploration:
    """Visit every reachable state of a world."""
    return search(Model(world))
