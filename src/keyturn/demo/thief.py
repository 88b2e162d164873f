"""The thief of the demo: somebody else who holds a copy of your cookie and uses it as you do.

Owns: when the copy is presented. Must not hold: any rule. What happens to it is decided by the same code as for you.
"""

from __future__ import annotations

import asyncio
from typing import Final

from keyturn.auth import Auth
from keyturn.background import end
from keyturn.core.errors import Refused
from keyturn.core.model import Contact
from keyturn.demo.decisions import Acting, acting
from keyturn.exchange import Cookies

_CONTACT: Final = Contact("203.0.113.66", "Thief/1.0", "the thief's machine")
_ROUNDS: Final = 10


class Thieves:
    """Run at most one thief for each viewer.

    Args:
        auth: the server's use cases.
        interval: seconds between two uses of the copy: a little more than the settle time.
    """

    def __init__(self, auth: Auth, interval: float) -> None:
        self._auth = auth
        self._interval = interval
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, viewer: str, cookie: bytes) -> None:
        """Give a copy of the cookie to a thief; one who is still at work for this viewer goes home."""
        former = self._tasks.pop(viewer, None)
        if former is not None:
            former.cancel()
        task = asyncio.create_task(self._use(viewer, cookie))
        self._tasks[viewer] = task
        task.add_done_callback(lambda done: self._forget(viewer, done))

    async def close(self) -> None:
        """Send all of them home."""
        await end(self._tasks.values())

    def _forget(self, viewer: str, done: asyncio.Task[None]) -> None:
        if self._tasks.get(viewer) is done:
            del self._tasks[viewer]

    async def _use(self, viewer: str, cookie: bytes) -> None:
        acting.set(Acting(viewer, "thief"))
        for _ in range(_ROUNDS):
            try:
                result = await self._auth.refresh(Cookies((cookie,)), _CONTACT)
            except Refused:
                return
            if result.refresh_token is not None:
                cookie = result.refresh_token.encode("ascii")
            await asyncio.sleep(self._interval)
