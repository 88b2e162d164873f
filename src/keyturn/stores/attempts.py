"""An attempt at logging in, begun in PostgreSQL at once: the user is found by the statement that counts the attempt.

Owns: `ports.Attempts` for a PostgreSQL database that has users, sessions and counters. Must not hold: what is counted
(`core/login.py`), how (`counting.py`).

Why: a round trip costs more than finding a user, on both sides (`bench/README.md`). SQLite is in this process, so there
`apart.InTurn` loses nothing.
"""

from __future__ import annotations

from time import monotonic
from typing import Final

from keyturn.email import normalise_email
from keyturn.ports import Attempt, ChooseLimits, Credential
from keyturn.stores.engine import POSTGRES_NOW, Engine
from keyturn.stores.lanes import Row
from keyturn.stores.opening import Seen
from keyturn.stores.schema import users
from keyturn.stores.session_rows import on_device
from keyturn.stores.throttle import SqlThrottle
from keyturn.stores.user_rows import CREDENTIAL_COLUMNS, credential_of

_USER: Final = f"{CREDENTIAL_COLUMNS}, {users.name}.xmin, {POSTGRES_NOW}"
# Of an unknown user the device is looked up too: the time it takes must not tell.
_KNOWN: Final = on_device(f"coalesce({users.name}.id, '')", "$2")
_FIND_WITH_DEVICE: Final = (
    f"SELECT {_USER}, EXISTS ({_KNOWN}) FROM (VALUES (1)) AS one "  # noqa: S608 - no input in it
    f"LEFT JOIN {users.name} ON {users.name}.email_key = $1"
)


class PostgresAttempts:
    """Attempts at logging in of users of this database."""

    def __init__(self, engine: Engine, throttle: SqlThrottle) -> None:
        self._engine: Final = engine
        self._throttle: Final = throttle

    async def begin(self, email: str, device_id: bytes | None, limits: ChooseLimits) -> Attempt:
        """Find the user and count the attempt. See `ports.Attempts`.

        Raises:
            InvalidRequest: it is not an e-mail address.
            Unavailable: the database is at fault.
        """
        key = normalise_email(email).key
        if device_id is None:
            taken = limits(False)
            retry_after, user = await self._throttle.take_and_find(taken, key)
            return Attempt(_found(user), False, taken, retry_after, _seen(user))
        # What counts depends on the device.
        async with self._engine.lane() as lane:
            ((*user, known),) = await lane.fetch((_FIND_WITH_DEVICE, (key, device_id)))
        taken = limits(known)
        return Attempt(_found(user), known, taken, await self._throttle.take(taken), _seen(user))


def _found(user: Row) -> Credential | None:
    return None if user[0] is None else credential_of(user)


def _seen(user: Row) -> Seen:
    return Seen(user[-2], user[-1], monotonic())
