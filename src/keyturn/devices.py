"""What a User-Agent header says, for people: `Firefox on Windows`.

Owns: the one use of the parser library, and a cache. Must not hold: the comparison of devices (`core/device.py`).
"""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import Final

from keyturn.core.device import label
from keyturn.core.model import Contact, Session

_SOON: Final = 0.5
"""Seconds."""


@lru_cache(maxsize=4096)
def describe(user_agent: str) -> str:
    """Name the device a User-Agent header describes; unknown ones are `Unknown device`.

    Why bounded: callers choose the header, so they must not choose how much memory its cache takes.
    """
    if not user_agent:
        return label(None, None)
    # Imported at the first use: its tables take longer to load than the rest of Keyturn together.
    from ua_parser import parse

    found = parse(user_agent)
    browser = None if found.user_agent is None else found.user_agent.family
    system = None if found.os is None else found.os.family
    return label(browser, system)


def named(session: Session | None, contact: Contact) -> Session | None:
    """Return a session with its device named as the parser names it now, where the caller's name is another.

    Why: what is stored was said by the tables of then. With newer ones an honest browser would be another device.
    """
    if session is None or contact.device == session.device or contact.user_agent == session.user_agent:
        return session
    return session._replace(device=describe(session.user_agent))


def warm_up() -> None:
    """Load the parser's tables, so that the first login does not wait for them."""
    describe("Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0")


async def warm_up_soon() -> None:
    """Load them soon after a start.

    Why not at once: for a tenth of a second nothing else runs in this process, and its first answers would wait.
    """
    await asyncio.sleep(_SOON)
    await asyncio.to_thread(warm_up)
