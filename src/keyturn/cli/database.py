"""`keyturn migrate`, `prune` and `heal`: what an operator does to the database.

Owns: these commands. Must not hold: SQL.
"""

from __future__ import annotations

from typing import Annotated

import typer

from keyturn.cli.output import Json, as_json, say, when


def migrate() -> None:
    """Bring the database to the tables of this version. Safe to run twice, and on several nodes at once."""
    from keyturn.cli.tools import run

    say(f"the database is at level {run(_migrate())}")


def prune(
    batch: Annotated[int, typer.Option(min=1, max=100_000, help="Rows in one transaction, at most.")] = 1000,
    json: Json = False,
) -> None:
    """Delete expired sessions, counters and old events now; running servers do it by themselves from time to time."""
    from keyturn.cli.tools import open_tools, run

    async def work() -> int:
        from keyturn.stores.pruning import SqlUpkeep

        async with open_tools() as tools:
            upkeep = SqlUpkeep(tools.engine, event_retention=tools.policy.event_retention)
            return await upkeep.prune(batch=batch)

    rows = run(work())
    if json:
        as_json({"rows": rows})
    else:
        say(f"deleted {rows} row{'' if rows == 1 else 's'}")


def heal(
    minutes: Annotated[
        float, typer.Option(min=0, max=24 * 60, help="For how long from now; 0 ends it.", show_default=False)
    ],
    json: Json = False,
) -> None:
    """After a restore from a backup: believe refresh tokens that are newer than the database, for some minutes.

    Without it their owners are asked to try again. While it lasts, a thief with a newer copy is believed as well.
    """
    from keyturn.cli.tools import open_tools, run

    async def work() -> float:
        from keyturn.stores.failover import start_healing

        async with open_tools() as tools:
            return await start_healing(tools.engine, minutes * 60)

    until = run(work())
    if json:
        as_json({"until": when(until)})
    else:
        say(f"tokens newer than the database are believed until {when(until)}" if minutes else "healing has ended")


async def _migrate() -> str:
    from keyturn.cli.tools import open_database
    from keyturn.settings import Settings
    from keyturn.stores.migrations import migrate as bring_up

    async with open_database(Settings.load()) as engine:
        return await bring_up(engine)
