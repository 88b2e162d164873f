# ruff: noqa: S608 - the statement is put together from the tables' own column names, at import
"""Logins of users who were found when their attempts began, in PostgreSQL: all that come together by one statement.

Owns: that statement, and which logins go into it. Must not hold: who is admitted (`core/login.py`), what becomes of those
that it leaves out (`opening.py`).

A login is in only while the user's row is the one that was found, free, and has room for another session without an end for
one; that is as strict as a lock on the user (`docs/decisions/0018-opening-at-once.md`). Why together: as for `counting.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import Final, NamedTuple

from keyturn.core.errors import Unavailable
from keyturn.core.login import Admission
from keyturn.ports import Admit, Attempt, Credential, Opened
from keyturn.stores.arrays import columns_of, unnest
from keyturn.stores.counters import RETURNED, Keyed, due_back, given_of
from keyturn.stores.engine import Engine, until_won
from keyturn.stores.event_log import EVENT_NAMES, EVENT_TYPES, EventRow, event_rows
from keyturn.stores.group_commit import Group
from keyturn.stores.opening import LIVE, Seen, Terms
from keyturn.stores.schema import events, sessions, users
from keyturn.stores.session_rows import COLUMNS, SESSION_NAMES, values_of

_KINDS: Final = {"LargeBinary": "bytea", "Text": "text", "BigInteger": "int8", "Float": "float8", "Boolean": "bool"}
_TYPES: Final = tuple(_KINDS[type(column.type).__name__] for column in sessions.columns)


class Joining(NamedTuple):
    """A login on its way in."""

    credential: Credential
    seen: Seen
    admit: Admit
    taken: Keyed
    """The counters that the attempt gives back to."""
    room: int
    """Live sessions at most with which none is evicted."""


Joined = Opened | None
"""None: the user has changed, is being changed, or has more sessions; then nothing is done."""


def joining(attempt: Attempt | None, admit: Admit, room: int) -> Joining | None:
    """Return a login that can go in by the statement, None when it cannot."""
    if attempt is None or attempt.credential is None or not isinstance(attempt.seen, Seen):
        return None
    return Joining(attempt.credential, attempt.seen, admit, due_back(attempt.taken), room)


async def join(engine: Engine, terms: Terms, group: Group[Joining, Joined]) -> None:
    """Answer every login of a group. Raises: Unavailable: the database is at fault."""
    admitted: dict[str, tuple[int, Joining, float, Admission]] = {}
    here = monotonic()
    for index, item in enumerate(group.items):
        user_id = item.credential.user.id
        if user_id in admitted:
            # The row is another one after the first of them.
            group.answer(index, None)
            continue
        # Between the two the clock of this node is as good as the database's.
        now = item.seen.at + (here - item.seen.here) if terms.now is None else terms.now
        try:
            admitted[user_id] = index, item, now, item.admit((), now)
        except Exception as error:  # noqa: BLE001 - the caller raises it
            group.fail(index, error)
    if not admitted:
        return
    statement = _STATEMENT, _values(admitted)

    async def once() -> set[str]:
        async with engine.lane() as lane:
            return {row[0] for row in await lane.change(statement)}

    try:
        claimed = await until_won(once)
    except Unavailable:
        raise
    except Exception:  # noqa: BLE001 - it comes again, where it belongs
        # What the database does not take of one login must not fail the others: nothing is done, and each goes its own way.
        claimed = set()
    for user_id, (index, item, _, admission) in admitted.items():
        group.answer(index, Opened(admission, item.credential) if user_id in claimed else None)


def _values(admitted: dict[str, tuple[int, Joining, float, Admission]]) -> Sequence[Sequence[object]]:
    entries: list[Sequence[object]] = []
    kept: list[Sequence[object]] = []
    given: list[Sequence[object]] = []
    for user_id, (_, item, now, admission) in admitted.items():
        entries.append((*values_of(admission.session).values(), item.seen.version, now, item.room))
        kept += [(user_id, *row) for row in event_rows(admission.events)]
        given += [(user_id, *row) for row in given_of(item.taken)]
    return *columns_of(entries, len(COLUMNS) + 3), *columns_of(kept, len(EVENT_TYPES) + 1), *columns_of(given, 3)


_ENTRIES: Final = (*_TYPES, "xid", "float8", "int8")
_KEPT: Final = ("text", *EVENT_TYPES)
_GIVEN: Final = ("text", "bytea", "int")
# Rows are locked in the order of all transactions: users, then counters. Whose row somebody else holds is left out, so that
# nobody waits for another login's user, and two nodes never for each other. The sessions are counted as the statement finds
# them: whoever has come since then has changed the user's row, and PostgreSQL looks at its `xmin` again under the lock.
_STATEMENT: Final = (
    # The logins, of different users.
    f"WITH v AS MATERIALIZED (SELECT * FROM {unnest(_ENTRIES)} AS v ({SESSION_NAMES}, seen, now, room)), "
    # Those who have room for a session,
    "fit AS MATERIALIZED (SELECT v.user_id, v.seen FROM v WHERE (SELECT count(*) "
    f"FROM {sessions.name} s, (SELECT v.now) AS clock WHERE {LIVE.format(user='v.user_id')}) <= v.room), "
    # are as they were found, and free.
    f"held AS MATERIALIZED (SELECT u.id FROM fit JOIN {users.name} u ON u.id = fit.user_id AND u.xmin = fit.seen "
    "ORDER BY u.id FOR NO KEY UPDATE OF u SKIP LOCKED), "
    # The claim, by a change of nothing but the version: all that follows is for these alone.
    f"claimed AS (UPDATE {users.name} AS u SET disabled_at = u.disabled_at FROM held WHERE u.id = held.id RETURNING u.id), "
    f"opened AS (INSERT INTO {sessions.name} ({SESSION_NAMES}) "
    f"SELECT {', '.join(f'v.{name}' for name in COLUMNS)} FROM v JOIN claimed ON claimed.id = v.user_id), "
    f"kept AS (INSERT INTO {events.name} ({EVENT_NAMES}) SELECT {', '.join(f'e.{name}' for name in EventRow._fields)} "
    f"FROM {unnest(_KEPT, len(_ENTRIES))} AS e (whose, {EVENT_NAMES}) JOIN claimed ON claimed.id = e.whose), "
    # Several may give back to one counter, as that of an address: together, for a statement changes a row once.
    "given AS MATERIALIZED (SELECT g.key_hash, CASE WHEN bool_or(g.taken = 0) THEN 0 ELSE sum(g.taken) END AS taken "
    f"FROM {unnest(_GIVEN, len(_ENTRIES) + len(_KEPT))} AS g (whose, key_hash, taken) "
    "JOIN claimed ON claimed.id = g.whose GROUP BY g.key_hash), "
    f"{RETURNED} "
    "SELECT id FROM claimed"
)
