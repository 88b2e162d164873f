"""A refresh storm over two nodes and PostgreSQL, while one part after the other breaks.

Every test here asserts the same claims, in `Storm.suffer`: nobody is refused or signed out, no cookie is cleared, every
confirm that a browser was told of is in the database, and everybody goes on by themselves when the fault is over. At
the end of all the event log holds no reuse.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from tests.chaos.cluster import READY_TIMEOUT, Cluster
from tests.chaos.conftest import Scale, Suffer
from tests.chaos.databases import DATABASE, every_process
from tests.chaos.storm import Storm
from tests.chaos.wire import LoopThread
from tests.services import frozen, wait_until


def test_everybody_goes_on_when_one_of_two_nodes_is_killed(
    cluster: Cluster, storm: Storm, suffer: Suffer, scale: Scale
) -> None:
    """SIGKILL of one node; the other one serves its browsers meanwhile."""

    @contextmanager
    def killed() -> Iterator[None]:
        victim = random.choice(cluster.nodes)
        victim.kill9()
        storm.wait_for("connection lost", 5)
        storm.all_go_on()
        yield
        victim.start()

    suffer("`kill -9` of one of two nodes", scale(1, 5), killed)


def test_everybody_goes_on_when_all_nodes_are_killed(cluster: Cluster, suffer: Suffer, scale: Scale) -> None:
    """SIGKILL of all servers at once, in the middle of everything, and a restart."""

    @contextmanager
    def killed() -> Iterator[None]:
        for node in cluster.nodes:
            node.kill9()
        yield
        for node in cluster.nodes:
            node.start(wait=False)
        cluster.wait_until_ready()

    suffer("`kill -9` of all nodes", scale(1, 5), killed)


def test_nobody_is_signed_out_by_what_a_frozen_node_finds_in_its_queue(
    cluster: Cluster, storm: Storm, suffer: Suffer, scale: Scale
) -> None:
    """SIGSTOP of one node until the tokens in its queue would be reuse; their senders have gone on at the other node."""

    @contextmanager
    def asleep() -> Iterator[None]:
        victim = random.choice(cluster.nodes)
        with frozen([victim.process, *victim.process.children()]):
            storm.all_advance()
            storm.all_go_on()
            yield

    suffer("`SIGSTOP` of one of two nodes", scale(1, 3), asleep)


def test_everybody_goes_on_when_a_worker_is_killed(cluster: Cluster, suffer: Suffer, scale: Scale) -> None:
    """SIGKILL of one of a node's processes: its supervisor starts another one."""
    node = cluster.nodes[0]

    @contextmanager
    def killed() -> Iterator[None]:
        victim = random.choice(node.servers)
        victim.kill()
        yield
        wait_until(lambda: victim not in node.servers and node.serve(), 30, "a new worker")

    suffer("`kill -9` of one worker of a node", scale(1, 3), killed)


def test_no_confirm_is_missing_when_postgresql_is_killed(
    cluster: Cluster, storm: Storm, suffer: Suffer, scale: Scale
) -> None:
    """SIGKILL of the postmaster and all its children; nodes answer 503, live on, and come back without a restart."""

    @contextmanager
    def killed() -> Iterator[None]:
        cluster.postgres.kill9()
        cluster.wait_until_not_ready()
        storm.wait_for("503", 20)
        assert cluster.log_in() == (503, "unavailable")
        yield
        cluster.postgres.start()
        storm.nothing_is_missing()

    suffer("`kill -9` of PostgreSQL", scale(1, 8), killed)


def test_a_node_survives_a_worker_that_is_killed_while_postgresql_is_away(
    cluster: Cluster, storm: Storm, suffer: Suffer, scale: Scale
) -> None:
    """The new worker cannot start; the supervisor tries again until it can, and leaves the other worker alone."""
    node = cluster.nodes[0]

    @contextmanager
    def killed() -> Iterator[None]:
        supervisor = node.process
        # A worker may have been there for a moment only, as one that cannot start.
        wait_until(node.serve, 60, "the other worker")
        cluster.wire.cut()
        cluster.wait_until_not_ready()
        failures = node.log.read_text().count("the worker does not start")
        max(node.servers, key=lambda server: server.create_time()).kill()
        wait_until(lambda: node.log.read_text().count("the worker does not start") > failures, 60, "a failed start")
        storm.wait_for("503", 5)
        assert node.healthy()
        yield
        cluster.wire.mend()
        wait_until(node.serve, 60, "a new worker")
        assert node.process == supervisor

    suffer("`kill -9` of a worker while PostgreSQL is away", scale(1, 2), killed)


def test_everybody_goes_on_when_postgresql_hangs(cluster: Cluster, suffer: Suffer, scale: Scale) -> None:
    """SIGSTOP of PostgreSQL: nothing is refused and nothing answers, until SIGCONT."""

    @contextmanager
    def stopped() -> Iterator[None]:
        with frozen(every_process(cluster.postgres)):
            cluster.wait_until_not_ready()
            yield

    suffer("`SIGSTOP` of PostgreSQL", scale(1, 3), stopped)


