"""What is kept of a sign-in, and the port of those who keep it.

Owns: the value, the port and the store in memory. Must not hold: files (`file_store.py`), rules about tokens.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Final, NamedTuple, Protocol

CLOCKS_APART: Final = 10.0
"""Seconds that two processes may tell the time apart: as many as a token has to spare when it is sent."""


class User(NamedTuple):
    """Who is signed in."""

    id: str
    email: str
    name: str | None = None


class Stored(NamedTuple):
    """Everything that is kept. Without a refresh token nobody is signed in, and `reason` says why."""

    server: str = ""
    """Where the tokens are from; they are sent nowhere else."""
    refresh_token: str | None = None
    device_token: str | None = None
    """By it the server knows the device again; it stays when the session ends, and signs nobody in."""
    access_token: str | None = None
    expires_at: float = 0.0
    """Seconds since the Unix epoch by this machine's clock. Why not by the token: a wrong one costs a refresh only."""
    expires_in: float = 0.0
    """How long the access token lives at all."""
    session_id: str = ""
    user: User | None = None
    reason: str = "never"

    def signed_out(self, reason: str) -> Stored:
        """Return what stays when the session has ended."""
        return Stored(server=self.server, device_token=self.device_token, reason=reason)

    def usable(self, now: float, spare: float) -> bool:
        """Say whether the access token lasts for another `spare` seconds.

        A token that lives shorter than that would never do and be refreshed for every request, so no more than a
        twentieth of its life is asked for. One that seems to last for longer than it lives was stored by a clock that was
        ahead: nobody knows when it ends.
        """
        least, most = min(spare, self.expires_in / 20), self.expires_in + CLOCKS_APART
        return self.access_token is not None and least < self.expires_at - now <= most

    def __repr__(self) -> str:
        return f"Stored(server={self.server!r}, session_id={self.session_id!r}, redacted)"


class TokenStore(Protocol):
    """Keeps one sign-in for everybody who shares it: threads, or processes.

    All methods may block, and are called from threads that may. They raise `StoreFault` and change nothing then.
    """

    def load(self) -> Stored:
        """Return what is kept: `Stored()` before the first login."""
        ...

    def replace(self, former: Stored, new: Stored) -> bool:
        """Keep `new` if `former` is what is kept; say whether it was. Atomic among all who share the store.

        When this returns, `new` must outlive a power cut; until then `former` must. Why: a refresh token that is
        forgotten before its successor is on the disk signs its owner out at the next crash.
        """
        ...

    def alone(self, limit: float) -> AbstractContextManager[None]:
        """Keep others out of the same block, or go on beside them after `limit` seconds.

        Why going on is right: this only saves refreshes. Whoever holds it may hang, and the server can take two at once.
        """
        ...


class MemoryTokenStore:
    """Keeps a sign-in in memory, for one process. Processes that fork with one must not both use it."""

    def __init__(self) -> None:
        self._stored = Stored()
        self._guard = threading.Lock()
        self._turn = threading.Lock()

    def load(self) -> Stored:
        """Return what is kept."""
        return self._stored

    def replace(self, former: Stored, new: Stored) -> bool:
        """Keep `new` in the place of `former`."""
        with self._guard:
            if self._stored != former:
                return False
            self._stored = new
            return True

    @contextmanager
    def alone(self, limit: float) -> Generator[None]:
        """Keep other threads out."""
        mine = self._turn.acquire(timeout=limit)
        try:
            yield
        finally:
            if mine:
                self._turn.release()
