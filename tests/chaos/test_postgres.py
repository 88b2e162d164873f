"""A refresh storm over two nodes and PostgreSQL, while one part after the other breaks."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.chaos.cluster import Cluster
from tests.chaos.conftest import Report

Scale = Callable[[int, int], int]


def test_killed_servers_lose_no_acknowledged_confirm_and_sign_nobody_out(
    cluster: Cluster, scale: Scale, report: Report
) -> None:
    """SIGKILL of one node, then of both at once, in the middle of the storm: everybody goes on."""
    one, two = cluster.nodes
    with cluster.storm(browsers=scale(20, 60), tabs=3) as storm:
        with storm.fault("kill -9 of one of two nodes", scale(1, 10)) as fault:
            for _ in range(scale(1, 10)):
                with fault.outage_of_one_round():
                    victim = random.choice(cluster.nodes)
                    victim.kill9()
                    storm.wait_for("connection lost", 5)
                    victim.start()
        with storm.fault("kill -9 of all nodes", scale(1, 10)) as fault:
            for _ in range(scale(1, 10)):
                with fault.outage_of_one_round():
                    one.kill9()
                    two.kill9()
                    storm.nothing_is_missing()
                    one.start(wait=False)
                    two.start()
        report(storm)
