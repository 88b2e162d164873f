"""How known errors are told: one line each, `code: text`.

Owns: which errors are known. Must not hold: what a command does about one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from keyturn.core.errors import KeyturnError, Refused, Unavailable, UnsafePolicy, UnsafeSettings


class CommandError(KeyturnError):
    """A command cannot do what it was asked.

    Args:
        code: stable, for scripts.
        text: for people; holds no credential.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


def problems_of(error: BaseException) -> Sequence[str] | None:
    """Return the lines that tell a known error; None for one that is ours to find, by its traceback."""
    if isinstance(error, UnsafePolicy):
        kind = "unsafe_settings" if isinstance(error, UnsafeSettings) else "unsafe_policy"
        return [f"{kind}: {problem}" for problem in error.problems]
    if isinstance(error, CommandError):
        return [f"{error.code}: {error}"]
    if isinstance(error, Unavailable):
        return [f"unavailable: {error.dependency} does not answer as it should{cause_of(error)}"]
    if isinstance(error, Refused):
        return [f"{error.code}: {error}"]
    if isinstance(error, KeyturnError):
        # CannotListen is `cannot_listen`.
        return [f"{re.sub(r'(?<=[a-z])(?=[A-Z])', '_', type(error).__name__).lower()}: {error}"]
    return None


def cause_of(fault: Unavailable) -> str:
    """Name the cause of a fault, in brackets: its class and the driver's code, such as SQLITE_NOTADB or an SQLSTATE.

    Why not its text: a driver quotes addresses and statements in it.
    """
    if fault.__cause__ is None:
        return ""
    cause = getattr(fault.__cause__, "orig", None) or fault.__cause__
    code = getattr(cause, "sqlite_errorname", None) or getattr(cause, "sqlstate", None)
    return f" ({type(cause).__name__})" if code is None else f" ({type(cause).__name__} {code})"
