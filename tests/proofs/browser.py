"""A browser that has a bad year, over the real `decide`.

Owns: the clock, the network, the server's row, one cookie jar and its tabs. Must not hold: a rule about tokens. Every
run is a function of its seed.

The browser is the worst we could think of: its eight tabs know nothing of each other (no lock, no broadcast), every
navigation throws its access token away, a render server forwards the cookie up to four times in parallel, one message
in twenty is lost either way, some take nearly as long as the client waits, it crashes four times a day and then has
forgotten up to 30 s of cookies, and its laptop sleeps for hours with requests in flight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from math import ceil
from random import Random

from keyturn.core.model import NewToken, PresentedToken, Session, SessionId
from keyturn.core.policy import CRASH_LOSS, DAY, HOUR, REQUEST_LIMIT, Policy
from keyturn.core.rotation import Decision, Outcome, glance
from tests.proofs.rows import CONTACT, SESSION_ID, Rule, row

REFUSED = frozenset({Outcome.REUSE, Outcome.AHEAD, Outcome.ENDED})
NO_PARENT = bytes(8)


@dataclass(frozen=True)
class Weather:
    """How bad it is. Durations are seconds."""

    tabs: int = 8
    loss: float = 0.05
    """Of each message, either way."""
    slow: float = 0.03
    """Share of messages that take anything up to the request limit."""
    median_latency: float = 0.08
    crashes_per_day: float = 4.0
    sleeps_per_day: float = 3.0
    navigation_every: float = 480.0
    renders: int = 4
    """At most so many parallel server-side renders of one navigation."""


@dataclass
class Tally:
    """What happened."""

    outcomes: Counter[str] = field(default_factory=Counter)
    refreshes: int = 0
    renders: int = 0
    crashes: int = 0
    cookies_lost: int = 0
    """Crashes that rolled the jar back to another token."""
    false_logouts: int = 0
    days: float = 0.0


class World:
    """The clock and what is to happen."""

    def __init__(self, seed: str) -> None:
        self.random = Random(seed)
        self.now = 1_700_000_000.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def after(self, seconds: float, happen: Callable[[], None]) -> None:
        """Let something happen some seconds from now."""
        heappush(self._events, (self.now + seconds, next(self._order), happen))

    def run(self, until: float, stop: Callable[[], bool]) -> None:
        """Let things happen until a time, or until `stop` says so."""
        while self._events and not stop():
            at, _, happen = heappop(self._events)
            if at > until:
                break
            self.now = at
            happen()


class Server:
    """The row, and the rule under test."""

    def __init__(self, world: World, policy: Policy, rule: Rule) -> None:
        self._world = world
        self._policy = policy
        self._rule = rule
        self._numbers = count(1)
        self.session: Session
        self.ahead = 0.0
        """Seconds by which its clock is ahead of the world's; whoever makes that less sets it back."""

    @property
    def now(self) -> float:
        """Its clock."""
        return self._world.now + self.ahead

    def log_in(self) -> PresentedToken:
        """Open a new session in place of the old."""
        first = self._token(SESSION_ID, 0, NO_PARENT)
        self.session = row(first.token_hash, self.now)
        return first

    def _token(self, session_id: SessionId, generation: int, parent: bytes) -> PresentedToken:
        token_hash = next(self._numbers).to_bytes(8, "big") * 4
        return PresentedToken(session_id, generation, ceil(self.now), parent, token_hash)

    def refresh(self, token: PresentedToken) -> tuple[Decision, PresentedToken | None]:
        """Judge a token; return the decision, and the child if the answer sets a cookie."""
        made: list[PresentedToken] = []

        def mint(session_id: SessionId, generation: int, now: float, parent_fingerprint: bytes) -> NewToken:
            made.append(self._token(session_id, generation, parent_fingerprint))
            return NewToken("", made[-1].token_hash)

        decision = self._rule(self.session, token, self.now, self._policy, contact=CONTACT, mint=mint)
        assert decision.session is not None
        self.session = decision.session
        child = decision.child
        return decision, None if child is None else made[-1]._replace(token_hash=child.token_hash)

    def render(self, token: PresentedToken) -> Decision:
        """Judge a token for a render server."""
        decision = glance(self.session, token, self.now, self._policy, contact=CONTACT)
        assert decision.session is not None
        self.session = decision.session
        return decision


