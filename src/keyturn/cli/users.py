"""`keyturn users ...`: the built-in directory of users.

Owns: these commands. Must not hold: SQL, password rules.
"""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from keyturn.cli.output import Json, as_json, say, table

if TYPE_CHECKING:
    from keyturn.cli.tools import Tools
    from keyturn.core.model import User

app = typer.Typer(no_args_is_help=True, help="Users of the built-in directory.", rich_markup_mode=None)

Who = Annotated[str, typer.Argument(metavar="USER", help="Its e-mail address or its id.")]
PasswordStdin = Annotated[bool, typer.Option("--password-stdin", help="Read the password from standard input.")]


@app.command("create")
def create(
    email: Annotated[str, typer.Argument(metavar="EMAIL")],
    name: Annotated[str | None, typer.Option(help="What to call the person.")] = None,
    password_stdin: PasswordStdin = False,
    json: Json = False,
) -> None:
    """Create a user. The password is asked for, or read from standard input; never an argument, which others can see."""
    from keyturn.cli.tools import run

    # A script has an empty name for whoever has none, which no sign-up takes.
    user = run(_create(email, name or None, from_stdin=password_stdin))
    if json:
        as_json({"id": user.id, "email": user.email})
    else:
        say(user.id)


@app.command("import")
def import_users(
    file: Annotated[str, typer.Argument(metavar="FILE", help="One JSON object a line; - is standard input.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Look at all of it, and write nothing.")] = False,
    json: Json = False,
) -> None:
    """Bring in users from elsewhere, with the hashes of their passwords.

    Each line has an `email` and may have `name`, `password_hash`, `id` and `disabled`. Lines that are refused are named; the others
    are brought in, and who is there already is left alone: the same file may come again.
    """
    from functools import partial

    from keyturn.cli import importing
    from keyturn.cli.errors import tell
    from keyturn.cli.tools import run

    with importing.opened(file) as opened:
        tally, notes = run(importing.import_users(opened, dry_run=dry_run, tell=partial(tell, as_json=json)))
    counts = {"imported": tally.imported, "already_there": tally.already_there, "refused": tally.refused}
    if json:
        told = [{"code": note.code, "text": note.text} for note in notes]
        as_json({"dry_run": dry_run, **counts, "without_password": tally.without_password, "notes": told})
    else:
        done = "would import" if dry_run else "imported"
        say(f"{done} {tally.imported}, already there {tally.already_there}, refused {tally.refused}")
        for note in notes:
            say(f"note  {note.code}: {note.text}")
    if tally.refused:
        sys.exit(1)


@app.command("set-password")
def set_password(who: Who, password_stdin: PasswordStdin = False) -> None:
    """Give a user another password, and end all their sessions. It is asked for as for a new user.

    Whoever is disabled stays so, and whom too many wrong passwords keep out takes `unlock` too.
    """
    from keyturn.cli.tools import run

    say(f"set the password of {run(_set_password(who, from_stdin=password_stdin))}")


@app.command("list")
def list_users(
    json: Json = False,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Begin after this user.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="So many at most.")] = 100,
) -> None:
    """List users in the order of their ids."""
    from keyturn.cli.errors import CommandError
    from keyturn.cli.tools import open_tools, run

    if after is not None and not after.isprintable():
        raise CommandError("invalid_request", "--after: not the id of a user")

    async def work() -> list[dict[str, object]]:
        async with open_tools() as tools:
            found = await tools.users.list_users(after=after, limit=limit)
        return [user._asdict() for user in found]

    table(("id", "email", "name", "disabled"), run(work()), json_instead=json)


@app.command("disable")
def disable(who: Who) -> None:
    """Disable a user and end all their sessions."""
    _set_disabled(who, disabled=True)


@app.command("enable")
def enable(who: Who) -> None:
    """Enable a disabled user."""
    _set_disabled(who, disabled=False)


@app.command("unlock")
def unlock(who: Who) -> None:
    """Let a user sign in on new devices again, after too many wrong passwords in a row.

    An e-mail address may be that of a user of the application's own directory.
    """
    from keyturn.cli.tools import look_up_user, no_user, open_tools, run

    async def work() -> str:
        async with open_tools() as tools:
            user = await look_up_user(tools, who)
            if user is None and "@" not in who:
                raise no_user(who)
            await _unlock(tools, who if user is None else user.email)
            return f"the address {who}, which no user of the built-in directory has" if user is None else user.id

    say(f"unlocked {run(work())}")


