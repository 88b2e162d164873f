"""How known errors are told: a code and a text each.

Owns: which errors are known. Must not hold: what a command does about one.
"""

from __future__ import annotations

import errno
import json
import re
import sys
from collections.abc import Sequence
from typing import NamedTuple

from keyturn.core.errors import KeyturnError, Refused, Unavailable, UnsafePolicy, UnsafeSettings
from keyturn.wire import driver_error, name_of

_REFERRED = "a table of the application refers to what is to be deleted: delete there first"
_NO_SPACE = "is the disk of the file full, or a quota or a limit of its size reached?"
_MEANINGS = {
    "28P01": "PostgreSQL refuses the password in KEYTURN_DATABASE_URL",
    "28000": "PostgreSQL refuses the user in KEYTURN_DATABASE_URL",
    "23503": _REFERRED,
    "23505": "an id is there already: do the ids of keyturn_events lag behind its rows, as after a replication?",
    "25006": "it takes no writes: is it a standby, or has the role or database default_transaction_read_only?",
    "3D000": "there is no such database: create it first",
    "3F000": "no schema of the role's search_path exists",
    "42P01": "a table of Keyturn is missing: was it renamed, or a backup restored in part?",
    "42703": "a table of Keyturn lacks a column: was it changed by hand?",
    "42501": "this role lacks a right in the database: run `keyturn migrate` as the owner of the tables, and grant this one what"
    " docs/guides/operating.md says",
    "53300": "PostgreSQL has no connection to spare for this role or database",
    "55000": "the database takes no connections at the moment, or publishes a table of Keyturn that has no replica identity",
    "55P03": "somebody holds a table that is needed: nothing was changed, try again",
    "57014": "PostgreSQL ended a statement: has this role or database a statement_timeout that is too short?",
    "AuthenticationError": "Redis refuses the user or the password in KEYTURN_REDIS_URL, or asks for one",
    "BusyLoadingError": "Redis reads its data at the moment: try again",
    "ConnectionError": "the server ended the connection, or has no TLS: is this its port, and TLS asked for only where it has it?",
    "MISCONF": "Redis cannot save its data, and takes no writes until it can: is its disk full?",
    "NOREPLICAS": "fewer replicas follow this Redis than its min-replicas-to-write asks for",
    "NoPermissionError": "this user of Redis lacks a right: give it what docs/guides/operating.md says",
    "OutOfMemoryError": "Redis may have no more memory: is its maxmemory reached?",
    "ReadOnlyError": "this Redis is a replica: let KEYTURN_REDIS_URL lead to the master",
    "ResponseError": "Redis refuses a command or a script: is it as new, and has this user the rights, as docs/guides/operating.md says?",
    "gaierror": "no host has this name: are `@`, `:` and `/` of a password in the URL percent-encoded?",
    "target_session_attrs": "no server is of the kind that this asks for: is the one that answers a standby, or read-only?",
    "SQLITE_BUSY": "another program is writing to the file: let it end its transaction, or close it",
    "SQLITE_CANTOPEN": "the file cannot be opened, or its directory not be written to",
    "SQLITE_CONSTRAINT_FOREIGNKEY": _REFERRED,
    "SQLITE_FULL": _NO_SPACE,
    "SQLITE_IOERR_SHMSIZE": _NO_SPACE,
    "SQLITE_IOERR_WRITE": _NO_SPACE,
    "SQLITE_READONLY": "this user may not write the file: does a copy that was restored belong to somebody else?",
    "SQLITE_READONLY_DIRECTORY": "this user may not write the directory of the file",
    "SQLITE_NOTADB": "the file is no database of SQLite",
}
"""What to do about the codes and classes of drivers that say so little to whoever has not met them."""
_FORBIDDEN = "42501"
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class CommandError(KeyturnError):
    """A command cannot do what it was asked.

    Args:
        code: stable, for scripts.
        text: for people; holds no credential.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class Problem(NamedTuple):
    """What is told of an error."""

    code: str
    """Stable, for scripts."""
    text: str
    """For people; holds no credential."""
    line: int | None = None
    """Of the file that a command was given."""


def problems_of(error: BaseException) -> Sequence[Problem] | None:
    """Return what tells a known error; None for one that is ours to find, by its traceback."""
    if isinstance(error, UnsafePolicy):
        kind = "unsafe_settings" if isinstance(error, UnsafeSettings) else "unsafe_policy"
        return [Problem(kind, problem) for problem in error.problems]
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return [Problem("cannot_write", str(error.strerror))]
    if isinstance(error, ModuleNotFoundError):
        return [Problem("not_installed", f"{error.name}: install keyturn[server]")]
    if isinstance(error, CommandError):
        return [Problem(error.code, str(error))]
    if driver_error(error)[1] == _FORBIDDEN:
        return [Problem("database_forbidden", _MEANINGS[_FORBIDDEN])]
    if isinstance(error, Unavailable):
        return [Problem("unavailable", f"{error.dependency} does not answer as it should{cause_of(error)}")]
    if isinstance(error, Refused):
        return [Problem(error.code, str(error))]
    if isinstance(error, KeyturnError):
        # CannotListen is `cannot_listen`.
        return [Problem(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).lower(), str(error))]
    return None


def tell(problem: Problem, *, as_json: bool) -> None:
    """Write a problem to standard error: `keyturn: code: text`, or an object in a line."""
    line = harmless(f"keyturn: {problem.code}: {problem.text}")
    if as_json:
        line = json.dumps({name: value for name, value in problem._asdict().items() if value is not None})
    sys.stderr.write(f"{line}\n")


def cause_of(fault: Unavailable) -> str:
    """Name the cause of a fault, in brackets: its class, the driver's code and what that means where it is known."""
    if fault.__cause__ is None:
        return ""
    origin, code = driver_error(fault)
    # What is wrong with a certificate names at most the host that was asked for.
    meaning = _MEANINGS.get(code or type(origin).__name__, getattr(origin, "verify_message", ""))
    return f" ({name_of(fault)}{meaning and f': {meaning}'})"


def harmless(text: str) -> str:
    """Escape control characters.

    Why: names and user agents come from strangers; an escape sequence in one could rewrite an operator's terminal.
    """
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)
