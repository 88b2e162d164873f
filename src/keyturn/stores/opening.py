# ruff: noqa: S608 - the statements are put together from the table's own column names, at import
"""What a login writes, all or nothing: the session, the ends of those it evicts, the events, the attempt it gives back.

Owns: the statements of a login and their order. Must not hold: who is admitted and who is evicted (`core/login.py`),
transactions and locks (`lanes.py`), what else belongs to an end (`revoking.py`).

A login tries these ways, in this order (`SqlSessions._open`); the first two are for users of this database on PostgreSQL:

1. With others, by one statement (`joining.py`), while the user's row is the one that the attempt has found, and none is evicted.
   Nearly all do. Sign-ups have no attempt and begin with the next.
2. `open_at_once`: a read and one write that counts only if the user's row still is the one that was read; the write changes
   the row, so of two logins that have read the same sessions one reads again.
3. `opening`: in line, a transaction under the user's advisory lock.

Why not the last alone: a login waits for its password hash and takes the rest from the same cores, and a round trip costs more
than what it carries. `docs/decisions/0018-opening-at-once.md` says why the others are as strict as the lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from keyturn.core.login import Admission
from keyturn.core.model import UserId
from keyturn.ports import Admit, Credential, Opened
from keyturn.stores.arrays import columns_of, unnest
from keyturn.stores.counters import RETURNED, Keyed, give_back, given_of
from keyturn.stores.engine import POSTGRES_NOW, SQLITE_NOW
from keyturn.stores.event_log import EVENT_NAMES, EVENT_TYPES, event_rows, recording
from keyturn.stores.lanes import Lane, Row, Statement, Work
from keyturn.stores.revocations import Denied
from keyturn.stores.revoking import denial, denying
from keyturn.stores.schema import events, sessions, users
from keyturn.stores.session_rows import COLUMNS, SESSION_NAMES, session_of, values_of
from keyturn.stores.user_rows import CREDENTIAL_COLUMNS, credential_of

# The reason is there for the index: see `revoking.UNREVOKED`. The user is a subquery, so that PostgreSQL plans for any user:
# for one with very many ended sessions it would expect as many live ones, and take the index by absolute end, which holds
# everybody's.
LIVE = (
    "s.user_id = (SELECT {user}) AND s.revoked_at IS NULL AND s.revoked_reason IS NULL"
    " AND s.inactivity_expires_at > clock.now AND s.absolute_expires_at > clock.now"
)
_SESSION = ", ".join("s." + name for name in COLUMNS)
# Rows are locked in the order of their ids, as everywhere. The clock is read before rows are waited for: a session that
# ends while we wait is read as it then is, by PostgreSQL's re-check of the conditions.
_READ_POSTGRES = (
    f"WITH clock AS MATERIALIZED (SELECT coalesce($2::float8, {POSTGRES_NOW}) AS now), "
    f"live AS MATERIALIZED (SELECT {_SESSION} FROM {sessions.name} s, clock WHERE {LIVE.format(user='$1::text')} "
    "ORDER BY s.id FOR UPDATE OF s) "
    f"SELECT {_SESSION}, {CREDENTIAL_COLUMNS}, clock.now FROM clock LEFT JOIN live s ON true "
    f"LEFT JOIN {users.name} ON {users.name}.id = $1::text ORDER BY s.id"
)


def _reading(user: str, given: str, now: str, more: str = "") -> str:
    """Read the user, their live sessions and the clock, and lock nothing."""
    return (
        f"SELECT {_SESSION}, {CREDENTIAL_COLUMNS}, {more}clock.now FROM (SELECT coalesce({given}, {now}) AS now) clock "
        f"LEFT JOIN {sessions.name} s ON {LIVE.format(user=user)} LEFT JOIN {users.name} ON {users.name}.id = {user} "
        "ORDER BY s.id"
    )


_READ_SQLITE = _reading("?1", "?2", SQLITE_NOW)
_WAIT = f"UPDATE {users.name} SET disabled_at = disabled_at WHERE id = $1"
_END_POSTGRES = f"UPDATE {sessions.name} SET revoked_at = $2, revoked_reason = $3 WHERE id = $1"
_END_SQLITE = f"UPDATE {sessions.name} SET revoked_at = ?2, revoked_reason = ?3 WHERE id = ?1"
_VALUES = ", ".join(f"${number}" for number in range(1, len(COLUMNS) + 1))
_KEPT = unnest(EVENT_TYPES, len(COLUMNS))
_OPEN_POSTGRES = (
    f"WITH opened AS (INSERT INTO {sessions.name} ({SESSION_NAMES}) VALUES ({_VALUES})) "
    f"INSERT INTO {events.name} ({EVENT_NAMES}) SELECT * FROM {_KEPT}"
)
_OPEN_SQLITE = f"INSERT INTO {sessions.name} ({SESSION_NAMES}) VALUES ({', '.join('?' * len(COLUMNS))})"

# What follows is for `open_at_once`. Whatever row of the user is the newest when nobody else holds it, PostgreSQL looks at its
# `xmin`, the transaction that wrote it, again; `claimed` has a row exactly when it still is the one that was read, and
# everything else hangs on that. Rows are locked in the order of all transactions: the user, sessions by id, counters.
# The parameters: the session, its events, the version of the user's row, what is given back, and of those it evicts the ends
# and what `denying` takes.
_LOOK = _reading("$1::text", "$2::float8", POSTGRES_NOW, f"{users.name}.xmin, ")
_USER = f"${COLUMNS.index('user_id') + 1}"
_XMIN = len(COLUMNS) + len(EVENT_TYPES) + 1
_GIVEN = unnest(("bytea", "int"), _XMIN)
_IDS = f"${_XMIN + 3}::bytea[]"
_ENDS = unnest(("bytea", "float8", "text"), _XMIN + 2)
_SAME = f"id = {_USER} AND xmin = ${_XMIN}"
_CLAIM = f"claimed AS (UPDATE {users.name} SET disabled_at = disabled_at WHERE {{condition}} RETURNING id)"
_CLAIMED = "EXISTS (SELECT FROM claimed)"
_ENTER = (
    f"opened AS (INSERT INTO {sessions.name} ({SESSION_NAMES}) SELECT {_VALUES} FROM claimed), "
    f"kept AS (INSERT INTO {events.name} ({EVENT_NAMES}) SELECT event.* FROM claimed, {_KEPT} AS event), "
    f"given AS MATERIALIZED (SELECT v.* FROM claimed, {_GIVEN} AS v (key_hash, taken)), {RETURNED}"
)
_ADMIT = f"WITH {_CLAIM.format(condition=_SAME)}, {_ENTER} SELECT 1 FROM claimed"
# A session that somebody else ended meanwhile is not evicted: then nothing is done. PostgreSQL runs a query of WITH that only
# reads no further than it is read: unread, `told` would notify nobody.
_EVICTING = f"id = {_USER} AND EXISTS (SELECT FROM held) AND (SELECT count(*) FROM evicted) = cardinality({_IDS})"
_EVICT = (
    f"WITH held AS MATERIALIZED (SELECT id FROM {users.name} WHERE {_SAME} FOR NO KEY UPDATE), "
    f"evicted AS MATERIALIZED (SELECT id FROM {sessions.name} WHERE id = ANY({_IDS}) "
    "AND revoked_at IS NULL AND EXISTS (SELECT FROM held) ORDER BY id FOR UPDATE), "
    f"{_CLAIM.format(condition=_EVICTING)}, "
    f"ended AS (UPDATE {sessions.name} AS s SET revoked_at = v.revoked_at, revoked_reason = v.revoked_reason "
    f"FROM {_ENDS} AS v(id, revoked_at, revoked_reason) WHERE s.id = v.id AND {_CLAIMED}), "
    f"{denying(_XMIN + 6, _CLAIMED)}, {_ENTER} SELECT (SELECT count(*) FROM told) FROM claimed"
)
_TRIES = 3
"""How often a login looks at what it finds before it waits in line, when others of its user come between."""


class Terms(NamedTuple):
    """What holds for every login."""

    now: float | None
    """Stands in for the database's clock, in tests."""
    denylist_lifetime: float
    """Seconds until the last access token of an ended session is dead."""


