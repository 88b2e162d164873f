"""Visit every reachable state of a model, nearest first.

Owns: the search, and the way to what never must happen. Must not hold: what a state is made of.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar

State = TypeVar("State", bound=Hashable)


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


class Transitions(Protocol[State]):
    """What a search needs of a model."""

    outcomes: dict[str, int]
    """How often the rule answered what."""

    def start(self) -> State:
        """Return the state in which it all begins."""
        ...

    def steps(self, state: State) -> Iterator[tuple[str, State]]:
        """Yield everything that can happen next.

        Raises: Forbidden: one of them must never happen.
        """
        ...

    def canonical(self, state: State) -> State:
        """Name alike what has the same future."""
        ...


def search(model: Transitions[State]) -> Exploration:
    """Visit every reachable state, nearest first; stop at the first step that must never happen."""
    start = model.canonical(model.start())
    came: dict[State, tuple[State, str] | None] = {start: None}
    met: set[State] = set()
    waiting = deque([start])
    found = Exploration(outcomes=model.outcomes)
    while waiting and found.counterexample is None:
        state = waiting.popleft()
        try:
            for step, after in model.steps(state):
                found.transitions += 1
                if after in met:
                    continue
                met.add(after)
                following = model.canonical(after)
                if following not in came:
                    came[following] = (state, step)
                    waiting.append(following)
        except Forbidden as forbidden:
            found.counterexample = Counterexample(forbidden.claim, (*_way(came, state), forbidden.step))
    found.states = len(came)
    found.complete = found.counterexample is None
    return found


def _way(came: dict[State, tuple[State, str] | None], state: State) -> tuple[str, ...]:
    steps: list[str] = []
    at = came[state]
    while at is not None:
        before, step = at
        steps.append(step)
        at = came[before]
    return tuple(reversed(steps))
