"""An explicit-state model of a browser, a network, a thief and the real `decide`, explored without gaps.

Owns: the states, what may happen in each, and what must never happen. Must not hold: a rule of its own about tokens;
every judgement and every new row comes from the rule under test.

A state holds no absolute time and no token text. A token is what it is to the row (current, previous, sibling of the
current one, dead) or, for a child of the current token, a number with an age; children that stand in the same places
are interchangeable and are numbered alike. So the reachable states are finite, and all of them are visited.

All bounds are inclusive: a message may arrive exactly L after its cookie was read. For such bounds whole ticks are
enough: whatever a run in continuous time reaches, a run in whole ticks reaches (Henzinger, Manna, Pnueli 1992).

The database's clock is right, or in some worlds off by what the world allows; messages, cookie writes and losses go by
the right time. Only a step changes how far it is off: one that is a little fast or slow is steps in small parts.

A server-side render needs no transition of its own: it shows the cookie as a refresh does and changes nothing, so it is
refused only where a refresh would have been. Losses have no budget: any message may be lost at any moment.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from keyturn.core.policy import Policy, Rotation
from keyturn.core.rotation import Outcome, decide
from tests.proofs.rows import Rule
from tests.proofs.ruling import CURRENT, FIRST_CHILD, PREVIOUS, Judge, Ruling

NOBODY, OWNER, THIEF, BOTH = range(4)
REFUSED = "an owner alone is never refused"
ADVANCED = "once one holder has advanced, the other is found out or gets no further"
WAITS = "nobody waits longer than the settle time or two tails"


@dataclass(frozen=True)
class World:
    """What the environment may do. Durations are ticks of `tick` seconds; only their ratios matter."""

    settle: int
    tail: int = 1
    request_limit: int = 1
    landing_limit: int | None = None
    """How old an answer may be when its cookie is stored; None: `request_limit`, as a client gives both up together."""
    crash_loss: int = 3
    tick: int = 10
    crashes: bool = True
    orphans: bool = True
    """A request may reach the server up to L after it was sent although its browser has crashed since."""
    in_flight: int = 2
    writes: int = 2
    """Cookie writes of the last F that a crash can tell apart."""
    thief: bool = False
    thief_tokens: int = 2
    ahead: int = 0
    """The most that the database's clock is ever ahead of the right time, in ticks. It is never behind it."""
    set_back: bool = False
    """The clock begins that far ahead, and at any moment may be set back by any part of it."""
    jumps: bool = False
    """The clock begins right, and at any moment may jump ahead; with `set_back` to and fro, as often as it likes."""
    owner_alone: bool = True
    """An owner alone is claimed never to be refused."""
    rotation: Rotation = Rotation.CONFIRMED
    rule: Rule = decide

    @property
    def policy(self) -> Policy:
        settle_time, tail_time = float(self.settle * self.tick), float(self.tail * self.tick)
        return Policy(rotation=self.rotation, settle_time=settle_time, tail_time=tail_time, relaxed=True)


class Message(NamedTuple):
    """A request on its way, or an answer with a cookie on its way back."""

    age: int
    """Ticks since the cookie was read."""
    token: int
    orphan: bool = False


class State(NamedTuple):
    """Everything that can matter for what happens next."""

    confirmed_age: int
    """By the database's clock; negative: confirmed while that was ahead."""
    jar: int
    history: tuple[tuple[int, int], ...]
    """Cookie writes that a crash may lose, oldest first: (age, what the jar held before)."""
    requests: tuple[Message, ...]
    answers: tuple[Message, ...]
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


class Counterexample(NamedTuple):
    """How something happened that never must."""

    claim: str
    steps: tuple[str, ...]


@dataclass
class Exploration:
    """What an exploration found."""

    states: int = 0
    transitions: int = 0
    complete: bool = False
    counterexample: Counterexample | None = None
    outcomes: dict[str, int] = field(default_factory=dict)


