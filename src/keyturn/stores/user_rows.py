"""Users as rows: the columns that are read of one, the way from row to value, and what a new row has.

Owns: what of the table a `core.model.User` is made of, and how one begins. Must not hold: which users are made or read, and when
(`users.py`, `importing.py`, `session_rows.py`).
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from keyturn.core.model import User, UserId
from keyturn.email import Email
from keyturn.ports import Credential
from keyturn.stores.schema import users as table

USER_COLUMNS = ", ".join(f"{table.name}.{column}" for column in ("id", "email", "name", "disabled_at IS NOT NULL"))
CREDENTIAL_COLUMNS = f"{USER_COLUMNS}, {table.name}.password_hash"
_ID_LENGTH = 16


def user_of(row: Sequence[Any]) -> User:
    """Turn a row that begins with the columns into a user."""
    return User(row[0], row[1], row[2], bool(row[3]))


def credential_of(row: Sequence[Any]) -> Credential:
    """Turn a row that begins with the columns of a credential into one."""
    return Credential(user_of(row), row[4])


def new_id() -> UserId:
    """Make the id of a new user."""
    return secrets.token_hex(_ID_LENGTH)


def row_of(id_: UserId, email: Email, name: str | None, password_hash: str | None, now: float) -> dict[str, object]:
    """Return the row of a user who is made at `now`."""
    return {
        "id": id_,
        "email": email.display,
        "email_key": email.key,
        "name": name,
        "password_hash": password_hash,
        "created_at": now,
    }


def insert_users(*, postgres: bool) -> Any:
    """Begin to insert users, in the dialect of a database: what is to happen in a conflict is a matter of it."""
    return postgres_insert(table) if postgres else sqlite_insert(table)
