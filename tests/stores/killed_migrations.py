"""Migrations that are killed, each one statement later than the one before, until one comes to its end.

Started by `test_migrations.py` as `python -m tests.stores.killed_migrations URL`. Prints how each ended: the number of the
signal, negative, or the exit status. No test in this file.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from importlib import import_module

from sqlalchemy import event
from sqlalchemy.engine import Engine

from keyturn.stores.migrations import migrate

_CHANGES = ("CREATE", "DROP", "ALTER", "INSERT", "UPDATE", "DELETE")


def migrate_until(changes: int, url: str) -> None:
    """Migrate, and die by SIGKILL once so many statements have changed something."""
    left = changes

    def count(*executed: object) -> None:
        nonlocal left
        left -= str(executed[2]).lstrip().upper().startswith(_CHANGES)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "after_cursor_execute", count)
    asyncio.run(migrate(url))


def work(url: str) -> None:
    """Fork one after the other. Why: to load everything takes a hundred times as long as to migrate."""
    import_module("alembic.command")
    changes, status = 0, -signal.SIGKILL
    while status == -signal.SIGKILL:
        changes += 1
        child = os.fork()
        if child == 0:
            migrate_until(changes, url)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        sys.stdout.write(f"{status:d}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    work(sys.argv[1])
