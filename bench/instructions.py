"""How many instructions the server's process takes for a refresh, counted by valgrind, beside the bare handler.

`python -m bench.instructions [--quick]`; needs valgrind.

A count is the same to a few thousandths each time, whatever the machine's neighbours do, so it shows what a change of 1 %
is worth; a rate does not. It says nothing of the kernel, of caches, or of the database, and the processor that valgrind plays
has no instructions for SHA-256.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

from bench.figures import Figure, table
from bench.refresh import storm
from bench.subjects import Bench, Load, Server, environment, seed
from tests.services import find_program

_TOTAL = re.compile(r"^totals: (\d+)", re.MULTILINE)


def run(*, quick: bool = False) -> list[Figure]:
    """Count on both databases. Raises: ServiceError: there is no valgrind."""
    seconds, count = (0.5, 500) if quick else (12.0, 6_000)
    valgrind = str(find_program("valgrind"))
    counts: dict[str, float] = {}
    with Bench() as bench:
        load, starts = bench.load(), {"bare": bench.bare}
        for name, url in (("postgresql", bench.postgres()), ("sqlite", bench.sqlite())):
            variables = environment(url)
            load.load(name, asyncio.run(seed(variables, count)).tokens)
            starts[name] = partial(bench.node, variables)
        load.load("bare", [b"kt_rt_" + b"x" * 88] * count)
        for name, start in starts.items():
            written = bench.directory / f"{name}.callgrind"
            options = ("--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={written}")
            counts[name] = _count(start(under=(valgrind, *options)), load, name, seconds, written)
    found = [Figure(f"instructions of a refresh, {name}", value) for name, value in counts.items()]
    more = (
        Figure(f"instructions, bare / {name}", counts["bare"] / counts[name], "x") for name in starts if name != "bare"
    )
    return [*found, *more]


def _count(server: Server, load: Load, jars: str, seconds: float, written: Path) -> float:
    group = storm(server, jars)
    load.run(group, seconds=seconds / 4, warm_up=0.0)
    _instrument(server, "on")
    (result,) = load.run(group, seconds=seconds, warm_up=0.0)
    _instrument(server, "off")
    server.close()
    if result["refused"]:
        raise RuntimeError(f"{jars}: {result['refused']}")
    total = _TOTAL.search(written.read_text())
    assert total is not None
    return int(total[1]) / int(result["answered"])


def _instrument(server: Server, whether: str) -> None:
    control = find_program("callgrind_control")
    subprocess.run([control, "-i", whether, str(server.pid)], check=True, capture_output=True)


if __name__ == "__main__":
    print(table(run(quick="--quick" in sys.argv)))
