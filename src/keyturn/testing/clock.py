"""A clock for tests: it stands still until it is told to go on.

Owns: the clock. Must not hold: anything else.
"""

from __future__ import annotations


class FrozenClock:
    """Tell the time that was set, in seconds since the Unix epoch; give it as `clock` to a store, or as `database_clock` to a Keyturn.

    Args: now: where it starts.
    """

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> float:
        """Let time pass, or go back with a negative number; return the new time."""
        self.now += seconds
        return self.now