class Forbidden(Exception):
    """A step leads to what never must happen."""

    def __init__(self, claim: str, step: str) -> None:
        super().__init__(claim)
        self.claim = claim
        self.step = step


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
        world = self.world
        if len(state.requests) + len(state.answers) < world.in_flight:
            yield "a tab reads the cookie", state._replace(requests=(*state.requests, Message(0, state.jar)))
        for i, request in enumerate(state.requests):
            if i and request == state.requests[i - 1]:
                continue
            rest = state.requests[:i] + state.requests[i + 1 :]
            yield "a request is lost", state._replace(requests=rest)
            yield from self._arrive(state._replace(requests=rest), request)
        for i, answer in enumerate(state.answers):
            if i and answer == state.answers[i - 1]:
                continue
            rest = state.answers[:i] + state.answers[i + 1 :]
            yield "an answer is lost", state._replace(answers=rest)
            yield f"an answer lands ({_name(answer.token)})", self._write(state._replace(answers=rest), answer.token)
        if world.crashes:
            yield from self._crash(state)
        if world.thief:
            yield from self._steal(state)
        yield from self._set_clock(state)
        yield "time passes", self._tick(state)

    def _arrive(self, state: State, request: Message) -> Iterator[tuple[str, State]]:
        outcome, after, child = self._present(state, request.token, OWNER)
        if outcome in (Outcome.REUSE, Outcome.ENDED):
            return
        step = f"the server answers {outcome} to {_name(request.token)}"
        if child is None or request.orphan:
            yield step, after
        else:
            yield step, after._replace(answers=(*after.answers, Message(request.age, child)))

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
        patience = {Outcome.EARLY: self.world.settle, Outcome.TAIL: 2 * self.world.tail}.get(outcome)
        if patience is not None and self.judge(token, age + patience, confirmed_age + patience).outcome is outcome:
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
            jar=name(state.jar),
            history=tuple((age, name(token)) for age, token in state.history),
            requests=tuple(m._replace(token=name(m.token)) for m in state.requests),
            answers=tuple(m._replace(token=name(m.token)) for m in state.answers),
            ages=(),
            holders=(),
            stolen=None if state.stolen is None else tuple(name(token) for token in state.stolen),
        )

    def _write(self, state: State, token: int) -> State:
        if not self.world.crashes:
            return state._replace(jar=token)
        history = (*state.history, (0, state.jar))[-self.world.writes :]
        return state._replace(jar=token, history=history)

    def _crash(self, state: State) -> Iterator[tuple[str, State]]:
        orphans = tuple(m._replace(orphan=True) for m in state.requests) if self.world.orphans else ()
        dead = state._replace(requests=orphans, answers=())
        if dead != state:
            yield "the browser crashes", dead
        for i, (_, before) in enumerate(state.history):
            lost = len(state.history) - i
            yield f"a crash loses {lost} writes", dead._replace(jar=before, history=state.history[:i])

    def _steal(self, state: State) -> Iterator[tuple[str, State]]:
        if state.stolen is None:
            holders, current_holder = list(state.holders), state.current_holder
            if state.jar >= FIRST_CHILD:
                holders[state.jar - FIRST_CHILD] = BOTH
            elif state.jar == CURRENT:
                current_holder = BOTH
            copied = state._replace(stolen=(state.jar,), holders=tuple(holders), current_holder=current_holder)
            yield f"a thief copies {_name(state.jar)}", copied
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
            if len(after.stolen) < self.world.thief_tokens:
                yield step + " and keeps the child", after._replace(stolen=(*after.stolen, child))
            for i in range(len(after.stolen)):
                kept = after.stolen[:i] + after.stolen[i + 1 :]
                yield step + " and keeps the child for another", after._replace(stolen=(*kept, child))

    def _set_clock(self, state: State) -> Iterator[tuple[str, State]]:
        world = self.world
        for ahead in range(world.ahead + 1):
            by = ahead - state.ahead
            if (world.set_back and by < 0) or (world.jumps and by > 0):
                yield f"the clock is set by {by:+}", self._age(state._replace(ahead=ahead), by)

    def _age(self, state: State, by: int) -> State:
        """Let the database's clock move: from some age on a token's standing is the same, however far it is set back."""
        back = state.ahead if self.world.set_back else 0
        oldest, longest = self.world.settle + back, self.world.tail + back
        return state._replace(
            confirmed_age=min(state.confirmed_age + by, longest),
            ages=tuple(min(age + by, oldest) for age in state.ages),
        )

    def _tick(self, state: State) -> State:
        """Let one tick pass: what is older than its bound is gone."""
        limit, loss = self.world.request_limit, self.world.crash_loss
        landing = limit if self.world.landing_limit is None else self.world.landing_limit
        return self._age(state, 1)._replace(
            history=tuple((age + 1, token) for age, token in state.history if age < loss),
            requests=tuple(m._replace(age=m.age + 1) for m in state.requests if m.age < limit),
            answers=tuple(m._replace(age=m.age + 1) for m in state.answers if m.age < landing),
        )


