"""Attempts counted in PostgreSQL: all that come together by one statement, each of them whole or not at all.

Owns: which attempts go together, what becomes of those that others come before. Must not hold: what is counted
(`core/login.py`), keys and windows (`counters.py`).

Why together: a password hash empties the processor's caches, so what costs is how often somebody wakes up, here and in
PostgreSQL, and each commit is a flush that refreshes wait for as well (`bench/README.md`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from keyturn.core.errors import Unavailable
from keyturn.ports import Clock
from keyturn.stores.counters import SPARE, Keyed, lifetime, now_sql, taken, waiting
from keyturn.stores.engine import ATTEMPTS, Engine, until_won
from keyturn.stores.group_commit import Gatherer, Group
from keyturn.stores.lanes import Row, Statement
from keyturn.stores.schema import counters, users
from keyturn.stores.user_rows import CREDENTIAL_COLUMNS

_DIVISION_BY_ZERO: Final = "22012"
_USER: Final = 3
"""Where the user begins in a row."""
TOGETHER: Final = 16
"""Attempts, or logins, in a statement at most."""
STATEMENTS: Final = 4
"""Statements under way at most. Whoever comes later waits only when all of these wait for counters that somebody has locked."""


class Counting(NamedTuple):
    """An attempt to be counted."""

    due: Keyed
    """The counters to take one from, at least one."""
    email_key: str | None
    """Of the user who is to be found by the same statement, if any."""


class Counted(NamedTuple):
    """What became of an attempt."""

    retry_after: float | None
    """As `Throttle.take` says."""
    user: Row
    """The columns of a credential, the row's `xmin` and the database's clock. All but the clock are null when there is no such
    user, and when nobody was looked for because an attempt before this one was refused."""


Spent = dict[bytes, Counted]
"""Counters that have just refused an attempt, each with what whoever needs it is told, without a user."""


class PostgresCounting:
    """Count attempts.

    Args: clock: stands in for the database's, in tests.
    """

    def __init__(self, engine: Engine, clock: Clock | None = None) -> None:
        self._engine: Final = engine
        self._clock: Final = clock
        self._gatherer: Final = Gatherer(self._count, size=TOGETHER, at_once=STATEMENTS, worth=None)

    def take(self, due: Keyed, email_key: str | None = None) -> Awaitable[Counted]:
        """Take one from each of at least one counter, or from none, and find a user.

        Raises: Unavailable: the database is at fault, or others took the last of a limit each time.
        """
        return self._gatherer.call(Counting(due, email_key))

    async def _count(self, group: Group[Counting, Counted]) -> None:
        left: Sequence[int] = range(len(group.items))
        while left:
            together, left = _disjoint(group.items, left)
            spent = await self._take(group, together)
            if spent is None:
                spent = {}
                for index in together:
                    spent |= await self._take_alone(group, index)
            left = [index for index in left if not _refuse_alike(group, index, spent)]

    async def _take_alone(self, group: Group[Counting, Counted], index: int) -> Spent:
        for _ in range(ATTEMPTS):
            spent = await self._take(group, (index,))
            if spent is not None:
                return spent
        group.fail(index, Unavailable("database"))
        return {}

    async def _take(self, group: Group[Counting, Counted], indexes: Sequence[int]) -> Spent | None:
        """Count attempts that share no counter.

        Returns: the counters that refused one. None: others took the last of a limit since the statement began. It is undone,
            and sees so next time.
        """
        due = [(index, key, limit) for index in indexes for key, limit in group.items[index].due]
        columns = (
            [index for index, _, _ in due],
            [key for _, key, _ in due],
            [limit.amount for _, _, limit in due],
            [lifetime(limit) for _, _, limit in due],
        )
        wanted = [group.items[index].email_key for index in indexes]
        text = _statement(now_sql(self._engine, self._clock))
        rows = await until_won(lambda: self._change((text, (*columns, list(indexes), wanted))))
        if rows is None:
            return None
        limits = {(index, key): limit for index, key, limit in due}
        found: dict[int, Counted] = {}
        spent: Spent = {}
        for row in rows:
            index, key, rest = row[:_USER]
            wait = None if key is None else waiting(limits[index, key], rest or 0.0)
            before = found.get(index)
            # An attempt has a row for each limit that refuses it; the longest wait counts.
            if before is None or (wait or 0.0) > (before.retry_after or 0.0):
                found[index] = Counted(wait, row[_USER:])
            if key is not None:
                spent[bytes(key)] = Counted(wait, (*(None for _ in row[_USER:-1]), row[-1]))
        for index, counted in found.items():
            group.answer(index, counted)
        return spent

    async def _change(self, statement: Statement) -> Sequence[Row] | None:
        async with self._engine.lane() as lane:
            try:
                return await lane.change(statement)
            except Exception as error:
                if getattr(error, "sqlstate", None) != _DIVISION_BY_ZERO:
                    raise
                return None


def _refuse_alike(group: Group[Counting, Counted], index: int, spent: Spent) -> bool:
    """Refuse an attempt that needs a counter which has refused another one of the group; say whether it does.

    Why: a flood of attempts from one address shares a counter. A statement for each would keep everybody's waiting.
    """
    refused = [spent[key] for key, _ in group.items[index].due if key in spent]
    if refused:
        group.answer(index, max(refused, key=lambda counted: counted.retry_after or 0.0))
    return bool(refused)


def _disjoint(items: Sequence[Counting], indexes: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    """Divide attempts into those that can go together, as no two of them have a counter in common, and the others."""
    seen: set[bytes] = set()
    together: list[int] = []
    apart: list[int] = []
    for index in indexes:
        keys = {key for key, _ in items[index].due}
        (together if seen.isdisjoint(keys) else apart).append(index)
        seen |= keys
    return together, apart


@lru_cache(maxsize=16)
def _statement(now: str) -> str:
    """Take one from each counter of an attempt, or from none, which are locked in the order of their keys; find the users.

    Why look first: those who are refused write nothing then, be they ever so many. What is over only since the statement
    began is found when its row is locked; SQL has no other way to undo a statement than an error, so it divides by zero.
    """
    most = "(SELECT most FROM due WHERE due.key_hash = held.key_hash)"
    # The offsets have each row looked up by its key, whatever the planner thinks of the size of the tables.
    return (
        # What each attempt is to take.
        "WITH due AS MATERIALIZED (SELECT * FROM unnest($1::int[], $2::bytea[], $3::int[], $4::float8[])"  # noqa: S608 - no input in it
        " AS due (attempt, key_hash, most, lifetime)),"
        # The counters that have no room for it. One that is over, or was made while the clock was ahead, has all of it.
        " spent AS MATERIALIZED ("
        f"SELECT due.attempt, due.key_hash, held.rest FROM due LEFT JOIN LATERAL (SELECT amount, expires_at - {now} AS rest"
        f" FROM {counters.name} WHERE key_hash = due.key_hash OFFSET 0) AS held ON true"
        f" WHERE CASE WHEN held.rest > 0 AND held.rest <= due.lifetime + {SPARE} THEN held.amount ELSE 0 END >= due.most),"
        # One from each counter of an attempt that none of them refuses.
        f" taken AS (INSERT INTO {counters.name} AS held (key_hash, amount, expires_at)"
        f" SELECT key_hash, 1, {now} + lifetime FROM due"
        " WHERE NOT EXISTS (SELECT FROM spent WHERE spent.attempt = due.attempt) ORDER BY key_hash"
        f"{taken(f'(held.amount + 1) / (held.amount < {most})::int', now)})"
        # Each attempt with its user, once for each counter that refuses it, and once if none does.
        f" SELECT wanted.attempt, spent.key_hash, spent.rest, found.*, {now}"
        " FROM unnest($5::int[], $6::text[]) AS wanted (attempt, email_key)"
        " LEFT JOIN spent ON spent.attempt = wanted.attempt LEFT JOIN LATERAL ("
        f"SELECT {CREDENTIAL_COLUMNS}, {users.name}.xmin FROM {users.name} WHERE email_key = wanted.email_key OFFSET 0"
        ") AS found ON true"
    )