class Seen(NamedTuple):
    """The user's row when an attempt began, and the clocks then."""

    version: int
    """Its `xmin`."""
    at: float
    """The database's clock."""
    here: float
    """This process's monotonic clock."""


class Opening(NamedTuple):
    """What was admitted, and what was put on the denylist."""

    opened: Opened
    denied: Sequence[Denied]


def opening(user_id: UserId, admit: Admit, taken: Keyed, terms: Terms, *, postgres: bool, claim: bool) -> Work[Opening]:
    """Admit a login, under the user's lock.

    Args:
        taken: what its attempt took, to be given back. These rows are locked last, as nothing is waited for under them.
        claim: keep out those who open at once: for users of this database, on PostgreSQL.
    """
    if claim:
        yield _WAIT, (user_id,)
    rows = yield _READ_POSTGRES if postgres else _READ_SQLITE, (user_id, terms.now)
    read_at: float = rows[0][-1]
    admission = admit([session_of(row) for row in rows if row[0] is not None], read_at)
    denied: Sequence[Denied] = ()
    if admission.evicted:
        for ended in _ends(admission):
            yield _END_POSTGRES if postgres else _END_SQLITE, ended
        ids = [ended.id.hex() for ended in admission.evicted]
        statement, denied = denial(ids, read_at, read_at + terms.denylist_lifetime, postgres=postgres)
        yield statement
    if postgres:
        yield _OPEN_POSTGRES, _values(admission)
    else:
        yield _OPEN_SQLITE, tuple(values_of(admission.session).values())
        yield from recording(admission.events)
    if taken:
        yield from give_back(taken, postgres=postgres)
    return Opening(Opened(admission, _credential(rows)), denied)


