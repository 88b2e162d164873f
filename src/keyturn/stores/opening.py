# ruff: noqa: S608 - the statements are put together from the table's own column names, at import
"""What a login writes, in one transaction: the session, the ends of those it evicts, the events, the attempt it gives back.

Owns: the statements of a login and their order. Must not hold: who is admitted and who is evicted (`core/login.py`),
transactions and locks (`lanes.py`), what else belongs to an end (`revoking.py`).

The statements go to the driver as they are: a login waits for its password hash, but it takes this from the same cores.
"""

from __future__ import annotations

from collections.abc import Sequence

from keyturn.core.model import Session, UserId
from keyturn.ports import Admit, Opened
from keyturn.stores.engine import POSTGRES_NOW, SQLITE_NOW
from keyturn.stores.event_log import EventRow, event_rows
from keyturn.stores.lanes import Statement, Work
from keyturn.stores.revoking import Denied, denial
from keyturn.stores.schema import events, sessions, users
from keyturn.stores.session_rows import COLUMNS, session_of, values_of
from keyturn.stores.throttle import Keyed, give_back
from keyturn.stores.user_rows import CREDENTIAL_COLUMNS, credential_of

_LIVE = (
    "s.user_id = {user} AND s.revoked_at IS NULL"
    " AND s.inactivity_expires_at > clock.now AND s.absolute_expires_at > clock.now"
)
_NAMES = ", ".join(COLUMNS)
_SESSION = ", ".join("s." + name for name in COLUMNS)
# Rows are locked in the order of their ids, as everywhere. The clock is read before rows are waited for: a session that
# ends while we wait is read as it then is, by PostgreSQL's re-check of the conditions.
_READ_POSTGRES = (
    f"WITH clock AS MATERIALIZED (SELECT coalesce($2::float8, {POSTGRES_NOW}) AS now), "
    f"live AS MATERIALIZED (SELECT {_SESSION} FROM {sessions.name} s, clock WHERE {_LIVE.format(user='$1::text')} "
    "ORDER BY s.id FOR UPDATE OF s) "
    f"SELECT {_SESSION}, {CREDENTIAL_COLUMNS}, clock.now FROM clock LEFT JOIN live s ON true "
    f"LEFT JOIN {users.name} ON {users.name}.id = $1::text ORDER BY s.id"
)
_READ_SQLITE = (
    f"SELECT {_SESSION}, {CREDENTIAL_COLUMNS}, clock.now FROM (SELECT coalesce(?2, {SQLITE_NOW}) AS now) clock "
    f"LEFT JOIN {sessions.name} s ON {_LIVE.format(user='?1')} LEFT JOIN {users.name} ON {users.name}.id = ?1 ORDER BY s.id"
)
_END_POSTGRES = f"UPDATE {sessions.name} SET revoked_at = $2, revoked_reason = $3 WHERE id = $1"
_END_SQLITE = f"UPDATE {sessions.name} SET revoked_at = ?2, revoked_reason = ?3 WHERE id = ?1"
_EVENT_NAMES = ", ".join(EventRow._fields)
_EVENT_TYPES = ("float8", "text", "text", "text", "text")
_OPENED = (
    f"opened AS (INSERT INTO {sessions.name} ({_NAMES}) "
    f"VALUES ({', '.join(f'${number}' for number in range(1, len(COLUMNS) + 1))}))"
)
_KEPT = (
    f"INSERT INTO {events.name} ({_EVENT_NAMES}) SELECT * FROM "
    f"unnest({', '.join(f'${number}::{kind}[]' for number, kind in enumerate(_EVENT_TYPES, len(COLUMNS) + 1))})"
)
_OPEN_POSTGRES = f"WITH {_OPENED} {_KEPT}"
_OPEN_BESIDE = f"{_OPENED}, kept AS ({_KEPT}), "
_OPEN_SQLITE = f"INSERT INTO {sessions.name} ({_NAMES}) VALUES ({', '.join('?' * len(COLUMNS))})"
_EVENT_SQLITE = f"INSERT INTO {events.name} ({_EVENT_NAMES}) VALUES ({', '.join('?' * len(EventRow._fields))})"


def opening(
    user_id: UserId,
    admit: Admit,
    taken: Keyed,
    *,
    postgres: bool,
    now: float | None,
    denylist_lifetime: float,
    log_key: bytes,
) -> Work[tuple[Opened, Sequence[Denied]]]:
    """Admit a login, under the user's lock; return what was admitted and what was put on the denylist.

    Args:
        taken: what its attempt took, to be given back. These rows are locked last, as nothing is waited for under them.
        now: stands in for the database's clock, in tests.
        denylist_lifetime: seconds until the last access token of an ended session is dead.
        log_key: as for `event_log.session_hash`.
    """
    rows = yield _READ_POSTGRES if postgres else _READ_SQLITE, (user_id, now)
    read_at: float = rows[0][-1]
    user = rows[0][len(COLUMNS) :]
    credential = None if user[0] is None else credential_of(user)
    admission = admit([session_of(row) for row in rows if row[0] is not None], read_at)
    denied: Sequence[Denied] = ()
    if admission.evicted:
        for ended in admission.evicted:
            reason = None if ended.revoked_reason is None else ended.revoked_reason.value
            yield _END_POSTGRES if postgres else _END_SQLITE, (ended.id, ended.revoked_at, reason)
        ids = [ended.id.hex() for ended in admission.evicted]
        statement, denied = denial(ids, read_at, read_at + denylist_lifetime, postgres=postgres)
        yield statement
    for statement in _open(admission.session, event_rows(admission.events, log_key), taken, postgres=postgres):
        yield statement
    return Opened(admission, credential), denied


def _open(session: Session, kept: Sequence[EventRow], taken: Keyed, *, postgres: bool) -> Sequence[Statement]:
    values = tuple(values_of(session).values())
    if postgres:
        columns = [list(column) for column in zip(*kept, strict=True)] or [[] for _ in _EVENT_TYPES]
        opened = (*values, *columns)
        return (give_back(taken, postgres=True, beside=(_OPEN_BESIDE, opened)) if taken else (_OPEN_POSTGRES, opened),)
    given = (give_back(taken, postgres=False),) if taken else ()
    return ((_OPEN_SQLITE, values), *((_EVENT_SQLITE, row) for row in kept), *given)
