"""Whether the tables are whole: what a restore, a replication or a hand may have left out.

Owns: what is refused at the start beyond rights and settings, and what an index is for. Must not hold: the tables (`schema.py`).
"""

from __future__ import annotations

import json

from keyturn.core.errors import UnsafeSettings
from keyturn.stores.engine import Engine
from keyturn.stores.migrations import VERSION_TABLE
from keyturn.stores.schema import events, metadata

_TABLES = sorted(metadata.tables)
_UNIQUE = [(name, column.name) for name in _TABLES for column in metadata.tables[name].primary_key.columns] + [
    (name, column.name)
    for name in _TABLES
    for index in sorted(metadata.tables[name].indexes, key=lambda index: str(index.name))
    if index.unique
    for column in index.columns
]
"""Each is of one column."""
_INDEXES = sorted(str(index.name) for table in metadata.tables.values() for index in table.indexes)

# Where there is a level: before that none has been made.
_MISSING = (
    "SELECT name FROM unnest($1::text[]) AS name WHERE to_regclass(name) IS NULL"
    " AND to_regclass($2) IS NOT NULL ORDER BY name"
)
_UNLOGGED = (
    "SELECT name FROM unnest($1::text[]) AS name JOIN pg_class ON pg_class.oid = to_regclass(name)"
    " WHERE relpersistence <> 'p' ORDER BY name"
)
# By what it is and not by its name, which is the operator's affair.
_NOT_UNIQUE = """
SELECT format('%s (%s)', name, named) FROM unnest($1::text[], $2::text[]) AS needed(name, named)
WHERE to_regclass(name) IS NOT NULL AND NOT EXISTS (
  SELECT FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
  WHERE indrelid = to_regclass(name) AND attname = named AND indnatts = 1 AND indisunique AND indisvalid AND indpred IS NULL
)
"""
_UNIDENTIFIED = """
SELECT name FROM unnest($1::text[]) AS name JOIN pg_class ON pg_class.oid = to_regclass(name)
WHERE relreplident <> 'f' AND EXISTS (
  SELECT FROM pg_publication JOIN pg_publication_tables USING (pubname)
  WHERE (pubupdate OR pubdelete) AND to_regclass(format('%I.%I', schemaname, tablename)) = to_regclass(name)
) AND NOT EXISTS (
  SELECT FROM pg_index WHERE indrelid = to_regclass(name) AND CASE relreplident WHEN 'd' THEN indisprimary WHEN 'i' THEN indisreplident END
) ORDER BY name
"""
_SLOW = (
    "SELECT name FROM unnest($1::text[]) AS name WHERE NOT EXISTS"
    " (SELECT FROM pg_index WHERE indexrelid = to_regclass(name) AND indisvalid) ORDER BY name"
)
_SLOW_SQLITE = "SELECT value FROM json_each(?) WHERE value NOT IN (SELECT name FROM sqlite_master WHERE type = 'index') ORDER BY value"
_SCHEMAS = (
    "SELECT name FROM unnest(current_schemas(false)) WITH ORDINALITY AS path(name, place) WHERE EXISTS"
    " (SELECT FROM pg_tables WHERE schemaname = name AND tablename = ANY($1::text[])) ORDER BY place"
)
_SEQUENCE = """
SELECT sequence FROM (SELECT CASE WHEN to_regclass($1) IS NOT NULL THEN pg_get_serial_sequence($1, 'id') END AS sequence) AS found
WHERE has_table_privilege(to_regclass($1), 'SELECT') AND has_sequence_privilege(to_regclass(sequence), 'USAGE')
"""
_BEHIND = f"SELECT max(id) > coalesce(pg_sequence_last_value($1::text::regclass), 0) FROM {events.name}"  # noqa: S608 - no input


async def check_whole(engine: Engine) -> None:
    """Refuse tables of PostgreSQL that lack what all else relies on. SQLite has nothing of the kind.

    Why: an interrupted restore has made all tables and the level before the last session is in, and whoever comes then is signed
    out; the keys come last. What is UNLOGGED is empty after a crash, and at a standby.

    Raises: UnsafeSettings: with all that is wrong. Unavailable: the database is at fault.
    """
    if not engine.postgres:
        return
    problems: list[str] = []
    async with engine.autocommit() as connection:
        missing = list((await connection.exec_driver_sql(_MISSING, (_TABLES, VERSION_TABLE))).scalars())
        if missing:
            problems.append(
                f"database_incomplete: {', '.join(missing)} is missing: was it renamed, or a backup restored in part?"
            )
        unlogged = list((await connection.exec_driver_sql(_UNLOGGED, (_TABLES,))).scalars())
        if unlogged:
            problems.append(
                f"database_not_durable: {', '.join(unlogged)} is UNLOGGED: PostgreSQL empties it after a crash, and no standby has it;"
                " say ALTER TABLE … SET LOGGED"
            )
        names, columns = map(list, zip(*_UNIQUE, strict=True))
        lacking = list((await connection.exec_driver_sql(_NOT_UNIQUE, (names, columns))).scalars())
        if lacking:
            problems.append(
                f"database_incomplete: no index keeps {', '.join(lacking)} unique: was a restore interrupted? Restore it whole,"
                " into an empty database"
            )
        unidentified = list((await connection.exec_driver_sql(_UNIDENTIFIED, (_TABLES,))).scalars())
        if unidentified:
            problems.append(
                f"database_incomplete: {', '.join(unidentified)} is published without a replica identity, and PostgreSQL refuses each"
                " change of it; say ALTER TABLE … REPLICA IDENTITY DEFAULT"
            )
        sequence = (await connection.exec_driver_sql(_SEQUENCE, (events.name,))).scalar_one_or_none()
        if sequence and (await connection.exec_driver_sql(_BEHIND, (sequence,))).scalar_one():
            mending = f"SELECT setval('{sequence}', (SELECT max(id) FROM {events.name}))"  # noqa: S608 - the catalogue's own name
            problems.append(
                f"database_incomplete: the ids of {events.name} lag behind its rows, as after a logical replication, and sign-in would"
                f" be 503: say {mending}"
            )
    if problems:
        raise UnsafeSettings(problems)


async def missing_indexes(engine: Engine) -> list[str]:
    """List the indexes that are not there or not valid: without them all is slower, and nothing wrong. Raises: Unavailable."""
    async with engine.autocommit() as connection:
        asked = (_SLOW, (_INDEXES,)) if engine.postgres else (_SLOW_SQLITE, (json.dumps(_INDEXES),))
        return list((await connection.exec_driver_sql(*asked)).scalars())


async def schemas_with_tables(engine: Engine) -> list[str]:
    """List the schemas of PostgreSQL's search_path that have tables of ours, in its order. Raises: Unavailable."""
    async with engine.autocommit() as connection:
        return list((await connection.exec_driver_sql(_SCHEMAS, (_TABLES,))).scalars())
