"""Counters of attempts: take one from every limit, or from none, exactly, across all nodes.

Owns: counting in the database, in Redis and in memory. Must not hold: what is counted and how much is allowed
(`core/login.py`), what a refused caller gets (`web/`).

Why not the strategies of the `limits` library: its storages change one key at a time. An attempt here takes from up to
three counters at once; taken one after the other and given back when the last refuses, the first two refuse a neighbour
meanwhile, keep what a killed node had taken, and count below zero when the window ends in between. Each of the three
below is one atomic step.

A window begins with its first attempt and ends `window` seconds later, all at once. A limit without a window counts
consecutive failures. Keys are hashed: an e-mail address somebody typed, perhaps into the wrong site, is not stored.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

from keyturn.core.errors import Unavailable
from keyturn.core.login import Limit
from keyturn.ports import MonotonicClock
from keyturn.stores.engine import ATTEMPTS, Clock, Engine
from keyturn.stores.lanes import ROLLBACK, Row, Statement, Work

if TYPE_CHECKING:
    from redis.asyncio import Redis

LONGEST_WINDOW = 365 * 86400.0
"""Seconds after which even a counter without a window starts anew.

Why: anybody can make one by typing an address; a table that never forgets is one that anybody can fill. At a hundred
guesses a year the cap does what it is for.
"""
REPRIEVE = 86400.0
"""Seconds that a caller over a limit without a window is told to wait: time alone will not help."""
_DIVISION_BY_ZERO = "22012"
_SPENT: Statement = ("SELECT key_hash, rest FROM spent", ())

Keyed = Sequence[tuple[bytes, Limit]]


def keyed(limits: Sequence[Limit]) -> Keyed:
    """Give every limit its hashed key, in the order in which counters are locked; of two under one key, one stays.

    Why the lengths are in the hash: the key ("a", "b:c") must not be the key ("a:b", "c").
    """
    return _keyed(tuple(limits))


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


def _lifetime(limit: Limit) -> float:
    return LONGEST_WINDOW if limit.window is None else limit.window


def _wait(limit: Limit, rest: float) -> float:
    """Say how long a refused caller waits, given the rest of the window in seconds."""
    return REPRIEVE if limit.window is None else max(rest, 0.001)


class MemoryThrottle:
    """Count in this process: for one node, tests and trials. Nothing survives a restart.

    There is no await between looking and counting, so tasks cannot come between.
    """

    def __init__(self, clock: MonotonicClock = time.monotonic, most: int = 100_000) -> None:
        """Set up.

        Args:
            clock: seconds.
            most: counters kept; beyond that the ones that end first go.
        """
        self._clock = clock
        self._most = most
        self._counters: dict[bytes, tuple[int, float]] = {}

    async def take(self, limits: Sequence[Limit]) -> float | None:
        """Take one from every limit, or from none. See `ports.Throttle`."""
        now = self._clock()
        due = keyed(limits)
        found = {key: self._at(key, now) for key, _ in due}
        waits = [_wait(limit, found[key][1] - now) for key, limit in due if found[key][0] >= limit.amount]
        if waits:
            return max(waits)
        for key, limit in due:
            amount, until = found[key]
            self._counters[key] = (amount + 1, until if amount else now + _lifetime(limit))
        if len(self._counters) > self._most:
            self._shrink(now)
        return None

    async def give_back(self, limits: Sequence[Limit]) -> None:
        """Undo one `take`; reset a limit without a window. See `ports.Throttle`."""
        now = self._clock()
        for key, limit in keyed(limits):
            amount, until = self._at(key, now)
            if limit.window is None or amount <= 1:
                self._counters.pop(key, None)
            else:
                self._counters[key] = (amount - 1, until)

    def _at(self, key: bytes, now: float) -> tuple[int, float]:
        found = self._counters.get(key)
        return found if found is not None and found[1] > now else (0, now)

    def _shrink(self, now: float) -> None:
        alive = sorted((item for item in self._counters.items() if item[1][1] > now), key=lambda item: item[1][1])
        self._counters = dict(alive[-(self._most * 9 // 10) :])


class SqlThrottle:
    """Count in the database: one statement takes from every limit, and is undone when one is over.

    A caller who is over a limit changes nothing that has to reach the disk.
    """

    def __init__(self, engine: Engine, clock: Clock | None = None) -> None:
        """Set up.

        Args:
            clock: stands in for the database's, in tests.
        """
        self._engine = engine
        self._clock = clock

    async def take(self, limits: Sequence[Limit]) -> float | None:
        """Take one from every limit, or from none. See `ports.Throttle`.

        Raises:
            Unavailable: the database is at fault.
        """
        due = keyed(limits)
        if not due:
            return None
        if not self._engine.postgres:
            return await self._engine.transact(lambda: self._taking(due))
        return (await self.take_with(limits, _SPENT))[0]

    async def take_with(self, limits: Sequence[Limit], answer: Statement) -> tuple[float | None, Sequence[Row]]:
        """Do as `take` for at least one limit, in PostgreSQL alone, and read something else in the same statement.

        Args:
            answer: what to select, with its parameters: `key_hash` and `rest` of `spent`, which has a row for each limit that
                refuses, and then whatever else. Rows without a key are fine.

        Returns: as `take`, and all rows.

        Raises:
            Unavailable: the database is at fault, or others took the last of a limit each time.
        """
        due = keyed(limits)
        text, before = answer
        values = [value for key, limit in due for value in (key, limit.amount, _lifetime(limit))]
        statement = _take_at_once_statement(len(due), self._now(), text, len(before)), (*before, *values)
        async with self._engine.lane() as lane:
            for _ in range(ATTEMPTS):
                try:
                    rows = await lane.change(statement)
                except Exception as error:
                    # Others took the last of a limit since the statement began: it is undone, and sees so next time.
                    if getattr(error, "sqlstate", None) != _DIVISION_BY_ZERO:
                        raise
                else:
                    by_key = dict(due)
                    spent = ((by_key[row[0]], row[1] or 0.0) for row in rows if row[0] is not None)
                    return max((_wait(limit, rest) for limit, rest in spent), default=None), rows
        raise Unavailable("database")

    async def give_back(self, limits: Sequence[Limit]) -> None:
        """Undo one `take`; reset a limit without a window. See `ports.Throttle`.

        Raises:
            Unavailable: the database is at fault.
        """
        due = keyed(limits)
        if due and self._engine.postgres:
            # One statement, which locks in order, needs no transaction around it and no second try.
            async with self._engine.lane() as lane:
                await lane.change(give_back(due, postgres=True))
        elif due:
            await self._engine.transact(lambda: _giving_back(due))

    def _taking(self, due: Keyed) -> Work[float | None]:
        values = [value for key, limit in due for value in (key, _lifetime(limit))]
        limits = dict(due)
        rows = yield _take_statement(len(due), self._now()), values
        taken = [(limits[bytes(key)], amount, rest) for key, amount, rest in rows]
        waits = [_wait(limit, rest) for limit, amount, rest in taken if amount > limit.amount]
        if not waits:
            return None
        yield ROLLBACK
        return max(waits)

    def _now(self) -> str:
        return self._engine.now_sql if self._clock is None else repr(float(self._clock()))


# The statements go to the driver as they are: a login pays for them twice, and building them costs more than running them.
# Their parameters are numbered, counter by counter.


@lru_cache(maxsize=64)
def _take_statement(count: int, now: str) -> str:
    """Take one from each key, for SQLite: the caller undoes it when that was too much."""
    rows = ", ".join(f"(?{2 * i + 1}, 1, {now} + ?{2 * i + 2})" for i in range(count))
    return (
        f"INSERT INTO keyturn_counters AS held (key_hash, amount, expires_at) VALUES {rows}"  # noqa: S608 - no input in it
        f"{_taken('held.amount + 1', now)} RETURNING key_hash, amount, expires_at - {now}"
    )


@lru_cache(maxsize=64)
def _take_at_once_statement(count: int, now: str, answer: str, before: int) -> str:
    """Take one from each key, or from none, for PostgreSQL, which locks the rows in the order of their keys.

    Why look first: those who are refused write nothing then, be they ever so many. What is over only since the statement
    began is found when its row is locked; SQL has no other way to undo a statement than an error, so it divides by zero.
    """
    rows = ", ".join(
        f"(${i + 1}::bytea, ${i + 2}::int, ${i + 3}::float8)" for i in range(before, before + 3 * count, 3)
    )
    most = "(SELECT most FROM due WHERE due.key_hash = held.key_hash)"
    return (
        f"WITH due (key_hash, most, lifetime) AS (VALUES {rows}), spent AS MATERIALIZED ("  # noqa: S608 - no input in it
        f"SELECT due.key_hash, held.rest FROM due LEFT JOIN LATERAL (SELECT amount, expires_at - {now} AS rest"
        # The offset has each row looked up by its key, whatever the planner thinks of the size of the table.
        " FROM keyturn_counters WHERE key_hash = due.key_hash OFFSET 0) AS held ON true"
        " WHERE CASE WHEN held.rest > 0 THEN held.amount ELSE 0 END >= due.most),"
        " taken AS (INSERT INTO keyturn_counters AS held (key_hash, amount, expires_at)"
        f" SELECT key_hash, 1, {now} + lifetime FROM due WHERE NOT EXISTS (SELECT FROM spent) ORDER BY key_hash"
        f"{_taken(f'(held.amount + 1) / (held.amount < {most})::int', now)})"
        f" {answer}"
    )


def _taken(more: str, now: str) -> str:
    """Say what becomes of a counter that is there already."""
    return (
        " ON CONFLICT (key_hash) DO UPDATE SET"
        f" amount = CASE WHEN held.expires_at <= {now} THEN 1 ELSE {more} END,"
        f" expires_at = CASE WHEN held.expires_at <= {now} THEN excluded.expires_at ELSE held.expires_at END"
    )


def _giving_back(due: Keyed) -> Work[None]:
    yield give_back(due, postgres=False)


def give_back(due: Keyed, *, postgres: bool, beside: Beside | None = None) -> Statement:
    """Build the statement that gives one back to each of these counters, at least one.

    Args: beside: what PostgreSQL does in the same statement, and before.
    """
    values = [value for key, limit in due for value in (key, int(limit.window is not None))]
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
    queries = (
        f"given AS ({rows}), locked AS (SELECT key_hash FROM keyturn_counters"  # noqa: S608 - no input in it
        f" WHERE key_hash IN ({keys}) AND {condition} ORDER BY key_hash {lock})"
    )
    change = (
        "UPDATE keyturn_counters SET"
        " amount = CASE WHEN given.taken = 0 OR amount < given.taken THEN 0 ELSE amount - given.taken END,"
        " expires_at = CASE WHEN given.taken = 0 THEN 0 ELSE expires_at END"
        " FROM given, locked"
        " WHERE keyturn_counters.key_hash = given.key_hash AND given.key_hash = locked.key_hash"
    )
    return queries, change


class RedisThrottle:
    """Count in Redis or Valkey, each `take` one script. Redis at fault is `Unavailable`, never an open door.

    What Redis forgets, by a restart without persistence or by evicting keys, is forgotten attempts; the counters in the
    database forget nothing.
    """

    def __init__(self, redis: Redis) -> None:
        """Set up.

        Args:
            redis: a client made by `stores.redis.connect`; its owner closes it.
        """
        from keyturn.stores.redis import faults

        self._faults = faults
        self._take = redis.register_script(_TAKE)
        self._give_back = redis.register_script(_GIVE_BACK)

    async def take(self, limits: Sequence[Limit]) -> float | None:
        """Take one from every limit, or from none. See `ports.Throttle`.

        Raises:
            Unavailable: Redis is at fault.
        """
        due = keyed(limits)
        numbers = [number for _, limit in due for number in (limit.amount, ceil(_lifetime(limit) * 1000))]
        with self._faults():
            rests = await self._take(keys=_names(due), args=numbers)
        waits = [_wait(limit, rest / 1000) for (_, limit), rest in zip(due, rests, strict=False) if rest >= 0]
        return max(waits, default=None)

    async def give_back(self, limits: Sequence[Limit]) -> None:
        """Undo one `take`; reset a limit without a window. See `ports.Throttle`.

        Raises:
            Unavailable: Redis is at fault.
        """
        due = keyed(limits)
        with self._faults():
            await self._give_back(keys=_names(due), args=[int(limit.window is None) for _, limit in due])


def _names(due: Keyed) -> list[str]:
    # The braces keep all counters on one node of a cluster, where one script can change them.
    return [f"{{keyturn}}:count:{key.hex()}" for key, _ in due]


_TAKE = """
local over, rests = false, {}
for i, key in ipairs(KEYS) do
  rests[i] = -1
  if tonumber(redis.call('GET', key) or '0') >= tonumber(ARGV[2 * i - 1]) then
    over = true
    rests[i] = math.max(redis.call('PTTL', key), 0)
  end
end
if not over then
  for i, key in ipairs(KEYS) do
    redis.call('INCR', key)
    if redis.call('PTTL', key) < 0 then
      redis.call('PEXPIRE', key, ARGV[2 * i])
    end
  end
end
return rests
"""
_GIVE_BACK = """
for i, key in ipairs(KEYS) do
  if ARGV[i] == '1' or tonumber(redis.call('GET', key) or '0') <= 1 then
    redis.call('DEL', key)
  else
    redis.call('DECR', key)
  end
end
return #KEYS
"""
