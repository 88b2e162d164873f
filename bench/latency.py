"""How long one refresh takes when nothing else happens: one connection, one request at a time, with pauses.

`python -m bench.latency [--quick]`
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from bench.figures import Figure, over_rounds, table
from bench.refresh import storm
from bench.subjects import Bench, Load, Server, environment, seed

MOST_OVER_BARE = 4.0
"""Milliseconds, on PostgreSQL."""
_PAUSE = 0.01


def run(*, quick: bool = False) -> list[Figure]:
    """Measure a `confirm` on both databases against the bare handler, in turn."""
    rounds, seconds, count = (1, 0.3, 300) if quick else (7, 2.0, 1_500)
    with Bench() as bench:
        load, times = bench.load(), dict[str, list[dict[str, Any]]](bare=[], postgresql=[], sqlite=[])
        servers = {"bare": bench.bare()}
        for name, url in (("postgresql", bench.postgres()), ("sqlite", bench.sqlite())):
            variables = environment(url)
            load.load(name, asyncio.run(seed(variables, count)).tokens)
            servers[name] = bench.node(variables)
        load.load("bare", [b"kt_rt_" + b"x" * 88] * count)
        for _ in range(rounds):
            for name, server in servers.items():
                times[name].append(_one_at_a_time(load, server, name, seconds))
    found: list[Figure] = []
    for name, results in times.items():
        p50 = [result["p50"] * 1e3 for result in results]
        p99 = max(result["p99"] * 1e3 for result in results)
        found.append(over_rounds(f"one refresh at rest, p50, {name}", p50, "ms", note=f"p99 {p99:.1f} ms at most"))
    for name, most in (("postgresql", MOST_OVER_BARE), ("sqlite", None)):
        more = [(one["p50"] - other["p50"]) * 1e3 for one, other in zip(times[name], times["bare"], strict=True)]
        found.append(over_rounds(f"one refresh at rest, p50, {name} - bare", more, "ms", most=most))
    return found


def _one_at_a_time(load: Load, server: Server, jars: str, seconds: float) -> dict[str, Any]:
    (result,) = load.run({**storm(server, jars), "connections": 1, "pause": _PAUSE}, seconds=seconds, warm_up=0.2)
    if result["refused"] or not result["measured"]:
        raise RuntimeError(f"{jars}: {result}")
    return result


if __name__ == "__main__":
    print(table(run(quick="--quick" in sys.argv)))