def _name(token: int) -> str:
    return ("current", "previous", "sibling", "dead")[token] if token < FIRST_CHILD else f"child {token - FIRST_CHILD}"


def canonical(state: State) -> State:
    """Forget children that are nowhere, and number the others by where they stand: their names mean nothing."""
    places: dict[int, list[tuple[int, ...]]] = {}

    def note(token: int, *place: int) -> None:
        if token >= FIRST_CHILD:
            places.setdefault(token, []).append(place)

    note(state.jar, 0)
    for i, (_, token) in enumerate(state.history):
        note(token, 1, i)
    for message in state.requests:
        note(message.token, 2, message.age, message.orphan)
    for message in state.answers:
        note(message.token, 3, message.age)
    stolen = state.stolen
    for token in stolen or ():
        note(token, 4)
    ages, holders = state.ages, state.holders
    order = sorted(places, key=lambda t: (ages[t - FIRST_CHILD], holders[t - FIRST_CHILD], sorted(places[t])))
    names = {token: FIRST_CHILD + i for i, token in enumerate(order)}
    get = names.get
    return State(
        state.confirmed_age,
        get(state.jar, state.jar),
        tuple([(age, get(token, token)) for age, token in state.history]),
        tuple(sorted([Message(m.age, get(m.token, m.token), m.orphan) for m in state.requests])),
        tuple(sorted([Message(m.age, get(m.token, m.token)) for m in state.answers])),
        tuple([ages[t - FIRST_CHILD] for t in order]),
        tuple([holders[t - FIRST_CHILD] for t in order]),
        state.current_holder,
        None if stolen is None else tuple(sorted([get(t, t) for t in stolen])),
        state.advanced,
        state.ahead,
    )


def explore(world: World, *, limit: int | None = None) -> Exploration:
    """Visit every reachable state, nearest first; stop at the first step that must never happen.

    Args:
        world: what may happen.
        limit: give up (`complete` is then false) after this many states.
    """
    model = Model(world)
    ahead = 0 if world.jumps else world.ahead
    holder, longest = OWNER if world.thief else NOBODY, world.tail + (ahead if world.set_back else 0)
    start = State(longest, CURRENT, (), (), (), (), (), holder, None, NOBODY, ahead)
    came: dict[State, tuple[State, str] | None] = {start: None}
    waiting = deque([start])
    found = Exploration(outcomes=model.outcomes)
    while waiting:
        state = waiting.popleft()
        try:
            for step, after in model.steps(state):
                found.transitions += 1
                following = canonical(after)
                if following not in came:
                    came[following] = (state, step)
                    waiting.append(following)
        except Forbidden as forbidden:
            found.counterexample = Counterexample(forbidden.claim, (*_way(came, state), forbidden.step))
            break
        if limit is not None and len(came) > limit:
            break
    found.states = len(came)
    found.complete = not waiting and found.counterexample is None
    return found


def finest(policy: Policy, request_limit: float, crash_loss: float, tick: int) -> World:
    """Lay a policy on a grid: messages and cookie writes live for the last whole tick *before* L and F.

    A client gives up at L, so a message is always a little younger than L; on a grid, "a little" is one tick.
    """
    return World(
        settle=round(policy.settle_time / tick),
        tail=round(policy.tail_time / tick),
        request_limit=round(request_limit / tick) - 1,
        crash_loss=round(crash_loss / tick) - 1,
        tick=tick,
    )


def _way(came: dict[State, tuple[State, str] | None], state: State) -> tuple[str, ...]:
    steps: list[str] = []
    at: tuple[State, str] | None = came[state]
    while at is not None:
        before, step = at
        steps.append(step)
        at = came[before]
    return tuple(reversed(steps))
