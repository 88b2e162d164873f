"""Alembic's entry: run the steps on the connection that `migrate` holds, in its transaction.

Owns: nothing. It is executed by Alembic and imported by nobody.
"""

from __future__ import annotations

from alembic import context

from keyturn.stores.migrations import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
context.run_migrations()