async def open_at_once(lane: Lane, user_id: UserId, admit: Admit, taken: Keyed, terms: Terms) -> Opening | None:
    """Admit a login of a user of this database, on PostgreSQL, in two statements that are transactions of their own.

    Returns: None when there is no such user, or when others of this user came between each time; then nothing is done.
    """
    for _ in range(_TRIES):
        rows = await lane.fetch((_LOOK, (user_id, terms.now)))
        credential = _credential(rows)
        if credential is None:
            return None
        *_, version, read_at = rows[0]
        admission = admit([session_of(row) for row in rows if row[0] is not None], read_at)
        values: Sequence[object] = (*_values(admission), version, *columns_of(given_of(taken), 2))
        statement: Statement = _ADMIT, values
        denied: Sequence[Denied] = ()
        if admission.evicted:
            ids = [ended.id.hex() for ended in admission.evicted]
            (_, entries), denied = denial(ids, read_at, read_at + terms.denylist_lifetime, postgres=True)
            statement = _EVICT, (*values, *columns_of(_ends(admission), 3), *entries)
        if await lane.change(statement):
            return Opening(Opened(admission, credential), denied)
    return None


def _values(admission: Admission) -> Sequence[object]:
    return *values_of(admission.session).values(), *columns_of(event_rows(admission.events), len(EVENT_TYPES))


def _credential(rows: Sequence[Row]) -> Credential | None:
    user = rows[0][len(COLUMNS) :]
    return None if user[0] is None else credential_of(user)


def _ends(admission: Admission) -> list[tuple[object, ...]]:
    """List the evicted sessions as id, time and reason of their ends."""
    return [
        (s.id, s.revoked_at, None if s.revoked_reason is None else s.revoked_reason.value) for s in admission.evicted
    ]
