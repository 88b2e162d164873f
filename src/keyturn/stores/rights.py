"""What the server's role may do in PostgreSQL.

Owns: which rights on which tables a node needs. Must not hold: who grants them (`docs/guides/operating.md`), the tables.
"""

from __future__ import annotations

from keyturn.core.errors import UnsafeSettings
from keyturn.stores.engine import AsyncConnection, Engine, ping
from keyturn.stores.meta import put_meta
from keyturn.stores.schema import meta, metadata

_SIGN = "sign_of_life"
_TABLES = sorted(metadata.tables)
# Tables that are not there yet will belong to whoever makes them.
_MISSING = """
SELECT needed || ' on ' || name FROM unnest($1::text[]) AS name, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS needed
WHERE to_regclass(name) IS NOT NULL AND NOT has_table_privilege(to_regclass(name), needed)
UNION ALL
SELECT 'USAGE on ' || relname FROM pg_class, unnest($1::text[]) AS name
WHERE relname LIKE name || '\\_%' AND pg_table_is_visible(oid)
AND CASE WHEN relkind = 'S' THEN NOT has_sequence_privilege(oid, 'USAGE') END
UNION ALL
SELECT 'BYPASSRLS for the row security of ' || name FROM unnest($1::text[]) AS name WHERE row_security_active(to_regclass(name))
UNION ALL
SELECT coalesce('CREATE on schema ' || current_schema(), 'a schema that its search_path names')
WHERE has_schema_privilege(current_schema(), 'CREATE') IS NOT TRUE
AND NOT EXISTS (SELECT FROM unnest($1::text[]) AS name WHERE to_regclass(name) IS NOT NULL)
"""


async def may_only_read(engine: Engine) -> bool:
    """Say whether PostgreSQL takes no writes from this role now: from nobody on a standby. Raises: Unavailable."""
    async with engine.autocommit() as connection:
        setting = await connection.exec_driver_sql("SELECT current_setting('transaction_read_only')")
        return bool(setting.scalar_one() == "on")


async def ping_for_writing(engine: Engine) -> None:
    """Ask a migrated database for a sign of life, as one that takes writes; change and lock nothing.

    Why a lock of no row: a server that takes no writes refuses it, and this connection and all as old are given up, as after
    any write that was refused. A plain question a former primary would still answer, and a node would stay with it.

    In SQLite a disk that has refused a write is asked to take one, by each probe until it does: there may be no other request
    that writes, and one that only reads proves nothing.

    Raises: Unavailable: it gives none.
    """
    if engine.sqlite is not None:
        if engine.sqlite.refused:
            await engine.run(lambda connection: _write_sign(engine, connection))
            engine.sqlite.refused = False
        await ping(engine)
        return
    async with engine.autocommit() as connection:
        await connection.exec_driver_sql(f"SELECT FROM {meta.name} LIMIT 0 FOR KEY SHARE")


async def _write_sign(engine: Engine, connection: AsyncConnection) -> None:
    await connection.execute(put_meta(connection, _SIGN, str(await engine.read_now(connection))))


async def check_rights(engine: Engine) -> None:
    """Refuse a role of PostgreSQL that may not do all that a node does with the tables that are there.

    Why: a role that may only read answers every check, and then each login is an error of ours.

    Raises: UnsafeSettings: with every right that is missing. Unavailable: the database is at fault.
    """
    if not engine.postgres:
        return
    async with engine.autocommit() as connection:
        missing = [row[0] for row in await connection.exec_driver_sql(_MISSING, (_TABLES,))]
    if missing:
        raise UnsafeSettings([f"database_forbidden: this role lacks {', '.join(sorted(missing))}"])
