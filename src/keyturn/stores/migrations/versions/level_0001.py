"""Level 1: the first tables. A step is never changed once it is released; what comes next is another step."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_SECONDS = sa.Float(precision=53)


def upgrade() -> None:
    """Create the tables."""
    _sessions()
    _users()
    _events()
    _short_lived()
    op.create_table(
        "keyturn_signing_keys",
        sa.Column("kid", sa.Text, primary_key=True),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "keyturn_meta",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )


def _sessions() -> None:
    op.create_table(
        "keyturn_sessions",
        sa.Column("id", sa.LargeBinary, primary_key=True),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("token_hash", sa.LargeBinary, nullable=False),
        sa.Column("previous_hash", sa.LargeBinary),
        sa.Column("confirmed_at", _SECONDS, nullable=False),
        sa.Column("created_at", _SECONDS, nullable=False),
        sa.Column("last_seen_at", _SECONDS, nullable=False),
        sa.Column("last_active_at", _SECONDS, nullable=False),
        sa.Column("inactivity_expires_at", _SECONDS, nullable=False),
        sa.Column("absolute_expires_at", _SECONDS, nullable=False),
        sa.Column("revoked_at", _SECONDS),
        sa.Column("revoked_reason", sa.Text),
        sa.Column("device_id", sa.LargeBinary, nullable=False),
        sa.Column("device_name", sa.Text),
        sa.Column("device", sa.Text, nullable=False),
        sa.Column("ip", sa.Text, nullable=False),
        sa.Column("user_agent", sa.Text, nullable=False),
        sa.Column("amr", sa.Text, nullable=False),
        sa.Column("authenticated_at", _SECONDS, nullable=False),
        sa.Column("remember", sa.Boolean, nullable=False),
        # Room on each page for the next version of a row: refreshes then update in place.
        postgresql_with={"fillfactor": "70"},
    )
    op.create_index("keyturn_sessions_user", "keyturn_sessions", ["user_id"])
    op.create_index("keyturn_sessions_absolute", "keyturn_sessions", ["absolute_expires_at"])


def _users() -> None:
    op.create_table(
        "keyturn_users",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("email", sa.Text, nullable=False),
        sa.Column("email_key", sa.Text, nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("password_hash", sa.Text),
        sa.Column("disabled_at", _SECONDS),
        sa.Column("email_verified_at", _SECONDS),
        sa.Column("created_at", _SECONDS, nullable=False),
    )
    op.create_index("keyturn_users_email", "keyturn_users", ["email_key"], unique=True)


def _events() -> None:
    op.create_table(
        "keyturn_events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("at", _SECONDS, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text),
        sa.Column("session_hash", sa.Text),
        sa.Column("data", sa.Text, nullable=False),
    )
    op.create_index("keyturn_events_at", "keyturn_events", ["at"])
    op.create_index("keyturn_events_user", "keyturn_events", ["user_id"])


def _short_lived() -> None:
    op.create_table(
        "keyturn_denylist",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("created_at", _SECONDS, nullable=False),
        sa.Column("expires_at", _SECONDS, nullable=False),
    )
    op.create_index("keyturn_denylist_created", "keyturn_denylist", ["created_at"])
    op.create_index("keyturn_denylist_expires", "keyturn_denylist", ["expires_at"])
    op.create_table(
        "keyturn_counters",
        sa.Column("key_hash", sa.LargeBinary, primary_key=True),
        sa.Column("amount", sa.Integer, nullable=False),
        sa.Column("expires_at", _SECONDS),
    )
    op.create_index("keyturn_counters_expires", "keyturn_counters", ["expires_at"])