def test_everybody_goes_on_when_the_way_to_postgresql_is_cut(
    cluster: Cluster, storm: Storm, suffer: Suffer, scale: Scale
) -> None:
    """Every connection is reset and no new one is let through, then they are again."""

    @contextmanager
    def cut() -> Iterator[None]:
        cluster.wire.cut()
        cluster.wait_until_not_ready()
        storm.wait_for("503", 20)
        yield
        cluster.wire.mend()

    suffer("connections to PostgreSQL cut", scale(1, 5), cut)


def test_everybody_goes_on_when_the_way_to_postgresql_swallows_everything(
    cluster: Cluster, suffer: Suffer, scale: Scale
) -> None:
    """Packets vanish without a word, as behind a firewall that forgot; what was under way is lost for good."""

    @contextmanager
    def swallowed() -> Iterator[None]:
        cluster.wire.hold()
        cluster.wait_until_not_ready()
        yield
        cluster.wire.reset()
        cluster.wire.mend()

    suffer("packets to PostgreSQL lost", scale(1, 2), swallowed)


def test_everybody_goes_on_when_connections_to_postgresql_break_again_and_again(
    cluster: Cluster, storm: Storm, suffer: Suffer, scale: Scale
) -> None:
    """Ten resets of all connections while browsers refresh: some of them between a commit and its answer."""

    @contextmanager
    def reset() -> Iterator[None]:
        for _ in range(10):
            storm.wait_for("refreshed", 5)
            cluster.wire.reset()
        yield

    suffer("connections to PostgreSQL reset, ten times", scale(1, 5), reset)


def test_everybody_goes_on_when_the_way_to_postgresql_is_slow(
    cluster: Cluster, storm: Storm, suffer: Suffer, scale: Scale
) -> None:
    """Each packet to and from the database is a tenth of a second late."""

    @contextmanager
    def slow() -> Iterator[None]:
        cluster.wire.slow(0.1)
        storm.all_advance()
        yield
        cluster.wire.mend()

    suffer("packets to PostgreSQL 0.1 s late", scale(1, 2), slow)


def test_everybody_goes_on_when_postgresql_has_no_connection_left(
    cluster: Cluster, storm: Storm, suffer: Suffer, thread: LoopThread, scale: Scale
) -> None:
    """Somebody else holds every connection that the server gives."""

    @contextmanager
    def exhausted() -> Iterator[None]:
        cluster.wire.cut()
        hog = thread.run(_take_all(cluster.postgres.port, cluster.postgres.user))
        cluster.wire.mend()
        cluster.wait_until_not_ready()
        storm.wait_for("503", 20)
        yield
        thread.run(_release(hog))

    suffer("PostgreSQL without a free connection", scale(1, 2), exhausted)


def test_everybody_goes_on_when_postgresql_is_read_only(
    cluster: Cluster, storm: Storm, suffer: Suffer, scale: Scale
) -> None:
    """The database takes no writes, as hosting services set it when the disk is full: nothing is acknowledged that is not written."""

    @contextmanager
    def read_only() -> Iterator[None]:
        cluster.postgres.execute(f"ALTER DATABASE {DATABASE} SET default_transaction_read_only = on")
        cluster.wire.reset()
        storm.wait_for("503", 20)
        yield
        cluster.postgres.execute(f"ALTER DATABASE {DATABASE} RESET default_transaction_read_only")
        cluster.wire.reset()

    suffer("PostgreSQL read-only", scale(1, 2), read_only)


def test_refresh_does_not_notice_when_redis_is_killed(
    cluster: Cluster, storm: Storm, suffer: Suffer, scale: Scale
) -> None:
    """SIGKILL of Redis: sign-in is 503, for nobody counts attempts; a refresh needs no Redis, and each node stays ready."""

    @contextmanager
    def killed() -> Iterator[None]:
        cluster.redis.kill9()
        cluster.wait_until_ready()
        assert cluster.log_in() == (503, "unavailable")
        storm.all_advance()
        yield
        cluster.redis.start()
        wait_until(lambda: cluster.log_in() == (200, ""), READY_TIMEOUT, "a sign-in with Redis")

    figures = suffer("`kill -9` of Redis", scale(1, 3), killed)
    assert figures.counts.get("503", 0) == 0


async def _take_all(port: int, user: str) -> list[asyncpg.Connection]:
    """Connect until the server refuses."""
    held: list[asyncpg.Connection] = []
    with contextlib.suppress(asyncpg.TooManyConnectionsError):
        while True:
            link = asyncpg.connect(host="127.0.0.1", port=port, user=user, database="postgres", ssl=False)  # type: ignore[no-untyped-call]
            held.append(await link)
    return held


async def _release(held: list[asyncpg.Connection]) -> None:
    for connection in held:
        connection.terminate()  # type: ignore[no-untyped-call]
