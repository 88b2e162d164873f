"""Sessions that two hold: an owner, and a thief who has copied the cookie jar at some moment.

Owns: both holders, what each was told, and what must hold between the two. Must not hold: faults.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Coroutine, Iterable, Sequence
from time import monotonic
from typing import Any, NamedTuple

from keyturn.tokens import base64url
from tests.chaos.browser import Answer, Browser, Link, generation_of
from tests.chaos.node import Pace
from tests.chaos.storm import GO_ON_TIMEOUT
from tests.chaos.wire import LoopThread
from tests.services import wait_until

_OLD = 0.15
"""How often a thief who keeps what they had shows one of the tokens of before."""
_OWNERS_TABS = 2
_SIGN_UPS_AT_ONCE = 4
_OWNERS, _THIEVES = 10_000, 20_000
"""Numbers, and so addresses, that no browser of a storm has."""
_FOUND_OUT = "401 session_ended reuse_detected"


class Told(NamedTuple):
    """A refresh that was answered."""

    sent: float
    answered: float
    presented: str
    given: str
    """The token that came back, or nothing."""
    status: int
    code: str


class Span(NamedTuple):
    """A time in which no commit was lost."""

    begin: float
    end: float


class Holder(Browser):
    """One of two who hold a session: the end of it is no wrong, and ends the use of it.

    Attributes:
        told: every answer.
        over: what ended it, with the reason; nothing while it goes on.
        lost: how often no answer came.
        unanswered: the same, and how often it was 503: whether the refresh took place is not known.
    """

    def __init__(self, number: int, ports: Sequence[int], pace: Pace, counts: Counter[str]) -> None:
        super().__init__(number, ports, pace, counts)
        self.told: list[Told] = []
        self.over = ""
        self.lost = self.unanswered = 0

    @property
    def held(self) -> set[str]:
        """Every token that it was given."""
        return {one.given for one in self.told if one.given}

    async def use(self, tabs: int) -> None:
        """Use some tabs until the session is over."""
        using = asyncio.create_task(self.run(tabs))
        try:
            while not self.over and not using.done():
                await asyncio.wait([using], timeout=0.02)
            if using.done():
                using.result()
        finally:
            using.cancel()
            await asyncio.wait([using])

    def _ended(self, answer: Answer) -> None:
        self.over = f"{answer.status} {answer.code()} {answer.reason()}"
        if self.over != _FOUND_OUT:
            self.wrongs.append(f"the session is over: {self.over}")

    def _given_up(self, link: Link, why: str) -> bool:
        self.lost += 1
        self.unanswered += 1
        return super()._given_up(link, why)

    def _judge(self, answer: Answer, started: float, presented: str) -> bool:
        self.unanswered += answer.status == 503
        given = answer.cookie() or ""
        self.told.append(Told(started, monotonic(), presented, given, answer.status, answer.code()))
        return super()._judge(answer, started, presented)


class Thief(Holder):
    """Has a copy of a jar; of some thieves, what they had once is shown again now and then."""

    def __init__(self, owner: Holder, number: int) -> None:
        super().__init__(number, owner.ports, owner.pace, owner.counts)
        self.copied = owner.cookie
        self.keeps = self._random.random() < 0.5
        self._take(self.copied)

    @property
    def held(self) -> set[str]:
        """Every token that it was given or has stolen."""
        return super().held | {self.copied}

    @property
    def cookie(self) -> str:
        """What it shows next."""
        if self.keeps and self._random.random() < _OLD:
            return self._random.choice(sorted(self.held))
        return super().cookie


class Race:
    """One session, its owner, and from some moment on its thief."""

    def __init__(self, owner: Holder) -> None:
        self.owner = owner
        self.thief: Thief | None = None
        self.chosen = False
        """Whether it is stolen, or is going to be."""

    @property
    def holders(self) -> tuple[Holder, ...]:
        """Owner and thief."""
        return (self.owner,) if self.thief is None else (self.owner, self.thief)

    @property
    def decided(self) -> bool:
        """Whether at most one of two goes on."""
        return self.thief is not None and any(holder.over for holder in self.holders)

    def broken(self, spans: Sequence[Span]) -> list[str]:
        """List what must not be.

        An owner who is signed out although no thief has shown anything, and a token for one holder after the other has
        advanced, where no commit was lost since.
        """
        if self.thief is None or not self.thief.told:
            if self.owner.steady and self.owner.unanswered:
                return []
            return [f"the owner alone was signed out: {self.owner.told[-1]}"] if self.owner.over else []
        since = generation_of(self.thief.copied)
        found: list[str] = []
        for one, other in ((self.owner, self.thief), (self.thief, self.owner)):
            held = other.held
            # It has confirmed what the other never had, nor anything that descends from it.
            steps = [step for step in one.told if _is_child(step.given, step.presented) and step.presented not in held]
            for step in steps:
                if (generation := generation_of(step.presented)) < since:
                    continue
                # What is further on would be ahead of the row.
                late = [t for t in other.told if t.given and generation_of(t.presented) <= generation + 1]
                found += [f"both went on: {step} {told}" for told in late if _in_one(spans, step, told)]
        return found


class Races:
    """Many sessions at once that are stolen one after the other.

    Args:
        ports: of the servers.
        strict: the owners do as strict mode asks of them: one thing at a time, and neither navigation nor crash.
    """

    def __init__(
        self, thread: LoopThread, ports: Sequence[int], *, races: int, pace: Pace, strict: bool = False
    ) -> None:
        self.counts: Counter[str] = Counter()
        """Of all holders."""
        self._thread = thread
        self._tabs = 1 if strict else _OWNERS_TABS
        self._random = random.Random(races)
        self._tasks: list[asyncio.Task[None]] = []
        self.races = [Race(Holder(_OWNERS + n, ports, pace, self.counts)) for n in range(races)]
        for race in self.races:
            race.owner.steady = strict

    @property
    def holders(self) -> Iterable[Holder]:
        """All owners and thieves."""
        return (holder for race in self.races for holder in race.holders)

    def start(self) -> None:
        """Sign every owner in and let them go."""
        self._thread.run(self._start())

    def rob(self, share: int, within: float, ports: Sequence[int] = ()) -> list[Race]:
        """Let some more of the sessions be stolen, each at a moment of its own in the seconds to come; return them.

        Args: ports: the servers that the thieves go to, who then show nothing of before; by default those of the owners.
        """
        victims = [race for race in self.races if not race.chosen][:share]

        def begin() -> None:
            for race in victims:
                race.chosen = True
                self._begin(self._rob(race, self._random.uniform(0, within), ports))

        self._thread.call(begin)
        return victims

    def settle(self) -> None:
        """Wait until of each two at most one goes on."""

        def met() -> bool:
            self.nothing_is_wrong()
            return all(race.decided for race in self.races if race.chosen)

        wait_until(met, GO_ON_TIMEOUT, "the end of each race")

    def nothing_is_wrong(self) -> None:
        """Assert that every holder still runs, and that none was told what nobody may be told."""
        for task in self._tasks:
            if task.done():
                task.result()
        wrongs = [(holder.session, wrong) for holder in self.holders for wrong in holder.wrongs]
        assert not wrongs, (len(wrongs), wrongs[:5])

    def nobody_went_on_beside_another(self, spans: Sequence[Span]) -> None:
        """Assert that no holder got a token after the other had advanced, within one of the times without a loss."""
        broken = [line for race in self.races for line in race.broken(spans)]
        assert not broken, (len(broken), broken[:5])

    def close(self) -> None:
        """Let everybody stop."""
        self._thread.run(self._stop())

    async def _start(self) -> None:
        gate = asyncio.Semaphore(_SIGN_UPS_AT_ONCE)

        async def sign_up(owner: Holder) -> None:
            async with gate:
                await owner.sign_up()

        await asyncio.gather(*(sign_up(race.owner) for race in self.races))
        for race in self.races:
            self._begin(race.owner.use(self._tabs))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    async def _rob(self, race: Race, delay: float, ports: Sequence[int]) -> None:
        await asyncio.sleep(delay)
        race.thief = thief = Thief(race.owner, _THIEVES + self.races.index(race))
        if ports:
            thief.ports, thief.keeps = ports, False
        await thief.use(1)

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []


def _is_child(token: str, parent: str) -> bool:
    """Whether a token was made for the next generation of another one."""
    if not token:
        return False
    named = base64url.decode(token.removeprefix("kt_rt_"))[26:34]
    return named == hashlib.sha256(parent.encode()).digest()[:8]


def _in_one(spans: Sequence[Span], first: Told, then: Told) -> bool:
    """Whether one refresh began after another was answered, both in a time without a loss."""
    return first.answered < then.sent and any(span.begin <= first.sent and then.answered < span.end for span in spans)
