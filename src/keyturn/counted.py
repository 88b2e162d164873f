"""Attempts that have been counted: refused when they are too many, given back when a fault comes before the verdict, told when it was wrong.

Owns: what becomes of an attempt from its count to its verdict. Must not hold: what it counts against (`core/login.py`),
how (`stores/`), what a success gives back (`auth.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

from keyturn.core.errors import InvalidCredentials, Throttled, Unavailable
from keyturn.core.events import Event, EventType
from keyturn.core.login import Limit
from keyturn.core.model import Contact, SessionId, UserId
from keyturn.ports import Clock, EventSink, SessionStore, Throttle
from keyturn.sinks import tell

GIVING_BACK: Final = 1.0
"""Seconds for giving an attempt back when its session cannot be opened: so much later, at most, comes the 503."""


async def allow(
    retry_after: float | None, limits: Sequence[Limit], contact: Contact, sinks: Sequence[EventSink], clock: Clock
) -> None:
    """Let an attempt that was counted go on.

    Args: retry_after: what `Throttle.take` of these limits said.
    Raises: Throttled: it was not counted; the sinks are told.
    """
    if retry_after is not None:
        data = {"ip": contact.ip, "limit": limits[0].key[0]}
        await tell(sinks, Event(EventType.THROTTLED, clock(), data=data))
        raise Throttled(retry_after)


async def wrong(
    whose: UserId | None,
    session_id: SessionId | None,
    contact: Contact,
    sessions: SessionStore,
    sinks: Sequence[EventSink],
    clock: Clock,
) -> InvalidCredentials:
    """Return the refusal of a wrong password, once it is recorded and the sinks are told.

    Args: session_id: the one that asks for a new password, where that is it; whoever has stolen its access token may be guessing.
    """
    data = {"ip": contact.ip, "user_agent": contact.user_agent}
    event = Event(EventType.SIGN_IN_REFUSED, clock(), whose, session_id, data)
    await sessions.record(event)
    await tell(sinks, event)
    return InvalidCredentials()


@asynccontextmanager
async def unjudged(throttle: Throttle, taken: Sequence[Limit], *, within: float | None = None) -> AsyncGenerator[None]:
    """Give an attempt back when a dependency is at fault in the block, in which nobody is told that a password is wrong.

    Args: within: seconds that the giving back may take; None: as many as it takes.

    Why not as a success does: failures in a row would begin anew with each fault, and whoever guesses could wait for one.

    Raises: Unavailable: the fault of the block, also where a second one leaves the attempt counted.
    """
    try:
        yield
    except Unavailable:
        await try_to_give_back(throttle, taken, within)
        raise


async def try_to_give_back(throttle: Throttle, taken: Sequence[Limit], within: float | None) -> None:
    """Give an attempt back that a fault has ended; where that fails as well, or takes longer, it stays counted."""
    with suppress(Unavailable, TimeoutError):
        async with asyncio.timeout(within):
            await throttle.give_back(taken, proven=False)
