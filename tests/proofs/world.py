"""What the environment may do, and one browser with its cookie jar and its messages: what the models share.

Owns: durations, losses, crashes, the database's clock. Must not hold: what a token is; here it is a number.

All bounds are inclusive: a message may arrive exactly L after its cookie was read. For such bounds whole ticks are
enough: whatever a run in continuous time reaches, a run in whole ticks reaches (Henzinger, Manna, Pnueli 1992).

A server-side render needs no transition of its own where nothing heals: it shows the cookie as a refresh does and
changes nothing, so it is refused only where a refresh would have been. Losses of messages have no budget: any may be
lost at any moment.

The database's clock is right, or in some worlds off by what the world allows; messages, cookie writes and losses go by
the right time. Only a step changes how far it is off: one that is a little fast or slow is steps in small parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from keyturn.core.policy import Policy, Rotation
from keyturn.core.rotation import Outcome, decide
from tests.proofs.rows import Rule

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
    answers_lost: bool = True
    """An answer may be lost, or come too late; else it lands at some time."""
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
    owner_alone: bool = True
    """An owner alone is claimed never to be refused."""
    ahead: int = 0
    """The most that the database's clock is ever ahead of the right time, in ticks. It is never behind it."""
    set_back: bool = False
    """The clock begins that far ahead, and at any moment may be set back by any part of it."""
    jumps: bool = False
    """The clock begins right, and at any moment may jump ahead; with `set_back` to and fro, as often as it likes."""
    rotation: Rotation = Rotation.CONFIRMED
    rule: Rule = decide

    @property
    def policy(self) -> Policy:
        settle_time, tail_time = float(self.settle * self.tick), float(self.tail * self.tick)
        return Policy(rotation=self.rotation, settle_time=settle_time, tail_time=tail_time, relaxed=True)

    @property
    def ahead_at_first(self) -> int:
        """How far ahead the database's clock begins."""
        return 0 if self.jumps else self.ahead

    def oldest(self, enough: int, ahead: int) -> int:
        """Say from which age on all ages are one: `enough` ticks, however far the clock may still be set back."""
        return enough + (ahead if self.set_back else 0)


Kind = TypeVar("Kind", bound=World)


def finest(kind: type[Kind], policy: Policy, request_limit: float, crash_loss: float, tick: int) -> Kind:
    """Lay a policy on a grid: messages and cookie writes live for the last whole tick *before* L and F.

    A client gives up at L, so a message is always a little younger than L; on a grid, "a little" is one tick.
    """
    return kind(
        settle=round(policy.settle_time / tick),
        tail=round(policy.tail_time / tick),
        request_limit=round(request_limit / tick) - 1,
        crash_loss=round(crash_loss / tick) - 1,
        tick=tick,
    )


class Message(NamedTuple):
    """A request on its way, or an answer with a cookie on its way back."""

    age: int
    """Ticks since the cookie was read."""
    token: int
    orphan: bool = False


class Browser(NamedTuple):
    """A cookie jar, and what is on its way from it and to it."""

    jar: int
    history: tuple[tuple[int, int], ...] = ()
    """Cookie writes that a crash may lose, oldest first: (age, what the jar held before)."""
    requests: tuple[Message, ...] = ()
    answers: tuple[Message, ...] = ()

    def renamed(self, name: Callable[[int], int]) -> Browser:
        """Call every token by another name; messages come in an order that depends on nothing else."""
        return Browser(
            name(self.jar),
            tuple([(age, name(token)) for age, token in self.history]),
            tuple(sorted([Message(m.age, name(m.token), m.orphan) for m in self.requests])),
            tuple(sorted([Message(m.age, name(m.token)) for m in self.answers])),
        )

    def places(self) -> dict[int, list[tuple[int, ...]]]:
        """Say where each token stands."""
        places: dict[int, list[tuple[int, ...]]] = {self.jar: [(0,)]}
        for i, (_, token) in enumerate(self.history):
            places.setdefault(token, []).append((1, i))
        for message in self.requests:
            places.setdefault(message.token, []).append((2, message.age, message.orphan))
        for message in self.answers:
            places.setdefault(message.token, []).append((3, message.age))
        return places

    def answered(self, request: Message, child: int | None) -> Browser:
        """Send the answer to a request on its way; one without a cookie, or to a browser that is gone, matters to nobody."""
        if child is None or request.orphan:
            return self
        return self._replace(answers=(*self.answers, Message(request.age, child)))


