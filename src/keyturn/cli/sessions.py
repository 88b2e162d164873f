"""`keyturn sessions ...`: who is signed in where.

Owns: these commands. Must not hold: SQL, rules.
"""

from __future__ import annotations

import re
from typing import Annotated

import typer

from keyturn.cli.output import Json, as_json, say, table, when

app = typer.Typer(no_args_is_help=True, help="Sessions of a user.", rich_markup_mode=None)

_USER = "the id; of a user of the built-in directory also the e-mail address."
_SESSION_ID = re.compile(r"[0-9a-f]{32}")


@app.command("list")
def list_sessions(
    who: Annotated[str, typer.Argument(metavar="USER", help=f"Whose: {_USER}")], json: Json = False
) -> None:
    """List a user's live sessions, newest first."""
    from keyturn.cli.tools import find_owner, open_tools, run

    async def work() -> list[dict[str, object]]:
        async with open_tools() as tools:
            listing = await tools.sessions.list_live(await find_owner(tools, who))
        return [
            {
                "id": session.id.hex(),
                "device": session.device,
                "device_name": session.device_name,
                "ip": session.ip,
                "created_at": when(session.created_at),
                "last_seen_at": when(session.last_seen_at),
                "expires_at": when(min(session.inactivity_expires_at, session.absolute_expires_at)),
                "generation": session.generation,
            }
            for session in listing.sessions
        ]

    columns = ("id", "device", "device_name", "ip", "created_at", "last_seen_at", "expires_at")
    table(columns, run(work()), json_instead=json)


@app.command("revoke")
def revoke(
    session_id: Annotated[str | None, typer.Argument(metavar="SESSION", help="The id of one session.")] = None,
    user: Annotated[str | None, typer.Option(metavar="USER", help=f"End all sessions of a user: {_USER}")] = None,
    everybody: Annotated[
        bool, typer.Option("--everybody", help="End all sessions of everybody, one user after the other.")
    ] = False,
    json: Json = False,
) -> None:
    """End one session, or with --user all of a user, or all there are. Their access tokens are refused as soon as a node has heard of it."""
    if [session_id is not None, user is not None, everybody].count(True) != 1:
        raise typer.BadParameter("name one session, or a --user, or say --everybody")
    if session_id is not None and _SESSION_ID.fullmatch(session_id) is None:
        raise typer.BadParameter("a session id is 32 characters of lower-case hex; all sessions of a user: --user")
    from keyturn.cli.tools import run

    ended = run(_revoke_all() if everybody else _revoke(session_id, user))
    if json:
        as_json(ended)
    else:
        say(f"ended {len(ended)} session{'' if len(ended) == 1 else 's'}")


async def _revoke(session_id: str | None, user: str | None) -> list[str]:
    from keyturn.cli.errors import CommandError
    from keyturn.cli.tools import find_owner, open_tools
    from keyturn.core.model import RevokeReason, SessionId

    async with open_tools() as tools:
        if user is not None:
            user_id, only = await find_owner(tools, user), None
        else:
            only = SessionId(bytes.fromhex(session_id or ""))
            session, _ = await tools.sessions.get(only)
            if session is None:
                raise CommandError("not_found", "there is no such session")
            user_id = session.user_id
        ended = await tools.sessions.revoke(user_id, RevokeReason.REVOKED, only=only)
        if only is not None and not ended:
            raise CommandError("not_found", "this session has ended already")
        return [each.hex() for each in ended]


async def _revoke_all() -> list[str]:
    from keyturn.cli.tools import open_tools
    from keyturn.core.model import RevokeReason

    async with open_tools() as tools:
        # Each in a transaction of its own: no refresh waits for all of them, and a command that was stopped has done its part.
        users = await tools.sessions.owners()
        return [each.hex() for user_id in users for each in await tools.sessions.revoke(user_id, RevokeReason.REVOKED)]
