"""Counters of attempts: take one from every limit, or from none, exactly, across all nodes.

Owns: counting in the database and in Redis. Must not hold: what is counted and how much is allowed
(`core/login.py`), what a refused caller gets (`web/`).

Why not the strategies of the `limits` library: its storages change one key at a time. An attempt here takes from up to
three counters at once; taken one after the other and given back when the last refuses, the first two refuse a neighbour
meanwhile, keep what a killed node had taken, and count below zero when the window ends in between. Each of the two
below is one atomic step.

A window begins with its first attempt and ends `window` seconds later, all at once. A limit without a window counts
consecutive failures. Keys are hashed: an e-mail address somebody typed, perhaps into the wrong site, is not stored.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from math import ceil
from typing import TYPE_CHECKING, Final

from keyturn.core.login import Limit
from keyturn.ports import Clock
from keyturn.stores.counters import (
    SPARE,
    Keyed,
    due_back,
    give_back,
    keyed,
    lifetime,
    look_statement,
    now_sql,
    take_statement,
    waiting,
)
from keyturn.stores.counting import Counted, PostgresCounting
from keyturn.stores.engine import Engine
from keyturn.stores.group_commit import Gatherer, Group
from keyturn.stores.lanes import ROLLBACK, Row, Statement, Work

if TYPE_CHECKING:
    from redis.asyncio import Redis


TOGETHER: Final = 64
"""Attempts that are counted in one turn at writing to SQLite, at most: more keep whoever writes next waiting."""


class SqlThrottle:
    """Count in the database: from every limit or from none, by one statement or, in SQLite, in one transaction.

    A caller who is over a limit changes nothing that has to reach the disk.
    """

    def __init__(self, engine: Engine, clock: Clock | None = None) -> None:
        """Set up.

        Args:
            clock: stands in for the database's, in tests.
        """
        self._engine = engine
        self._clock = clock
        self._counting = PostgresCounting(engine, clock)
        # Why: before the first is counted, all of a flood find room. A turn at writing for each kept everybody's logins waiting
        # for seconds: a turn takes as long as the event loop is busy with the others.
        self._turns: Gatherer[Keyed, float | None] = Gatherer(self._take_together, size=TOGETHER, worth=None)

    async def take(self, limits: Sequence[Limit]) -> float | None:
        """Take one from every limit, or from none. See `ports.Throttle`.

        Raises:
            Unavailable: the database is at fault.
        """
        due = keyed(limits)
        if not due:
            return None
        if not self._engine.postgres:
            return await self._refusal(due) or await self._turns.call(due)
        return (await self._counting.take(due)).retry_after

    def take_and_find(self, limits: Sequence[Limit], email_key: str) -> Awaitable[Counted]:
        """Do as `take`, in PostgreSQL alone, and find a user by the same statement.

        Raises:
            Unavailable: the database is at fault.
        """
        return self._counting.take(keyed(limits), email_key)

    async def give_back(self, limits: Sequence[Limit], *, proven: bool = True) -> None:
        """Undo one `take`; after a success reset a limit without a window. See `ports.Throttle`.

        Raises:
            Unavailable: the database is at fault.
        """
        due = due_back(limits, proven=proven)
        if not due:
            return
        if not self._engine.postgres:
            await self._engine.transact(lambda: give_back(due, proven, postgres=False))
            return
        # One statement, which locks in order, needs no transaction around it and no second try.
        async with self._engine.lane() as lane:
            await lane.change(*give_back(due, proven, postgres=True))

    async def _refusal(self, due: Keyed) -> float | None:
        """Look, without a turn at writing: those who are refused anyway, be they ever so many, must keep nobody from one."""
        async with self._engine.lane() as lane:
            rows = await lane.fetch(self._look(due))
        return _longest_wait(due, rows)

    async def _take_together(self, group: Group[Keyed, float | None]) -> None:
        waits = await self._engine.transact(lambda: self._taking(group.items))
        for index, wait in enumerate(waits):
            group.answer(index, wait)

    def _taking(self, attempts: Sequence[Keyed]) -> Work[Sequence[float | None]]:
        waits: list[float | None] = []
        for due in attempts:
            wait = _longest_wait(due, (yield self._look(due)))
            if wait is None:
                values = [value for key, limit in due for value in (key, lifetime(limit))]
                yield take_statement(len(due), now_sql(self._engine, self._clock)), values
            waits.append(wait)
        if None not in waits:
            yield ROLLBACK
        return waits

    def _look(self, due: Keyed) -> Statement:
        return look_statement(len(due), now_sql(self._engine, self._clock)), [key for key, _ in due]


def _longest_wait(due: Keyed, rows: Sequence[Row]) -> float | None:
    """Return the seconds until every counter has room for one more, if one has none."""
    limits = dict(due)
    found = [(limits[bytes(key)], amount, rest) for key, amount, rest in rows]
    held = [each for each in found if each[2] <= lifetime(each[0]) + SPARE]
    return max((waiting(limit, rest) for limit, amount, rest in held if amount >= limit.amount), default=None)


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
        from keyturn.stores.redis import answering

        self._answering = answering
        self._take = redis.register_script(_TAKE)
        self._give_back = redis.register_script(_GIVE_BACK)

    async def take(self, limits: Sequence[Limit]) -> float | None:
        """Take one from every limit, or from none. See `ports.Throttle`.

        Raises:
            Unavailable: Redis is at fault.
        """
        due = keyed(limits)
        numbers = [number for _, limit in due for number in (limit.amount, ceil(lifetime(limit) * 1000))]
        async with self._answering():
            rests = _rests(await self._take(keys=_names(due), args=numbers), len(due))
        held = [(limit, min(rest, lifetime(limit))) for (_, limit), rest in zip(due, rests, strict=True) if rest >= 0]
        return max((waiting(*each) for each in held), default=None)

    async def give_back(self, limits: Sequence[Limit], *, proven: bool = True) -> None:
        """Undo one `take`; after a success reset a limit without a window. See `ports.Throttle`.

        Raises:
            Unavailable: Redis is at fault.
        """
        due = due_back(limits, proven=proven)
        async with self._answering():
            await self._give_back(keys=_names(due), args=[int(proven and limit.window is None) for _, limit in due])


def _rests(answer: object, count: int) -> Sequence[float]:
    """Return the seconds that each full counter lasts, less than 0 for one with room. Raises: ValueError: nobody has counted."""
    if not isinstance(answer, list) or len(answer) != count or any(type(rest) is not int for rest in answer):
        raise ValueError("no answer of the script")
    return [rest / 1000 for rest in answer]


def _names(due: Keyed) -> list[str]:
    # The braces keep all counters on one node of a cluster, where one script can change them.
    return [f"{{keyturn}}:count:{key.hex()}" for key, _ in due]


_TAKE = f"""
local over, rests = false, {{}}
for i, key in ipairs(KEYS) do
  rests[i] = -1
  if tonumber(redis.call('GET', key) or '0') >= tonumber(ARGV[2 * i - 1]) then
    over = true
    rests[i] = redis.call('PTTL', key)
    -- Without an end, or made while the clock was ahead: nobody is to wait for longer than a window.
    if rests[i] < 0 or rests[i] > ARGV[2 * i] + {int(SPARE * 1000)} then
      redis.call('PEXPIRE', key, ARGV[2 * i])
      rests[i] = tonumber(ARGV[2 * i])
    end
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