def reads(world: World, browser: Browser) -> Iterator[tuple[str, Browser]]:
    """Yield what follows when a tab sends a request."""
    if len(browser.requests) + len(browser.answers) < world.in_flight:
        yield "a tab reads the cookie", browser._replace(requests=(*browser.requests, Message(0, browser.jar)))


def arrivals(browser: Browser) -> Iterator[tuple[Message, Browser]]:
    """Yield each request that may arrive, or be lost, with the browser without it."""
    for i, request in enumerate(browser.requests):
        if not i or request != browser.requests[i - 1]:
            yield request, browser._replace(requests=browser.requests[:i] + browser.requests[i + 1 :])


def landings(world: World, browser: Browser, name: Callable[[int], str]) -> Iterator[tuple[str, Browser]]:
    """Yield what follows when an answer is lost or lands, or the browser crashes."""
    for i, answer in enumerate(browser.answers):
        if i and answer == browser.answers[i - 1]:
            continue
        rest = browser._replace(answers=browser.answers[:i] + browser.answers[i + 1 :])
        if world.answers_lost:
            yield "an answer is lost", rest
        yield f"an answer lands ({name(answer.token)})", _write(world, rest, answer.token)
    if world.crashes:
        yield from _crash(world, browser)


def grown(world: World, browser: Browser) -> Browser:
    """Let one tick pass: what is older than its bound is gone."""
    limit, loss = world.request_limit, world.crash_loss
    landing = limit if world.landing_limit is None else world.landing_limit
    answers = [m for m in browser.answers if m.age < landing or not world.answers_lost]
    return Browser(
        browser.jar,
        tuple([(age + 1, token) for age, token in browser.history if age < loss]),
        tuple([Message(m.age + 1, m.token, m.orphan) for m in browser.requests if m.age < limit]),
        tuple([Message(min(m.age + 1, landing), m.token) for m in answers]),
    )


def clock_steps(world: World, ahead: int) -> Iterator[tuple[str, int]]:
    """Yield by how much the database's clock may be set, which is so far ahead."""
    for by in range(-ahead, world.ahead - ahead + 1):
        if (world.set_back and by < 0) or (world.jumps and by > 0):
            yield f"the clock is set by {by:+}", by


def patience(world: World, outcome: Outcome) -> int | None:
    """Say after how long a token is to be answered otherwise, if the clock is not set meanwhile; None: no such claim."""
    return {Outcome.EARLY: world.settle, Outcome.TAIL: 2 * world.tail}.get(outcome)


def kept(world: World, stolen: tuple[int, ...], child: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield what the thief may hold when it has got a child, besides leaving that."""
    if len(stolen) < world.thief_tokens:
        yield " and keeps the child", (*stolen, child)
    for i in range(len(stolen)):
        yield " and keeps the child for another", (*stolen[:i], *stolen[i + 1 :], child)


def _write(world: World, browser: Browser, token: int) -> Browser:
    history = (*browser.history, (0, browser.jar))[-world.writes :] if world.crashes else ()
    return browser._replace(jar=token, history=history)


def _crash(world: World, browser: Browser) -> Iterator[tuple[str, Browser]]:
    orphans = tuple(m._replace(orphan=True) for m in browser.requests) if world.orphans else ()
    dead = browser._replace(requests=orphans, answers=())
    if dead != browser:
        yield "the browser crashes", dead
    for i, (_, before) in enumerate(browser.history):
        lost = len(browser.history) - i
        yield f"a crash loses {lost} writes", dead._replace(jar=before, history=browser.history[:i])
