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
        cause = error.__cause__
        # The class alone: a driver quotes addresses and statements in its message.
        why = "" if cause is None else f" ({type(getattr(cause, 'orig', None) or cause).__name__})"
        return [f"unavailable: {error.dependency} does not answer as it should{why}"]
    if isinstance(error, Refused):
        return [f"{error.code}: {error}"]
    if isinstance(error, KeyturnError):
        # CannotListen is `cannot_listen`.
        return [f"{re.sub(r'(?<=[a-z])(?=[A-Z])', '_', type(error).__name__).lower()}: {error}"]
    return None
