"""Level 3: PostgreSQL compares what its indexes of texts are about byte by byte, and no longer by the rules of a language.

Those rules are the operating system's or ICU's, and change with their versions: an index that was made under others does
not find what is in it (`docs/decisions/0041-compared-byte-by-byte.md`). SQLite has always compared bytes.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.exc import DBAPIError

from keyturn.core.errors import UnsafeSettings

revision = "0003"
down_revision = "0002"

# In the order in which a refresh comes to them: nobody can wait for us then while we wait for them.
_KEYS = {
    "keyturn_sessions": ("user_id",),
    "keyturn_users": ("id", "email_key"),
    "keyturn_denylist": ("id",),
    "keyturn_events": ("user_id",),
    "keyturn_signing_keys": ("kid",),
    "keyturn_meta": ("name",),
}
_USED = frozenset({"0A000", "42601"})
"""What PostgreSQL says of a column that a view, policy, trigger or generated column of somebody's depends on."""


def upgrade() -> None:
    """Give the columns the collation: their indexes are built anew, their tables are not. Raises: UnsafeSettings."""
    if op.get_bind().dialect.name != "postgresql":
        return
    # All at once: a transaction that has come to one of them, while another is built anew, would have to be undone.
    op.execute(f"LOCK TABLE {', '.join(_KEYS)} IN ACCESS EXCLUSIVE MODE")
    for table, columns in _KEYS.items():
        for column in columns:
            try:
                op.alter_column(table, column, type_=sa.Text(collation="C"))
            except DBAPIError as error:
                refused = error.orig and error.orig.__cause__
                if getattr(refused, "sqlstate", None) not in _USED:
                    raise
                # It quotes names, and no row.
                detail = getattr(refused, "detail", None) or "something of yours depends on it"
                problem = f"database_depends: {table} ({column}) is to be compared otherwise, but {detail}: drop that, and make it again after `keyturn migrate`"
                raise UnsafeSettings([problem]) from error
