"""Run the benchmarks and print one table: `python -m bench [--quick] [names…]`; `make bench` runs all.

Owns: which benchmarks there are. Must not hold: a measurement.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable

from bench import access_token, frameworks, growth, instructions, latency, login, refresh, revocation, start
from bench.figures import Figure, table
from bench.peers import rates as peers


def _access_token(quick: bool) -> list[Figure]:
    del quick  # it takes seconds
    bounds = {"verify warm": 3.0, "cold / raw": 1.3, "refused, slowest kind": 2000.0}
    return [
        Figure(f"access token, {name}", value, "x" if "/" in name else "us", most=bounds.get(name))
        for name, value in access_token.measure().items()
    ]


BENCHMARKS: dict[str, Callable[[bool], list[Figure]]] = {
    "refresh": lambda quick: refresh.run(quick=quick),
    "instructions": lambda quick: instructions.run(quick=quick),
    "latency": lambda quick: latency.run(quick=quick),
    "login": lambda quick: login.run(quick=quick),
    "access_token": _access_token,
    "frameworks": lambda quick: frameworks.run(quick=quick),
    "peers": lambda quick: peers.run(quick=quick),
    "growth": lambda quick: asyncio.run(growth.measure(quick=quick)),
    "revocation": lambda quick: revocation.measure(*([3] if quick else [])),
    "start": lambda quick: start.measure(*([1] if quick else [])),
}


def main() -> None:
    """Run those that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Every ratio is within one run.")
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(BENCHMARKS))
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes; shows that they run, no more")
    options = parser.parse_args()
    if unknown := set(options.names) - set(BENCHMARKS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    figures: list[Figure] = []
    for name in options.names or BENCHMARKS:
        print(f"-- {name}", flush=True)
        found = BENCHMARKS[name](options.quick)
        print(table(found), flush=True)
        figures += found
    missed = [figure.name for figure in figures if figure.reached is False]
    print(f"\n{len(figures)} figures; missed: {', '.join(missed) or 'none'}")


if __name__ == "__main__":
    main()
