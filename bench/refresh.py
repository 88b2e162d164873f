"""Refreshes per second: every request a `confirm`, against a bare handler on the same server, in one run.

`python -m bench.refresh [--quick] [postgresql] [sqlite]`

The load, the server and the database are processes of their own and share the machine's cores; nothing is pinned. Each
round runs every variant once, one after the other, and compares within the round, so that whatever else the machine does
falls on all of them. Each does so in a new process: how one lies in memory decides over several percent, for its whole life.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from bench.figures import Figure, over_rounds, table
from bench.load import RIPE_AFTER
from bench.subjects import Bench, Load, Server, confirmed, environment, seed

CONNECTIONS = 64
LEAST = {"postgresql": 0.5, "sqlite": 0.55}
AIM = {"postgresql": 0.65, "sqlite": 0.7}


def storm(server: Server, jars: str, kind: str = "refresh") -> dict[str, Any]:
    """Describe the load: so many connections, each with its share of the jars, `bare`, a node's or a peer's."""
    group = {"kind": kind, "port": server.port, "jars": jars, "connections": CONNECTIONS}
    # The baseline looks at no token, and a peer's may be used at once, so none needs to ripen for them.
    return {**group, "ripe_after": RIPE_AFTER if kind == "refresh" and jars != "bare" else 0.0}


class Variant:
    """A server that is measured in turn with others.

    Args:
        start: starts it anew for each round.
        jars, kind: as for `storm`.

    Attributes:
        rates: refreshes a second, in each round.
        cpu: microseconds of its processor time for each refresh, in each round.
    """

    def __init__(self, start: Callable[[], Server], jars: str, kind: str = "refresh") -> None:
        self.start = start
        self.jars = jars
        self.kind = kind
        self.rates: list[float] = []
        self.cpu: list[float] = []
        self.answered = 0
        self.results: list[dict[str, Any]] = []

    def run(self, load: Load, seconds: float, warm_up: float) -> None:
        """Measure one round."""
        server = self.start()
        group = storm(server, self.jars, self.kind)
        results = load.run(group, seconds=warm_up, warm_up=0.0)
        before = server.cpu_seconds()
        results += load.run(group, seconds=seconds, warm_up=0.0)
        used = server.cpu_seconds() - before
        server.close()
        for result in results:
            if result["refused"]:
                raise RuntimeError(f"{self.jars}: {result['refused']}")
            self.answered += result["answered"]
        self.cpu.append(used / max(1, results[-1]["answered"]) * 1e6)
        self.rates.append(results[-1]["rate"])
        self.results += results


def measure(database: str, *, quick: bool = False) -> list[Figure]:
    """Measure one database."""
    rounds, seconds, warm_up, count = (1, 0.3, 0.05, 2_000) if quick else (12, 2.0, 1.0, 24_000)
    with Bench() as bench:
        variables = environment(bench.postgres() if database == "postgresql" else bench.sqlite())
        load = bench.load()
        variants = {"bare": Variant(bench.bare, "bare")}
        load.load("bare", asyncio.run(seed(variables, count)).tokens)
        # What was seeded for the baseline stays untouched: it is not in the sum of generations.
        for name in ("groups", "no groups") if database == "postgresql" else ("groups",):
            load.load(name, asyncio.run(seed(variables, count)).tokens)
            variants[name] = Variant(partial(bench.node, variables, groups=name == "groups"), name)
        for _ in range(rounds):
            for variant in variants.values():
                variant.run(load, seconds, warm_up)
        ours = [variant for name, variant in variants.items() if name != "bare"]
        expected, found = sum(variant.answered for variant in ours), asyncio.run(confirmed(variables))
        if expected != found:
            raise RuntimeError(f"{expected} refreshes were answered, {found} were confirmed")
    return list(_figures(database, variants))


def _figures(database: str, variants: dict[str, Variant]) -> Sequence[Figure]:
    bare, groups = variants["bare"], variants["groups"]
    ratios = [one / other for one, other in zip(groups.rates, bare.rates, strict=True)]
    cpu = [one / other for one, other in zip(bare.cpu, groups.cpu, strict=True)]
    figures = [
        over_rounds(f"refresh, bare handler ({database} run)", bare.rates, "/s"),
        over_rounds(f"refresh, {database}", groups.rates, "/s", note=f"p99 {groups.results[-1]['p99'] * 1e3:.0f} ms"),
        over_rounds(f"refresh, {database} / bare", ratios, "x", least=LEAST[database], note=f"aim {AIM[database]}"),
        over_rounds(f"server's processor time, bare ({database} run)", bare.cpu, "us"),
        over_rounds(f"server's processor time, {database}", groups.cpu, "us"),
        over_rounds(f"processor time, bare / {database}", cpu, "x"),
    ]
    if "no groups" in variants:
        single = variants["no groups"]
        gain = [one / other for one, other in zip(groups.rates, single.rates, strict=True)]
        figures.append(over_rounds(f"refresh, {database} without groups", single.rates, "/s"))
        figures.append(over_rounds(f"refresh, {database} groups / no groups", gain, "x", least=1.5))
    waits = sum(result["waits"] for variant in variants.values() for result in variant.results)
    figures.append(Figure(f"refresh, {database}: waits for a ripe token", waits, note="0: the load kept up"))
    return figures


def run(*, quick: bool = False, databases: Sequence[str] = ("postgresql", "sqlite")) -> list[Figure]:
    """Measure both databases."""
    return [figure for database in databases for figure in measure(database, quick=quick)]


if __name__ == "__main__":
    chosen = [name for name in sys.argv[1:] if name in LEAST] or list(LEAST)
    print(table(run(quick="--quick" in sys.argv, databases=chosen)))