class Browser:
    """One cookie jar and its tabs."""

    def __init__(self, world: World, server: Server, weather: Weather, tally: Tally, *, alone: bool = True) -> None:
        self._world = world
        self._server = server
        self._weather = weather
        self._tally = tally
        self._alone = alone
        self._process = 0
        """Counts crashes and sleeps: what was waiting before them never comes."""
        self._pages = [0] * weather.tabs
        """Counts each tab's navigations."""
        self._writes: list[tuple[float, PresentedToken]] = []
        self._login = 0
        self.jar = server.log_in()
        self.exposed = False
        """True once somebody was found out."""
        self.on_refresh: Callable[[], None] = lambda: None
        for tab in range(weather.tabs):
            world.after(world.random.uniform(0, 60), self._page(tab))
        self._rarely(weather.crashes_per_day, self._crash)
        self._rarely(weather.sleeps_per_day, self._sleep)

    def _rarely(self, per_day: float, happen: Callable[[], None]) -> None:
        if per_day:
            self._world.after(self._world.random.expovariate(per_day / DAY), happen)

    def _latency(self) -> float:
        random = self._world.random
        if random.random() < self._weather.slow:
            return random.uniform(0, REQUEST_LIMIT)
        return self._weather.median_latency * random.lognormvariate(0, 1)

    def _lost(self) -> bool:
        return self._world.random.random() < self._weather.loss

    def _page(self, tab: int) -> Callable[[], None]:
        """Load a page into a tab: it has no access token, so it refreshes, and later it goes elsewhere."""
        self._pages[tab] += 1
        process, page = self._process, self._pages[tab]
        random = self._world.random

        def stay() -> bool:
            return process == self._process and page == self._pages[tab]

        def leave() -> None:
            if stay():
                self._page(tab)()

        def load() -> None:
            if not stay():
                return
            for _ in range(random.randint(0, self._weather.renders)):
                self._render()
            self._refresh(stay)
            self._world.after(random.expovariate(1 / self._weather.navigation_every), leave)

        return load

    def _render(self) -> None:
        token, login, latency = self.jar, self._login, self._latency()

        def arrive() -> None:
            if login == self._login:
                self._tally.renders += 1
                self._answered(self._server.render(token).outcome)

        if not self._lost() and latency < REQUEST_LIMIT:
            self._world.after(latency, arrive)

    def _refresh(self, stay: Callable[[], bool]) -> None:
        """Refresh for a page that may be gone when the answer comes."""
        if not stay():
            return
        token, login, process = self.jar, self._login, self._process
        there, back = self._latency(), self._latency()
        random = self._world.random
        keepalive = random.random() < 0.5

        def again(seconds: float) -> None:
            self._world.after(seconds, lambda: self._refresh(stay))

        def arrive() -> None:
            if login != self._login:
                return
            decision, child = self._server.refresh(token)
            self._tally.refreshes += 1
            self._answered(decision.outcome)
            self.on_refresh()
            if self._lost() or there + back >= REQUEST_LIMIT:
                again(REQUEST_LIMIT)
            else:
                self._world.after(back, lambda: land(child))

        def land(child: PresentedToken | None) -> None:
            if login != self._login or process != self._process:
                return
            if child is not None and (stay() or keepalive):
                self._store(child)
            again(600.0 * random.uniform(0.7, 1.0))

        if self._lost() or there >= REQUEST_LIMIT:
            again(random.uniform(1.0, REQUEST_LIMIT))
        else:
            self._world.after(there, arrive)

    def _answered(self, outcome: Outcome) -> None:
        self._tally.outcomes[outcome.value] += 1
        if outcome not in REFUSED:
            return
        if not self._alone:
            self.exposed = True
            return
        self._tally.false_logouts += 1
        self._login += 1
        self._store(self._server.log_in())
        self._writes.clear()

    def _store(self, token: PresentedToken) -> None:
        self._writes = [write for write in self._writes if write[0] > self._world.now - CRASH_LOSS]
        self._writes.append((self._world.now, self.jar))
        self.jar = token

    def _crash(self) -> None:
        """Lose the last seconds of cookies; all tabs come back at once."""
        horizon = self._world.now - self._world.random.uniform(0, CRASH_LOSS)
        lost = [before for at, before in self._writes if at > horizon]
        self._tally.crashes += 1
        if lost:
            self._tally.cookies_lost += 1
            self.jar = lost[0]
            self._writes = [write for write in self._writes if write[0] <= horizon]
        self._restart(self._world.random.expovariate(1 / 20))
        self._rarely(self._weather.crashes_per_day, self._crash)

    def _sleep(self) -> None:
        seconds = self._world.random.uniform(60, 8 * HOUR)
        self._restart(seconds)
        self._world.after(seconds, lambda: self._rarely(self._weather.sleeps_per_day, self._sleep))

    def _restart(self, seconds: float) -> None:
        self._process += 1
        for tab in range(self._weather.tabs):
            self._world.after(seconds + self._world.random.uniform(0, 2), self._page(tab))
