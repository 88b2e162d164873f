# ruff: noqa: S101 - these are tests
"""What a store under test has to offer to the contract, and waiting.

Owns: the four hooks. Must not hold: tests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from time import monotonic

from keyturn.core.model import Session, SessionId
from keyturn.ports import SessionStore
from keyturn.testing.clock import FrozenClock
from keyturn.testing.sessions import Holder

PATIENCE = 10.0
"""Seconds in which what happens `some time soon` must have happened."""


class ContractBase:
    """The hooks of the contract."""

    async def make_store(self, clock: FrozenClock) -> SessionStore:
        """Open a store that lives by this clock. Called twice in one test: two nodes over the same data."""
        raise NotImplementedError

    async def kept_events(self) -> Sequence[str]:
        """Read the types of the events in the event log, in the order in which they were kept."""
        raise NotImplementedError

    async def denied(self) -> Collection[str]:
        """Read the ids on the denylist: sessions' in lower-case hex."""
        raise NotImplementedError

    async def start_healing(self, seconds: float, clock: FrozenClock) -> None:
        """Be the operator who says that lost commits are to be believed for some seconds from now."""
        raise NotImplementedError


async def stored(holder: Holder) -> Session:
    """Read the holder's session as it is in the store."""
    session, _ = await holder.store.get(holder.session_id)
    assert session is not None
    return session


async def soon(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for a condition.

    Raises: AssertionError: it did not come true in time.
    """
    deadline = monotonic() + PATIENCE
    while not await condition():
        assert monotonic() < deadline, "what must happen soon did not"
        await asyncio.sleep(0.02)


def hexes(*ids: SessionId) -> set[str]:
    """Write session ids as the denylist does."""
    return {id_.hex() for id_ in ids}
