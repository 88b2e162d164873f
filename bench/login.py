"""Logins: their rate against the bare password hash, and what a flood of them does to refreshes.

`python -m bench.login [--quick]`

The bare hash runs on as many threads as there are cores and does nothing else; a login also looks up the user, counts the
attempt, opens a session, signs a token, and shares the cores with the database and the load.
"""

from __future__ import annotations

import asyncio
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any

from bench.figures import Figure, over_rounds, table
from bench.subjects import PASSWORD, Bench, Server, environment, seed
from keyturn.tokens.password import PasswordHasher

LOGINS = 16
"""Connections that log in as fast as they can, fewer than the queue is long."""
FLOOD = 128
"""Connections that log in when the queue holds 64."""
REFRESHES = 8
_PAUSE = 0.1


def run(*, quick: bool = False) -> list[Figure]:
    """Measure on PostgreSQL."""
    rounds, seconds, warm_up, count = (1, 0.5, 0.1, 300) if quick else (5, 6.0, 1.0, 3_000)
    with Bench() as bench:
        variables = environment(bench.postgres(), KEYTURN_TRUSTED_PROXIES="1")
        load, server = bench.load(), bench.node(variables)
        seeded = asyncio.run(seed(variables, count))
        load.load("jars", seeded.tokens)
        load.load("logins", seeded.logins)
        hashes: list[float] = []
        logins: list[dict[str, Any]] = []
        for _ in range(rounds):
            hashes.append(bare_hashes(seconds))
            logins += load.run(_logins(server, LOGINS), seconds=seconds, warm_up=warm_up)
        at_rest: list[dict[str, Any]] = []
        in_flood: list[dict[str, Any]] = []
        floods: list[dict[str, Any]] = []
        for _ in range(rounds):
            at_rest += load.run(_refreshes(server), seconds=seconds, warm_up=warm_up)
            refreshes, flood = load.run(_refreshes(server), _logins(server, FLOOD), seconds=seconds, warm_up=warm_up)
            in_flood.append(refreshes)
            floods.append(flood)
    _check(logins, at_rest, in_flood, floods)
    rates = [result["rate"] for result in logins]
    ratios = [one / other for one, other in zip(rates, hashes, strict=True)]
    slower = [one["p99"] / other["p99"] for one, other in zip(in_flood, at_rest, strict=True)]
    turned_away = sum(flood["refused"].get("503", 0) for flood in floods)
    return [
        over_rounds(f"bare password hash, {os.cpu_count()} threads", hashes, "/s"),
        over_rounds("login", rates, "/s"),
        over_rounds("login / bare password hash", ratios, "x", least=0.9),
        over_rounds("refresh at rest, p99", [result["p99"] * 1e3 for result in at_rest], "ms"),
        over_rounds("refresh while the login queue is full, p99", [one["p99"] * 1e3 for one in in_flood], "ms"),
        over_rounds("refresh p99, login queue full / at rest", slower, "x", most=3.0),
        Figure("logins turned away with 503 meanwhile", turned_away, least=1),
        Figure("refreshes that failed meanwhile", sum(sum(one["refused"].values()) for one in in_flood), most=0),
    ]


def bare_hashes(seconds: float) -> float:
    """Return how many passwords a second all cores check when they do nothing else."""
    hasher, threads = PasswordHasher(), os.cpu_count() or 1
    stored = hasher.hash(PASSWORD)
    end = perf_counter() + seconds

    def work() -> int:
        done = 0
        while perf_counter() < end:
            assert hasher.verify(stored, PASSWORD).ok
            done += 1
        return done

    started = perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        done = sum(future.result() for future in [pool.submit(work) for _ in range(threads)])
    return done / (perf_counter() - started)


def _logins(server: Server, connections: int) -> dict[str, Any]:
    return {"kind": "login", "port": server.port, "jars": "logins", "connections": connections}


def _refreshes(server: Server) -> dict[str, Any]:
    return {"kind": "refresh", "port": server.port, "jars": "jars", "connections": REFRESHES, "pause": _PAUSE}


def _check(
    logins: list[dict[str, Any]],
    at_rest: list[dict[str, Any]],
    in_flood: list[dict[str, Any]],
    floods: list[dict[str, Any]],
) -> None:
    for result in [*logins, *at_rest]:
        if result["refused"]:
            raise RuntimeError(f"refused without a flood: {result['refused']}")
    for result in floods:
        if set(result["refused"]) - {"503"}:
            raise RuntimeError(f"refused for another reason than a full queue: {result['refused']}")
    if not all(result["measured"] for result in [*logins, *at_rest, *in_flood]):
        raise RuntimeError("nothing was measured")


if __name__ == "__main__":
    print(table(run(quick="--quick" in sys.argv)))
