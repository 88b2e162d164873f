"""Thieves while the database fails over: sessions with two holders each, and browsers that nobody has robbed.

Of two holders at most one goes on; whoever holds a session alone is never signed out; what a synchronous standby was to
have, it has. The limits that `docs/explanation/rotation-proof.md` names are shown to be what is said of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import cycle
from math import inf
from pathlib import Path
from random import Random
from time import monotonic, sleep

import pytest

from tests.chaos.browser import Browser
from tests.chaos.cluster import HARMLESS_EVENTS
from tests.chaos.conftest import Keep, Scale
from tests.chaos.databases import DATABASE, postgres_events, postgres_rows
from tests.chaos.node import Node, Pace, settings
from tests.chaos.replicas import Replicas
from tests.chaos.rivals import Holder, Races, Span
from tests.chaos.storm import GO_ON_TIMEOUT, Figures, Storm
from tests.chaos.wire import LoopThread, Wire
from tests.services import PostgresServer, wait_until

_FOUND_OUT = {"reuse_detected", "session_ended"}
_AHEAD = 1.5
"""Seconds by which one server's clock is ahead of the other's."""
_WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
Begin = Callable[..., "World"]


class World:
    """Two servers that change places, two nodes of three processes in all, browsers and robbed browsers.

    Attributes:
        spans: the times in which no commit was lost, but for the one that lasts.
    """

    def __init__(self, pair: Replicas, nodes: list[Node], storm: Storm, races: Races, pace: Pace) -> None:
        self.pace = pace
        self.pair = pair
        self.nodes = nodes
        self.storm = storm
        self.races = races
        self.spans: list[Span] = []
        self._since = 0.0

    def lose(self) -> None:
        """Let what is committed from now on be lost by the next failover."""
        self.spans.append(Span(self._since, monotonic()))
        self._since = inf
        self.pair.lose()

    def fail_over(self, end: Callable[[], None]) -> None:
        """End the primary, and promote the standby."""
        end()
        self.pair.promote()
        if self._since == inf:
            self._since = monotonic()
        self.storm.read_from(postgres_rows(self.pair.primary))

    def told(self) -> list[tuple[str, int, str]]:
        """List what clients were told: a session, the generation that is confirmed, and whether it is over."""
        told = [(browser.session, browser.acknowledged, "") for browser in self.storm.browsers]
        return told + [(holder.session, holder.acknowledged, holder.over) for holder in self.races.holders]

    def all_is_there(self, told: list[tuple[str, int, str]]) -> None:
        """Assert that the primary has what clients were told."""
        rows = postgres_rows(self.pair.primary)()
        missing = [
            (id_, generation, over, rows.get(id_))
            for id_, generation, over in told
            if id_ not in rows or rows[id_].generation < generation or bool(over) > bool(rows[id_].revoked_reason)
        ]
        assert not missing, (len(missing), missing[:5])

    def behind(self) -> int:
        """Count the answers `session_behind`."""
        return self.storm.counts["session_behind"] + self.races.counts["session_behind"]

    def end(self) -> int:
        """Wait for the end of each race, stop everybody, assert what must hold; return how many were stolen."""
        self.races.settle()
        self.storm.stop()
        self.races.close()
        self.races.nothing_is_wrong()
        self.races.nobody_went_on_beside_another([*self.spans, Span(self._since, inf)])
        return sum(race.chosen for race in self.races.races)


@pytest.fixture
def begin(thread: LoopThread, tmp_path: Path, pace: Pace) -> Iterator[Begin]:
    """Start it all."""
    with ExitStack() as ends:

        def begin(
            *, synchronous: bool, browsers: int, races: int, pace: Pace = pace, ahead: float = 0.0, **more: str
        ) -> World:
            pair = Replicas(thread, synchronous=synchronous, ahead=ahead)
            ends.callback(pair.close)
            pair.start()
            environment = settings("", pace, **more)
            nodes = [
                Node(tmp_path / name, {**environment, "KEYTURN_DATABASE_URL": pair.url()}, workers=workers)
                for name, workers in (("one", 2), ("two", 1))
            ]
            for node in nodes:
                ends.callback(node.kill9)
                node.start()
            ports, strict = [node.port for node in nodes], "KEYTURN_ROTATION" in more
            rows = postgres_rows(pair.primary)
            storm = Storm(thread, ports, rows, browsers=browsers, tabs=3, pace=pace, thorough=True)
            ends.callback(storm.close)
            robbed = Races(thread, ports, races=races, pace=pace, strict=strict)
            ends.callback(robbed.close)
            storm.start()
            robbed.start()
            return World(pair, nodes, storm, robbed, pace)

        yield begin


def _there_and_back(world: World, share: int, *, lossy: bool) -> Callable[[], AbstractContextManager[None]]:
    """Return a failover: some sessions are stolen around it, and a node may sleep through it.

    A node that wakes up has requests and connections of before. Who was failed over from is rebuilt.

    Args: lossy: whether the standby lags when it takes over.
    """
    pair, random = world.pair, Random(share)
    ends = cycle((pair.kill, pair.isolate, pair.isolate, pair.stop))
    sleepers = cycle((world.nodes[0], None, world.nodes[1], None))

    @contextmanager
    def failover() -> Iterator[None]:
        world.races.rob(share, 2 * world.pace.settle)
        sleep(random.uniform(0.2, 1) * world.pace.settle)
        if lossy:
            world.lose()
            sleep(random.uniform(0.3, 1.2) * world.pace.settle)
        sleeper = next(sleepers)
        asleep = [] if sleeper is None else sleeper.servers
        for process in asleep:
            process.suspend()
        told = world.told()
        world.fail_over(next(ends))
        if not lossy:
            world.all_is_there(told)
        yield
        if asleep:
            sleep(random.uniform(0, 1.5) * world.pace.settle)
        for process in asleep:
            process.resume()
        pair.rebuild()

    return failover


@pytest.mark.waits
def test_thieves_while_standbys_take_over(begin: Begin, scale: Scale, keep: Keep) -> None:
    """First one that is synchronous: nothing that anybody was told is missing. Then one that lags: who was robbed is believed
    or found out, and so is the thief."""
    rounds, share = scale(1, 6), scale(8, 12)
    world = begin(synchronous=True, browsers=scale(6, 20), races=2 * rounds * share)
    pair, storm, races = world.pair, world.storm, world.races
    figures = storm.suffer(
        "thieves while a synchronous standby takes over", rounds, _there_and_back(world, share, lossy=False)
    )
    races.settle()
    world.all_is_there(world.told())
    events = postgres_events(pair.primary)
    assert set(events) <= HARMLESS_EVENTS | _FOUND_OUT
    assert events["reuse_detected"] == events["session_ended"] == rounds * share
    keep(figures._replace(fault=f"{figures.fault} ({rounds * share} sessions of two holders, all ended)"))

    pair.be_asynchronous()
    figures = storm.suffer(
        "thieves while a standby that lags takes over", rounds, _there_and_back(world, share, lossy=True)
    )
    assert world.end() == 2 * rounds * share
    _keep_healed(world, figures, rounds * share, keep)


def _keep_healed(world: World, figures: Figures, stolen: int, keep: Keep) -> None:
    """Keep the figures of failovers that have lost commits, where nothing happened but what may."""
    events = postgres_events(world.pair.primary)
    assert set(events) <= HARMLESS_EVENTS | _FOUND_OUT | {"healed"}
    assert not world.behind()
    said = f"{stolen} sessions of two holders, one at most went on; {events['healed']} healed"
    keep(figures._replace(fault=f"{figures.fault} ({said})"))


@pytest.mark.long_run
def test_thieves_while_servers_take_over_whose_clocks_differ(begin: Begin, pace: Pace, keep: Keep) -> None:
    """There and back, with commits lost: what a settle time that is longer by the difference bears."""
    rounds, share = 6, 12
    longer = pace._replace(settle=pace.settle + _AHEAD)
    world = begin(synchronous=False, ahead=_AHEAD, browsers=20, races=rounds * share, pace=longer)
    assert world.pair.difference() > _AHEAD / 2
    figures = world.storm.suffer(
        f"thieves while servers take over whose clocks differ by {_AHEAD} s",
        rounds,
        _there_and_back(world, share, lossy=True),
    )
    stolen = world.end()
    _keep_healed(world, figures, stolen, keep)


@pytest.mark.long_run
def test_thieves_of_strict_sessions(begin: Begin) -> None:
    """The same in strict mode. Of those whom nobody robs no one is signed out who got every answer."""
    rounds, share = 4, 12
    stolen = 2 * rounds * share
    world = begin(synchronous=True, browsers=0, races=stolen + 2 * share, KEYTURN_ROTATION="strict")
    for lossy in (False, True):
        failover = _there_and_back(world, share, lossy=lossy)
        for _ in range(rounds):
            with failover():
                pass
            world.races.settle()
        if not lossy:
            world.all_is_there(world.told())
            world.pair.be_asynchronous()
    assert world.end() == stolen
    assert not world.behind()


@pytest.mark.parametrize("rotation", ["confirmed", "strict"])
def test_an_answer_that_is_503_because_the_databases_was_lost(
    thread: LoopThread, tmp_path: Path, pace: Pace, rotation: str
) -> None:
    """What was written stays written. Nobody notices, but in strict mode: there the browser lacks the token that counts."""
    with ExitStack() as ends:
        server = PostgresServer()
        ends.callback(server.close)
        server.start()
        server.create_database(DATABASE)
        wire, rows = Wire(thread, server.port), postgres_rows(server)
        url = f"postgresql://{server.user}@127.0.0.1:{wire.port}/{DATABASE}"
        node = Node(tmp_path / "node", settings(url, pace, KEYTURN_ROTATION=rotation))
        ends.callback(node.kill9)
        node.start()
        browser = Browser(0, [node.port], pace, Counter())
        thread.run(browser.sign_up())
        if rotation == "confirmed":
            thread.run(browser.ask(node.port, keep=True))
            sleep(pace.settle + 1)

        # The commit takes place, and its answer waits for a standby that there is not.
        _wait_for(server, "nobody")
        before, answer = rows(), thread.begin(browser.ask(node.port))
        wait_until(lambda: server.execute(_WAITING) == "1", GO_ON_TIMEOUT, "a write that waits")
        wire.reset()
        assert answer.result(GO_ON_TIMEOUT) == (503, "unavailable")
        _wait_for(server, "")
        wait_until(lambda: rows() != before, GO_ON_TIMEOUT, "a refresh that is written")
        assert thread.run(browser.ask(node.port)) == ((200, "") if rotation == "confirmed" else (401, "session_ended"))


def _wait_for(server: PostgresServer, names: str) -> None:
    """Let each commit wait for these standbys."""
    server.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
    server.execute("SELECT pg_reload_conf()")
    wait_until(lambda: server.execute("SHOW synchronous_standby_names") == names, GO_ON_TIMEOUT, "the setting")


@pytest.mark.long_run
@pytest.mark.parametrize("synchronous", [False, True], ids=["asynchronous", "synchronous"])
def test_two_primaries_at_once(begin: Begin, thread: LoopThread, pace: Pace, keep: Keep, synchronous: bool) -> None:
    """A primary that was failed over from and is not shut out: one node stays with it, the other goes to the new one.

    With an asynchronous standby both holders go on, one at each, until the old one is gone; with a synchronous one nothing is
    written there. Whoever holds a session alone is not signed out, if the session is as old as the failover.
    """
    world = begin(synchronous=synchronous, browsers=20, races=20)
    pair, storm, races = world.pair, world.storm, world.races
    old, (stays, goes) = pair.primary, world.nodes
    for race in races.races:
        race.owner.ports = [goes.port]
    pair.ways(pair.standby)[0].cut()
    robbed = races.rob(len(races.races), 0.0, [stays.port])

    @contextmanager
    def both_live() -> Iterator[None]:
        pair.ways(old)[1].cut()
        world.fail_over(lambda: None)
        yield
        rows = postgres_rows(old)
        before = rows()
        _all_go_on([holder for race in robbed for holder in race.holders if not synchronous or holder is race.owner])
        if synchronous:
            assert rows() == before
        else:
            newcomer = Browser(len(storm.browsers), [goes.port], pace, Counter())
            thread.run(newcomer.sign_up())
            assert thread.run(newcomer.ask(stays.port)) == (401, "no_session")
        for wire in pair.ways(old):
            wire.cut()
        for wire in pair.ways(pair.primary):
            wire.mend()
        pair.rebuild()

    name = f"two primaries at once, after {'a synchronous' if synchronous else 'an asynchronous'} standby took over"
    figures = storm.suffer(name, 1, both_live)
    assert bool(world.behind()) is not synchronous
    races.settle()
    storm.stop()
    keep(figures._replace(fault=f"{figures.fault} ({world.behind()} x `session_behind`)"))


def _all_go_on(holders: Sequence[Holder]) -> None:
    """Wait until each holder has confirmed a token twice more, and none is found out."""
    before = [holder.acknowledged for holder in holders]
    pairs = list(zip(holders, before, strict=True))
    wait_until(
        lambda: all(holder.over or holder.acknowledged > was + 1 for holder, was in pairs),
        GO_ON_TIMEOUT,
        "all going on",
    )
    assert not any(holder.over for holder in holders)
