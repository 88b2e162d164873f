"""Counters of attempts as rows: their keys and windows, and the statements that change them.

Owns: how a limit becomes a key, how long a counter lives, how one is taken and given back in SQL. Must not hold: when to
count, and what a caller is told (`throttle.py`), several attempts at once (`counting.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple

from keyturn.core.login import Limit
from keyturn.ports import Clock
from keyturn.stores.engine import Engine
from keyturn.stores.lanes import Statement

LONGEST_WINDOW = 365 * 86400.0
"""Seconds after which even a counter without a window starts anew.

Why: anybody can make one by typing an address; a table that never forgets is one that anybody can fill. At a hundred
guesses a year the cap does what it is for.
"""
REPRIEVE = 86400.0
"""Seconds that a caller over a limit without a window is told to wait: time alone will not help."""
SPARE = 60.0
"""Seconds more than its whole life that a counter may seem to have left: a clock is read, and then a row is waited for.

One that has more was made while the clock was ahead, and is over: nobody is to wait until that time comes.
"""
GIVEN_BACK = (
    "amount = CASE WHEN given.taken = 0 OR amount < given.taken THEN 0 ELSE amount - given.taken END,"
    " expires_at = CASE WHEN given.taken = 0 THEN 0 ELSE expires_at END"
)
"""What becomes of a counter to which `given.taken` is given back: that much less. 0 empties it, and leaves it to pruning."""

Keyed = Sequence[tuple[bytes, Limit]]


def keyed(limits: Sequence[Limit]) -> Keyed:
    """Give every limit its hashed key, in the order in which counters are locked; of two under one key, one stays.

    Why the lengths are in the hash: the key ("a", "b:c") must not be the key ("a:b", "c").
    """
    return _keyed(tuple(limits))


def due_back(limits: Sequence[Limit], *, proven: bool = True) -> Keyed:
    """Do as `keyed` for those that are given back."""
    return keyed([limit for limit in limits if not (proven and limit.kept)])


# An attempt that is given back asks twice.
@lru_cache(maxsize=256)
def _keyed(limits: tuple[Limit, ...]) -> Keyed:
    hashed: dict[bytes, Limit] = {}
    for limit in limits:
        digest = sha256()
        for part in limit.key:
            encoded = part.encode("utf-8", "surrogatepass")
            digest.update(b"%d:" % len(encoded) + encoded)
        hashed[digest.digest()] = limit
    return tuple(sorted(hashed.items()))


def lifetime(limit: Limit) -> float:
    """Say for how many seconds a counter lives from its first attempt on."""
    return LONGEST_WINDOW if limit.window is None else limit.window


def now_sql(engine: Engine, clock: Clock | None) -> str:
    """Say in SQL what time it is: by the database's clock, or by the one that stands in for it in tests."""
    return engine.now_sql if clock is None else repr(float(clock()))


def waiting(limit: Limit, rest: float) -> float:
    """Say how long a refused caller waits, given the rest of the window in seconds."""
    return REPRIEVE if limit.window is None else max(rest, 0.001)


# The statements go to the driver as they are: a login pays for them twice, and building them costs more than running them.
# Their parameters are numbered, counter by counter.


@lru_cache(maxsize=64)
def take_statement(count: int, now: str) -> str:
    """Take one from each key, for SQLite: the caller has looked."""
    rows = ", ".join(f"(?{2 * i + 1}, 1, {now} + ?{2 * i + 2})" for i in range(count))
    return (
        f"INSERT INTO keyturn_counters AS held (key_hash, amount, expires_at) VALUES {rows}"  # noqa: S608 - no input in it
        f"{taken('held.amount + 1', now)}"
    )


@lru_cache(maxsize=64)
def look_statement(count: int, now: str) -> str:
    """Look at each key, for SQLite: what is not over by now."""
    keys = ", ".join("?" * count)
    return (
        f"SELECT key_hash, amount, expires_at - {now} FROM keyturn_counters"  # noqa: S608 - no input in it
        f" WHERE key_hash IN ({keys}) AND expires_at > {now}"
    )


def taken(more: str, now: str) -> str:
    """Say what becomes of a counter that is there already."""
    over = f"held.expires_at <= {now} OR held.expires_at > excluded.expires_at + {SPARE}"
    return (
        " ON CONFLICT (key_hash) DO UPDATE SET"
        f" amount = CASE WHEN {over} THEN 1 ELSE {more} END,"
        f" expires_at = CASE WHEN {over} THEN excluded.expires_at ELSE held.expires_at END"
    )


def give_back(due: Keyed, proven: bool = True, *, postgres: bool, beside: Beside | None = None) -> Statement:
    """Build the statement that gives one back to each of these counters, at least one.

    Args:
        proven: after a success, which empties a counter without a window.
        beside: what PostgreSQL does in the same statement, and before.
    """
    values = [value for key, limit in due for value in (key, int(not proven or limit.window is not None))]
    if beside is None:
        return _give_back_statement(len(due), postgres=postgres), values
    text = _give_back_beside(len(due), len(beside.parameters), beside.queries, beside.condition, beside.answer)
    return text, (*beside.parameters, *values)


class Beside(NamedTuple):
    """What a statement does beside giving back."""

    queries: str
    """As `name AS (...)`, the one after the other."""
    parameters: Sequence[object]
    condition: str
    """On which something is given back, over the queries. What it reads is done before a counter is locked."""
    answer: str
    """What is selected in the end."""


@lru_cache(maxsize=16)
def _give_back_statement(count: int, *, postgres: bool) -> str:
    queries, change = _giving_back_parts(count, 0, "true", postgres=postgres)
    return f"WITH {queries} {change}"


@lru_cache(maxsize=16)
def _give_back_beside(count: int, before: int, queries: str, condition: str, answer: str) -> str:
    more, change = _giving_back_parts(count, before, condition, postgres=True)
    return f"WITH {queries}, {more}, returned AS ({change}) {answer}"


def _giving_back_parts(count: int, before: int, condition: str, *, postgres: bool) -> tuple[str, str]:
    """Give one back to each key; where `taken` is 0 everything, so that pruning finds it over."""
    key, number, lock = ("$%d::bytea", "$%d::int", "FOR UPDATE") if postgres else ("?%d", "?%d", "")
    rows = " UNION ALL ".join(
        f"SELECT {key % (before + 2 * i + 1)} AS key_hash, {number % (before + 2 * i + 2)} AS taken"
        for i in range(count)
    )
    keys = ", ".join(key % (before + 2 * i + 1) for i in range(count))
    # Materialized, as PostgreSQL goes wrong otherwise: of the counters that somebody has changed since the statement began, it
    # changes one, as it does not read a union without a table anew for each.
    queries = (
        f"given AS MATERIALIZED ({rows}), locked AS (SELECT key_hash FROM keyturn_counters"  # noqa: S608 - no input in it
        f" WHERE key_hash IN ({keys}) AND {condition} ORDER BY key_hash {lock})"
    )
    change = (
        f"UPDATE keyturn_counters SET {GIVEN_BACK} FROM given, locked"  # noqa: S608 - no input in it
        " WHERE keyturn_counters.key_hash = given.key_hash AND given.key_hash = locked.key_hash"
    )
    return queries, change
