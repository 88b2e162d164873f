"""A database that loses commits: a failover to a standby that lags, and a restore from a backup.

Both leave browsers with tokens that are ahead of their row. After a failover the server sees the new timeline and believes
them by itself; after a restore nobody can tell, so it answers `session_behind`, keeps the cookie, and waits for the
operator's word.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.chaos.browser import COOKIE, Browser, Link
from tests.chaos.cluster import HARMLESS_EVENTS
from tests.chaos.conftest import Keep, Scale
from tests.chaos.databases import DATABASE, Standby, postgres_events, postgres_rows, snapshot
from tests.chaos.node import Node, Pace, settings
from tests.chaos.storm import Storm
from tests.chaos.wire import LoopThread, Wire
from tests.services import PostgresServer, wait_until

_CATCH_UP_TIMEOUT = 30.0
_POSITION = "SELECT pg_current_wal_flush_lsn() = replay_lsn FROM pg_stat_replication"
Begin = Callable[[PostgresServer, Wire], Storm]


@pytest.fixture
def primary() -> Iterator[PostgresServer]:
    """A PostgreSQL of this test's own, for it will not survive."""
    server = PostgresServer()
    try:
        server.start()
        server.create_database(DATABASE)
        yield server
    finally:
        server.close()


@pytest.fixture
def environment(pace: Pace) -> dict[str, str]:
    """The settings of the node; the database URL is added."""
    return settings("", pace)


@pytest.fixture
def begin(environment: dict[str, str], tmp_path: Path, thread: LoopThread, pace: Pace, scale: Scale) -> Iterator[Begin]:
    """Start a node on a database, and a storm on it."""
    with ExitStack() as ends:

        def begin(server: PostgresServer, wire: Wire) -> Storm:
            environment["KEYTURN_DATABASE_URL"] = f"postgresql://{server.user}@127.0.0.1:{wire.port}/{DATABASE}"
            node = Node(tmp_path / "node", environment, workers=scale(1, 2))
            ends.callback(node.kill9)
            node.start()
            browsers = scale(8, 40)
            rows = postgres_rows(server)
            storm = Storm(thread, [node.port], rows, browsers=browsers, tabs=3, pace=pace, thorough=True)
            storm.start()
            ends.callback(storm.close)
            return storm

        yield begin


def test_a_failover_that_lost_commits_signs_nobody_out(
    primary: PostgresServer, thread: LoopThread, begin: Begin, keep: Keep
) -> None:
    """The standby lacks confirms of every session; from the promotion on, the server heals without being told."""
    replication, wire = Wire(thread, primary.port), Wire(thread, primary.port)
    standby = Standby(primary, replication.port)
    try:
        storm = begin(primary, wire)
        standby.start()
        wait_until(lambda: primary.execute(_POSITION) == "t", _CATCH_UP_TIMEOUT, "a standby that has everything")
        replication.hold()
        storm.all_advance()
        ahead = 0

        @contextmanager
        def failover() -> Iterator[None]:
            nonlocal ahead
            primary.kill9()
            replication.cut()
            standby.promote()
            ahead = storm.read_from(postgres_rows(standby))
            yield
            wire.lead_to(standby.port)

        figures = storm.suffer("failover to a standby that lags", 1, failover)
        healed = postgres_events(standby)["healed"]
        assert ahead == len(storm.browsers)
        assert 0 < healed <= ahead
        assert storm.counts["session_behind"] == 0
        assert set(postgres_events(standby)) <= HARMLESS_EVENTS | {"healed"}
        keep(
            figures._replace(
                fault=f"{figures.fault} ({ahead} of {len(storm.browsers)} sessions ahead, {healed} healed)"
            )
        )
    finally:
        standby.close()


@pytest.mark.waits
def test_a_restore_signs_nobody_out_and_is_healed_on_the_operators_word(
    primary: PostgresServer, environment: dict[str, str], thread: LoopThread, begin: Begin, keep: Keep
) -> None:
    """A backup on the same timeline: 401 `session_behind`, the cookie stays, `keyturn heal` and everybody goes on."""
    wire = Wire(thread, primary.port)
    storm = begin(primary, wire)
    primary.stop()
    restore = snapshot(primary)
    primary.start()
    for _ in range(2):
        storm.all_advance()
    ahead = 0

    @contextmanager
    def restored() -> Iterator[None]:
        nonlocal ahead
        wire.cut()
        primary.kill9()
        restore()
        primary.start()
        ahead = storm.read_from(postgres_rows(primary))
        wire.mend()
        storm.all_are_behind()
        yield
        command = [sys.executable, "-m", "keyturn.cli", "heal", "--minutes", "5"]
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)

    figures = storm.suffer("restore from a backup, then `keyturn heal`", 1, restored)
    events = postgres_events(primary)
    assert ahead == len(storm.browsers)
    assert 0 < events["healed"] <= ahead
    assert set(events) <= HARMLESS_EVENTS | {"healed", "database_behind"}
    behind = storm.counts["session_behind"]
    keep(
        figures._replace(
            fault=f"{figures.fault} ({ahead} sessions ahead, {behind} x `session_behind`, {events['healed']} healed)"
        )
    )


def test_a_standby_that_lags_signs_nobody_out(
    primary: PostgresServer, environment: dict[str, str], thread: LoopThread, pace: Pace, tmp_path: Path
) -> None:
    """An address that leads to it before it is promoted: a session it does not know yet is 503, and no sign-out is said to be done."""
    wire, counts = Wire(thread, primary.port), Counter[str]()
    standby = Standby(primary, primary.port)
    environment["KEYTURN_DATABASE_URL"] = f"postgresql://{primary.user}@127.0.0.1:{wire.port}/{DATABASE}"
    node = Node(tmp_path / "node", environment)
    try:
        node.start()
        standby.start()
        wait_until(lambda: primary.execute(_POSITION) == "t", _CATCH_UP_TIMEOUT, "a standby that has everything")
        standby.execute("SELECT pg_wal_replay_pause()")
        browser = Browser(0, [node.port], pace, counts)
        thread.run(browser.sign_up())
        wire.lead_to(standby.port)

        async def told() -> list[int]:
            link, statuses = Link(node.port), []
            for path in ("/auth/refresh", "/auth/logout"):
                await link.send("POST", path, f"Cookie: {COOKIE}={browser.cookie}\r\n", b"")
                answer = await link.receive()
                statuses.append(answer.status)
                assert answer.status != 503 or answer.cookie() is None
            link.drop()
            return statuses

        assert thread.run(told()) == [503, 503]
        standby.execute("SELECT pg_wal_replay_resume()")
        standby.promote()
        wait_until(node.ready, _CATCH_UP_TIMEOUT, "a node that is ready")
        assert thread.run(told()) == [200, 204]
    finally:
        node.kill9()
        standby.close()
