"""Every command, put together.

Owns: the list of commands. Must not hold: what they do.
"""

from __future__ import annotations

from typing import Annotated

import typer

from keyturn import __version__
from keyturn.cli import database, doctor, keys, server, sessions, users


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


app = typer.Typer(
    name="keyturn",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
    help="Login sessions with rotating refresh tokens that never sign an honest user out.",
    epilog="Settings come from the environment: KEYTURN_DATABASE_URL, KEYTURN_SECRET_FILE, KEYTURN_BASE_URL and more.",
)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    del version


app.command("demo")(server.demo)
app.command("serve")(server.serve)
app.command("migrate")(database.migrate)
app.add_typer(keys.app, name="keys")
app.add_typer(users.app, name="users")
app.add_typer(sessions.app, name="sessions")
app.command("prune")(database.prune)
app.command("doctor")(doctor.doctor)
app.command("secret")(keys.secret)
app.command("heal")(database.heal)
