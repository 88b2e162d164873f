"""`keyturn users import`: from a file into the database, some hundred users at a time.

Owns: reading the file to its end, what has come in it before, and what is told. Must not hold: what a line may say
(`user_lines.py`), SQL (`stores/importing.py`).

Why a line that is refused does not keep the others out: among a hundred thousand there are always some, and the rest must
not wait for them on the day of the move. `--dry-run` names them before it, and the same file may come again: who is there is left alone.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from typing import BinaryIO

from keyturn.cli.errors import CommandError, Problem, problems_of
from keyturn.cli.tools import open_tools
from keyturn.core.errors import KeyturnError
from keyturn.settings import Settings
from keyturn.stores.importing import Met, bring_in
from keyturn.tokens.password import OWASP
from keyturn.user_lines import Costs, LineRefused, UserLine, numbered_lines, read_user

BATCH = 500
"""Users in one transaction. Writes of a server wait for it on SQLite: some tens of milliseconds."""
_CACHE = 64 * 1024
"""KiB: room for what has come in a file of about a million users, before it goes to the disk."""
_CONFLICTS = {
    Met.ADDRESS_OF_ANOTHER: "another user has this address, and was left alone",
    Met.ID_OF_ANOTHER: "another user has this id, and was left alone",
}

Tell = Callable[[Problem], None]


@dataclass(slots=True)
class Tally:
    """What has become of the lines so far, and what their hashes cost."""

    imported: int = 0
    already_there: int = 0
    refused: int = 0
    without_password: int = 0
    costs: Costs = field(default_factory=Costs)
    done: int = 0
    """The line up to which all have been dealt with."""

    def add(self, line: UserLine, met: Met) -> None:
        """Count a user who has been brought in, or met somebody."""
        self.costs = self.costs.with_(line.costs)
        if met is Met.NOBODY:
            self.imported += 1
            self.without_password += line.user.password_hash is None
        else:
            self.already_there += met is Met.THEMSELVES
            self.refused += met in _CONFLICTS


@contextmanager
def opened(path: str) -> Generator[BinaryIO]:
    """Open a file, or standard input for `-`. Raises: CommandError: it cannot be read."""
    if path == "-":
        yield sys.stdin.buffer
        return
    try:
        file = open(path, "rb")  # noqa: PTH123, SIM115 - closed below; what is read in the block is not of this `try`
    except (OSError, ValueError) as error:
        raise CommandError("cannot_read", f"{path}: {_reason(error)}") from error
    with file:
        yield file


async def import_users(file: BinaryIO, *, dry_run: bool, tell: Tell) -> tuple[Tally, list[Problem]]:
    """Bring in the users of a file; return the counts, and what an operator has to do now.

    Args:
        dry_run: look at everything, and write nothing.
        tell: hears of each line that is refused, as soon as it is.

    Raises: CommandError: it ended before the file did, and says how far it came.
    """
    # Once it is loaded, to ask at each line whether it is there costs nothing.
    with suppress(ModuleNotFoundError):
        import bcrypt  # noqa: F401  # pyright: ignore[reportUnusedImport]
    tally = Tally()
    async with open_tools() as tools:
        try:
            # Closed here also after a fault: whoever collects it may be another thread, which its database refuses.
            with closing(_good_lines(file, tally, tell)) as lines:
                while batch := list(islice(lines, BATCH)):
                    met = await bring_in(tools.engine, [line.user for _, line in batch], only_ask=dry_run)
                    for (number, line), each in zip(batch, met, strict=True):
                        tally.add(line, each)
                        if each in _CONFLICTS:
                            tell(_problem(number, "conflict", _CONFLICTS[each]))
                    tally.done = batch[-1][0]
        except KeyturnError as fault:
            raise _interrupted(fault, tally, dry_run=dry_run) from fault
        return tally, _notes(tally.costs, tools.settings)


def _good_lines(file: BinaryIO, tally: Tally, tell: Tell) -> Generator[tuple[int, UserLine]]:
    """Yield whom lines bring in, each address and each id once; tell of the others.

    Raises: CommandError: the file cannot be read, or what checks its hashes is not installed.
    """
    try:
        with closing(_Seen()) as seen:
            for number, text in _read(file):
                try:
                    line = read_user(text)
                    seen.note(number, line)
                except LineRefused as refused:
                    if refused.code == "not_installed":
                        raise CommandError(refused.code, f"line {number}: {refused}") from None
                    tally.refused += 1
                    tell(_problem(number, refused.code, str(refused)))
                else:
                    yield number, line
    except sqlite3.Error as error:
        raise CommandError("cannot_write", f"a temporary file: {error}") from error


def _read(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    try:
        yield from numbered_lines(file)
    except OSError as error:
        raise CommandError("cannot_read", _reason(error)) from error


class _Seen:
    """The addresses and ids that have come in a file, by a hash each: on the disk when they become many."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        for statement in (
            f"PRAGMA cache_size = -{_CACHE}",
            "PRAGMA journal_mode = OFF",
            "CREATE TABLE seen (key BLOB PRIMARY KEY, line INTEGER) WITHOUT ROWID",
            "BEGIN",
        ):
            self._database.execute(statement)

    def close(self) -> None:
        self._database.close()

    def note(self, number: int, line: UserLine) -> None:
        """Note a line. Raises: LineRefused: its address or its id has come before."""
        texts = {"address": line.user.email.key, "id": line.user.id}
        keys = {kind: _key(kind, text) for kind, text in texts.items() if text is not None}
        for kind, key in keys.items():
            if earlier := self._database.execute("SELECT line FROM seen WHERE key = ?", (key,)).fetchone():
                raise LineRefused("conflict", f"the same {kind} as in line {earlier[0]}")
        for key in keys.values():
            self._database.execute("INSERT INTO seen VALUES (?, ?)", (key, number))


def _key(kind: str, text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16, person=kind.encode()).digest()


def _problem(number: int, code: str, text: str) -> Problem:
    return Problem(code, f"line {number}: {text}", number)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _interrupted(fault: KeyturnError, tally: Tally, *, dry_run: bool) -> CommandError:
    """Say how far it came, beside what has ended it."""
    code, text, _ = (problems_of(fault) or [Problem("unavailable", str(fault))])[0]
    done = f"up to line {tally.done}, {tally.imported} users" if tally.imported else "nobody"
    return CommandError(code, text if dry_run else f"{text}; imported so far: {done}. Run it again for the rest")


def _notes(costs: Costs, settings: Settings) -> list[Problem]:
    notes: list[Problem] = []
    equal = "or the time of a login tells who came from elsewhere; take it away once they have signed in"
    if costs.bcrypt_rounds > (settings.imported_bcrypt_rounds or 0):
        text = f"set KEYTURN_IMPORTED_BCRYPT_ROUNDS={costs.bcrypt_rounds} where the server runs, {equal}"
        notes.append(Problem("imported_bcrypt", text))
    if costs.pbkdf2_iterations > settings.imported_pbkdf2_iterations:
        text = f"set KEYTURN_IMPORTED_PBKDF2_ITERATIONS={costs.pbkdf2_iterations} where the server runs, {equal}"
        notes.append(Problem("imported_pbkdf2", text))
    dear = costs.argon2
    if dear is not None and dear.memory_kib * dear.passes > OWASP.memory_kib * OWASP.passes:
        text = (
            f"a hash of argon2id with {dear.memory_kib / 1024:.0f} MiB and {dear.passes} passes is dearer than those made here:"
            " until they have signed in, a login of such a user takes longer than others, and that memory"
        )
        notes.append(Problem("imported_argon2id", text))
    return notes
