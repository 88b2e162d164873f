"""What commands work with: the settings and an open database.

Owns: opening and closing it. Must not hold: commands.

Why not a whole node: a command that lists users needs neither the master secret nor a safe base URL.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from keyturn.cli.errors import CommandError
from keyturn.core.model import User
from keyturn.core.policy import Policy
from keyturn.settings import Settings
from keyturn.stores.engine import Engine, open_engine
from keyturn.stores.sql import SqlSessions
from keyturn.stores.users import SqlUsers

if TYPE_CHECKING:
    from keyturn.runtime import Keyturn

Result = TypeVar("Result")

_EXTRAS = {"prometheus_client": "server"}
"""The extras that have another name than the module that is missing."""


@dataclass(frozen=True, kw_only=True)
class Tools:
    """An open, migrated database and what works on it."""

    settings: Settings
    policy: Policy
    engine: Engine
    users: SqlUsers
    sessions: SqlSessions


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncGenerator[Engine]:
    """Open the database of the settings. Raises: CommandError: its URL is not one we can use."""
    try:
        engine = open_engine(settings.database_url.get_secret_value())
    except ValueError as error:
        raise CommandError("invalid_settings", f"KEYTURN_DATABASE_URL: {error}") from error
    try:
        yield engine
    finally:
        await engine.close()


@asynccontextmanager
async def open_tools() -> AsyncGenerator[Tools]:
    """Read the environment and open its database.

    Raises:
        CommandError: it has not been migrated to this version. DatabaseNewer: it is a later version's.
        Unavailable: it is at fault. UnsafeSettings, UnsafePolicy: the environment holds something malformed.
    """
    from keyturn.stores.migrations import why_not_migrated

    settings = Settings.load()
    policy = settings.policy()
    async with open_database(settings) as engine:
        if obstacle := await why_not_migrated(engine):
            raise CommandError("database_not_migrated", f"{obstacle} first")
        lifetime = policy.denylist_lifetime
        # Running nodes learn of what is revoked here from the database.
        users = SqlUsers(engine, on_revoked=lambda _: None, denylist_lifetime=lifetime)
        sessions = SqlSessions(
            engine, denylist_lifetime=lifetime, heal_time=policy.heal_time, on_revoked=lambda _: None
        )
        try:
            yield Tools(settings=settings, policy=policy, engine=engine, users=users, sessions=sessions)
        finally:
            await sessions.close()


def make_node(settings: Settings) -> Keyturn:
    """Put a node together, with nothing connected. Raises: CommandError. UnsafeSettings, UnsafePolicy: as `Keyturn`."""
    from keyturn.runtime import Keyturn

    try:
        return Keyturn(settings)
    except ValueError as error:
        raise CommandError("invalid_settings", str(error)) from error
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(error.name or "", error.name)
        raise CommandError("not_installed", f"{error.name}: install keyturn[{extra}]") from error


def run(work: Coroutine[object, object, Result]) -> Result:
    """Run the asynchronous part of a command; everything that it needs for long has been loaded."""
    gc.enable()
    return asyncio.run(work)


async def find_owner(tools: Tools, who: str) -> str:
    """Return the id of the user whose sessions are meant: `who` itself where it is the id of somebody signed in.

    Why not by the table of users alone: the users of an application's own directory are not in it.

    Raises: CommandError: nobody with this id is signed in, and there is no built-in user with this id or e-mail address.
    """
    if who.isprintable() and (await tools.sessions.list_live(who)).sessions:
        return who
    user = await look_up_user(tools, who)
    if user is None:
        raise CommandError("not_found", f"there is no user {who} here, and nobody with this id is signed in")
    return user.id


async def look_up_user(tools: Tools, who: str) -> User | None:
    """Return the user of the built-in directory with this id or e-mail address."""
    if "@" not in who:
        # Nobody has another id, and PostgreSQL is asked about no text that is not UTF-8.
        return await tools.users.get(who) if who.isprintable() else None
    credential = await tools.users.find(who)
    return None if credential is None else credential.user


async def find_user(tools: Tools, who: str) -> str:
    """Return the id of the user with this id or e-mail address. Raises: CommandError: there is none."""
    user = await look_up_user(tools, who)
    if user is None:
        raise no_user(who)
    return user.id


def no_user(who: str) -> CommandError:
    """Say that there is no such user."""
    return CommandError("not_found", f"there is no user {who}")
