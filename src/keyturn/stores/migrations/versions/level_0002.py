"""Level 2: what is asked by user no longer costs more for sessions that have ended.

The index it takes away has no other use: what the version before asks finds its answer through the new ones.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_UNREVOKED = sa.text("revoked_reason IS NULL")


def upgrade() -> None:
    """Replace the index by user by two."""
    # First: it locks the table against everybody, so that nobody who has read can come in the way of the rest and be
    # waited for while he waits.
    op.drop_index("keyturn_sessions_user", "keyturn_sessions")
    # An operator may have made these before, without a lock.
    op.create_index(
        "keyturn_sessions_unrevoked",
        "keyturn_sessions",
        ["user_id"],
        if_not_exists=True,
        postgresql_where=_UNREVOKED,
        sqlite_where=_UNREVOKED,
    )
    op.create_index("keyturn_sessions_device", "keyturn_sessions", ["user_id", "device_id"], if_not_exists=True)
