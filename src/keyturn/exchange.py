"""What goes into the use cases and comes out of them.

Owns: two values. Must not hold: what is done with them (`auth.py`), how HTTP carries them (`web/`).

Why they do not show themselves: they hold credentials, and a debugger, a crash reporter or a failing test prints them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from keyturn.core.model import Session, User
from keyturn.core.secret import redacted


class Cookies(NamedTuple):
    """The raw values of our cookies in a request, every one that stands under the exact name, and whether it is still awaited."""

    refresh: Sequence[bytes] = ()
    device: Sequence[bytes] = ()
    ensure_awaited: Callable[[], object] = bool
    """Raises when the sender has gone (`bool` never does). Called by the judge: see `web/messages.py`."""

    @property
    def one_device(self) -> bytes:
        """The value of the device cookie that stands there exactly once, else nothing."""
        return self.device[0] if len(self.device) == 1 else b""

    def __repr__(self) -> str:
        """Show nothing of it."""
        return redacted(self)


class SignedIn(NamedTuple):
    """A session that was just opened or refreshed, and what the client gets of it."""

    access_token: str
    expires_in: int
    """Seconds."""
    user: User
    session: Session
    now: float
    """The database's clock, for the countdowns in the answer."""
    refresh_token: str | None
    """A new refresh token; None: the browser's cookie stays as it is."""
    device_token: str | None = None
    """The device cookie, anew with each session; None: it stays as it is."""

    def __repr__(self) -> str:
        """Show nothing of it."""
        return redacted(self)