@app.command("delete")
def delete(who: Who, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Delete a user and end all their sessions."""
    from keyturn.cli.tools import find_user, open_tools, run

    if not yes:
        _confirm(f"Delete {who} for good?")

    async def work() -> str:
        async with open_tools() as tools:
            user_id = await find_user(tools, who)
            await tools.users.delete(user_id)
            return user_id

    say(f"deleted {run(work())}")


def _set_disabled(who: str, *, disabled: bool) -> None:
    from keyturn.cli.tools import find_user, open_tools, run

    async def work() -> str:
        async with open_tools() as tools:
            user_id = await find_user(tools, who)
            await tools.users.set_disabled(user_id, disabled=disabled)
            return user_id

    say(f"{'disabled' if disabled else 'enabled'} {run(work())}")


def _confirm(question: str) -> None:
    from keyturn.cli.errors import CommandError

    sys.stderr.write(f"{question} [y/N]: ")
    sys.stderr.flush()
    with suppress(UnicodeDecodeError):  # no letter that we ask for
        if sys.stdin.readline().strip().lower() in {"y", "yes"}:
            return
    if not sys.stdin.isatty():
        sys.stderr.write("\n")  # which nobody has typed
    raise CommandError("not_confirmed", "nobody is deleted: answer y, or say --yes in a script")


def _password(*, from_stdin: bool) -> str:
    from keyturn.cli.errors import CommandError

    if not from_stdin and not sys.stdin.isatty():
        raise CommandError("no_password", "there is no terminal to ask on: use --password-stdin")
    try:
        password = sys.stdin.readline().rstrip("\r\n") if from_stdin else _typed()
    except UnicodeDecodeError:
        raise CommandError("invalid_request", "The password is not UTF-8") from None
    if "\0" in password:
        # No login takes one.
        raise CommandError("invalid_request", "The password contains a NUL character: is the file UTF-16?")
    # What editors put before a text, and nobody types.
    return password.removeprefix("\ufeff")


def _typed() -> str:
    from keyturn.cli.errors import CommandError

    # Only an exception ends the question in such a way that the terminal shows again what is typed.
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        password: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    except typer.Abort as aborted:
        signal.signal(signal.SIGINT, former)
        if isinstance(aborted.__context__, KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        raise CommandError("no_password", "none was typed") from None
    signal.signal(signal.SIGINT, former)
    return password


async def _unlock(tools: Tools, email: str) -> None:
    from keyturn.core.login import attempt_limits
    from keyturn.email import normalise_email
    from keyturn.stores.throttle import RedisThrottle, SqlThrottle

    limits = attempt_limits(normalise_email(email).key, "", None, tools.policy)
    # To give back one that has no window is to begin it anew; the others end by themselves.
    locking = [limit for limit in limits if limit.window is None]
    if tools.settings.redis_url is None:
        await SqlThrottle(tools.engine).give_back(locking)
        return
    from keyturn.cli.errors import CommandError

    try:
        from keyturn.stores.redis import connect

        client = connect(tools.settings.redis_url.get_secret_value())
    except ModuleNotFoundError as error:
        raise CommandError("not_installed", "redis: install keyturn[redis]") from error
    except ValueError as error:
        raise CommandError("invalid_settings", f"KEYTURN_REDIS_URL: {error}") from error
    async with client as redis:
        await RedisThrottle(redis).give_back(locking)


async def _create(email: str, name: str | None, *, from_stdin: bool) -> User:
    from keyturn.cli.errors import CommandError
    from keyturn.cli.tools import open_tools
    from keyturn.core.events import Event, EventType
    from keyturn.email import normalise_email

    async with open_tools() as tools:
        address = normalise_email(email).display
        password_hash = _hashed(tools, address, name, from_stdin=from_stdin)
        async with tools.engine.autocommit() as connection:
            now = await tools.engine.read_now(connection)
        event = Event(EventType.SIGNED_UP, now, data={"by": "command line"})
        user = await tools.users.sign_up(address, name, password_hash, event)
        if user is None:
            raise CommandError("conflict", "this e-mail address is taken")
        return user


async def _set_password(who: str, *, from_stdin: bool) -> str:
    from keyturn.cli.tools import look_up_user, no_user, open_tools

    async with open_tools() as tools:
        user = await look_up_user(tools, who)
        if user is None:
            raise no_user(who)
        password_hash = _hashed(tools, user.email, user.name, from_stdin=from_stdin)
        if not await tools.users.set_password(user.id, password_hash, {"by": "command line"}):
            raise no_user(who)
        return user.id


def _hashed(tools: Tools, address: str, name: str | None, *, from_stdin: bool) -> str:
    """Ask for a password that this user may choose, and hash it."""
    from keyturn.tokens.password import PasswordHasher
    from keyturn.tokens.password_policy import PasswordPolicy

    policy = PasswordPolicy(tools.policy.password_min_length, ("keyturn",))
    return PasswordHasher().hash(policy.check(_password(from_stdin=from_stdin), (address, name or "")))
