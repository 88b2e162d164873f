"""Refreshes per second of Keyturn and of its peers: one process each, the same PostgreSQL settings, the same load, in one run.

What each does for a request:

- Keyturn: every refresh a `confirm`, so a row is written to the disk; ES256.
- simplejwt (Django REST framework, gunicorn with threads), which rotates and keeps a blacklist: reads the user, writes two
  rows; HS256, its default.
- better-auth (Node), which rotates nothing: reads the session, signs an access token with ES256 for it. By default it writes the
  session once a day; the second variant writes it each time, as whoever ends idle sessions after an hour has to, more or less.

To add a peer: a server that prints its port and answers at `/healthz`, a subclass of `Refreshing` in `bench/load.py`, a line here.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bench.figures import Figure, over_rounds
from bench.refresh import Variant
from bench.subjects import ROOT, Bench, environment, seed
from keyturn.stores.location import without_sqlalchemy

_DAY = "86400"


def run(*, quick: bool = False) -> list[Figure]:
    """Measure. Raises: RuntimeError: a refresh was refused, or a peer does not start."""
    rounds, seconds, warm_up, ours, theirs = (1, 0.3, 0.1, 2_000, 100) if quick else (4, 4.0, 10.0, 24_000, 2_000)
    with Bench() as bench:
        variables = environment(bench.postgres())
        load = bench.load()
        load.load("keyturn", asyncio.run(seed(variables, ours)).tokens)
        variants = {"Keyturn": Variant(partial(bench.node, variables), "keyturn")}
        for name, kind, command, more in _peers():
            surroundings = {
                "PEER_DATABASE_URL": without_sqlalchemy(bench.postgres()),
                "PEER_SECRET": os.urandom(32).hex(),
                **more,
            }
            load.load(name, _prepared(command, theirs, surroundings))
            variants[name] = Variant(partial(bench.server, *command, "serve", variables=surroundings), name, kind)
        for _ in range(rounds):
            for variant in variants.values():
                variant.run(load, seconds, warm_up)
    return list(_figures(variants))


def _peers() -> Iterator[tuple[str, str, tuple[str, ...], dict[str, str]]]:
    """List each peer's name, the load's kind, the command without its last words, and its variables."""
    yield "simplejwt", "simplejwt", (sys.executable, "-m", "bench.peers.simplejwt"), {}
    node = shutil.which("node")
    if node is None:
        raise RuntimeError("node is missing")
    command = (node, str(Path("bench", "peers", "better_auth.js")))
    yield "better-auth", "better-auth", command, {"NODE_ENV": "production", "PEER_UPDATE_AGE": _DAY}
    name = "better-auth, session written each time"
    yield name, "better-auth", command, {"NODE_ENV": "production", "PEER_UPDATE_AGE": "0"}


def _prepared(command: tuple[str, ...], count: int, variables: dict[str, str]) -> list[bytes]:
    """Let a peer make its tables and users; return a token of each."""
    made = subprocess.run(
        [*command, "prepare", str(count)], cwd=ROOT, env={**os.environ, **variables}, capture_output=True, check=False
    )
    tokens = made.stdout.splitlines()
    if made.returncode or len(tokens) != count:
        raise RuntimeError(f"{command[-1]} prepared {len(tokens)} of {count} users: {made.stderr.decode()[-2000:]}")
    return tokens


def _figures(variants: dict[str, Variant]) -> Iterator[Figure]:
    ours = variants["Keyturn"]
    for name, variant in variants.items():
        yield over_rounds(f"refresh, {name}", variant.rates, "/s")
        yield over_rounds(f"server's processor time, {name}", variant.cpu, "us")
        if variant is not ours:
            faster = [one / other for one, other in zip(ours.rates, variant.rates, strict=True)]
            yield over_rounds(f"refresh, Keyturn / {name}", faster, "x", least=1.0)
