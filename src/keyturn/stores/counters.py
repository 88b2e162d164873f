"""Counters of attempts as rows: their keys and windows, and the statements that change them.

Owns: how a limit becomes a key, how long a counter lives, how one is taken and given back in SQL. Must not hold: when to
count, and what a caller is told (`throttle.py`), several attempts at once (`counting.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256

from keyturn.core.login import Limit
from keyturn.ports import Clock
from keyturn.stores.arrays import columns_of, unnest
from keyturn.stores.engine import Engine
from keyturn.stores.lanes import Work

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


# What becomes of a counter to which `given.taken` is given back: that much less. 0 empties it, and leaves it to pruning.
_GIVEN_BACK = (
    "amount = CASE WHEN given.taken = 0 OR amount < given.taken THEN 0 ELSE amount - given.taken END,"
    " expires_at = CASE WHEN given.taken = 0 THEN 0 ELSE expires_at END"
)
RETURNED = (
    "locked AS (SELECT key_hash FROM keyturn_counters WHERE key_hash = ANY(ARRAY(SELECT key_hash FROM given))"  # noqa: S608 - no input in it
    f" ORDER BY key_hash FOR UPDATE), returned AS (UPDATE keyturn_counters AS held SET {_GIVEN_BACK} FROM given, locked"
    " WHERE held.key_hash = given.key_hash AND given.key_hash = locked.key_hash)"
)
"""Two queries for PostgreSQL's WITH: what `given (key_hash, taken)` has is given back, and locked before in the order of the keys.

`given` stands before them, MATERIALIZED: PostgreSQL goes wrong otherwise where somebody has changed counters since the statement began.
"""
_GIVE_BACK_POSTGRES = (
    f"WITH given AS MATERIALIZED (SELECT * FROM {unnest(('bytea', 'int'))} AS v (key_hash, taken)), {RETURNED} SELECT 1"  # noqa: S608 - as above
)
_GIVE_BACK_SQLITE = f"UPDATE keyturn_counters SET {_GIVEN_BACK} FROM (SELECT ?2 AS taken) AS given WHERE key_hash = ?1"  # noqa: S608 - as above


def given_of(due: Keyed, proven: bool = True) -> Sequence[tuple[bytes, int]]:
    """Say what each counter is given back, in the order in which counters are locked; 0: everything.

    Args: proven: after a success, which empties a counter without a window.
    """
    return [(key, int(not proven or limit.window is not None)) for key, limit in due]


def give_back(due: Keyed, proven: bool = True, *, postgres: bool) -> Work[None]:
    """Give back to these counters: one statement in PostgreSQL, in SQLite one for each."""
    given = given_of(due, proven)
    if postgres:
        yield _GIVE_BACK_POSTGRES, columns_of(given, 2)
    else:
        for row in given:
            yield _GIVE_BACK_SQLITE, row
