"""The tables, once, for SQLite and PostgreSQL.

Owns: names, types, indexes. Must not hold: queries. `migrations/` creates them; a test compares the two.

Why no index on a column that a refresh changes: PostgreSQL then updates the row in place (heap-only), so a session
costs the same after its thousandth refresh as after its first. (`revoked_reason`, on which one depends, changes when a
session ends.) Times are seconds since the epoch (double precision).
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    text,
)

metadata = MetaData()

_Seconds = Float(precision=53)
_Key = Text().with_variant(Text(collation="C"), "postgresql")
"""A text that is looked up: compared byte by byte, so that an index means the same under every operating system."""
_UNREVOKED = text("revoked_reason IS NULL")

sessions = Table(
    "keyturn_sessions",
    metadata,
    Column("id", LargeBinary, primary_key=True),
    Column("user_id", _Key, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("token_hash", LargeBinary, nullable=False),
    Column("previous_hash", LargeBinary),
    Column("confirmed_at", _Seconds, nullable=False),
    Column("created_at", _Seconds, nullable=False),
    Column("last_seen_at", _Seconds, nullable=False),
    Column("last_active_at", _Seconds, nullable=False),
    Column("inactivity_expires_at", _Seconds, nullable=False),
    Column("absolute_expires_at", _Seconds, nullable=False),
    Column("revoked_at", _Seconds),
    Column("revoked_reason", Text),
    Column("device_id", LargeBinary, nullable=False),
    Column("device_name", Text),
    Column("device", Text, nullable=False),
    Column("ip", Text, nullable=False),
    Column("user_agent", Text, nullable=False),
    Column("amr", Text, nullable=False),
    Column("authenticated_at", _Seconds, nullable=False),
    Column("remember", Boolean, nullable=False),
    Index("keyturn_sessions_unrevoked", "user_id", postgresql_where=_UNREVOKED, sqlite_where=_UNREVOKED),
    Index("keyturn_sessions_device", "user_id", "device_id"),
    Index("keyturn_sessions_absolute", "absolute_expires_at"),
    postgresql_with={"fillfactor": "70"},
)
"""Columns in the order of `core.model.Session`, so that a row becomes one without a mapping.

Sessions that have ended stay for a while, and one user may have very many of them. So what is asked by user has an index
that leads past those (`docs/decisions/0026-ended-sessions.md`). One of them depends on `revoked_reason`, which is null as
long as `revoked_at` is, so that only what asks for that as well can use it, and no statement of the hot path.
"""

users = Table(
    "keyturn_users",
    metadata,
    Column("id", _Key, primary_key=True),
    Column("email", Text, nullable=False),
    Column("email_key", _Key, nullable=False),
    Column("name", Text),
    Column("password_hash", Text),
    Column("disabled_at", _Seconds),
    Column("email_verified_at", _Seconds),
    Column("created_at", _Seconds, nullable=False),
    Index("keyturn_users_email", "email_key", unique=True),
)
"""`email_key` is the normalised address, case-folded: the identity; `email` is what the person typed, normalised."""

events = Table(
    "keyturn_events",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("at", _Seconds, nullable=False),
    Column("type", Text, nullable=False),
    Column("user_id", _Key),
    Column("session_hash", Text),
    Column("data", Text, nullable=False),
    Index("keyturn_events_at", "at"),
    Index("keyturn_events_user", "user_id"),
)
"""The event log. `session_hash` is a hash: a log reader must not be able to name a session (ASVS 16.2.5)."""

denylist = Table(
    "keyturn_denylist",
    metadata,
    Column("id", _Key, primary_key=True),
    Column("created_at", _Seconds, nullable=False),
    Column("expires_at", _Seconds, nullable=False),
    Index("keyturn_denylist_created", "created_at"),
    Index("keyturn_denylist_expires", "expires_at"),
)
"""Ids of sessions (hex) that were revoked and of signing keys that leaked, while access tokens of theirs may be alive."""

counters = Table(
    "keyturn_counters",
    metadata,
    Column("key_hash", LargeBinary, primary_key=True),
    Column("amount", Integer, nullable=False),
    Column("expires_at", _Seconds),
    Index("keyturn_counters_expires", "expires_at"),
)
"""Attempts. A counter without a window is over after `counters.LONGEST_WINDOW`, or when it is reset."""

signing_keys = Table(
    "keyturn_signing_keys",
    metadata,
    Column("kid", _Key, primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
)
"""Access-token signing keys, each sealed under the secret ring, which is not in the database."""

meta = Table(
    "keyturn_meta",
    metadata,
    Column("name", _Key, primary_key=True),
    Column("value", Text, nullable=False),
)
"""A few facts all nodes share: the PostgreSQL timeline last seen; until when lost commits are believed, and how long that was to
be; until when a node prunes SQLite, and when its disk was last asked to take a write."""
