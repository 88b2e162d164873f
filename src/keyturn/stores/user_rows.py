"""Users as rows: the columns that are read of one, and the way from row to value.

Owns: what of the table a `core.model.User` is made of. Must not hold: statements (`users.py`, `session_rows.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keyturn.core.model import User
from keyturn.ports import Credential
from keyturn.stores.schema import users as table

USER_COLUMNS = ", ".join(f"{table.name}.{column}" for column in ("id", "email", "name", "disabled_at IS NOT NULL"))
CREDENTIAL_COLUMNS = f"{USER_COLUMNS}, {table.name}.password_hash"


def user_of(row: Sequence[Any]) -> User:
    """Turn a row that begins with the columns into a user."""
    return User(row[0], row[1], row[2], bool(row[3]))


def credential_of(row: Sequence[Any]) -> Credential:
    """Turn a row that begins with the columns of a credential into one."""
    return Credential(user_of(row), row[4])
