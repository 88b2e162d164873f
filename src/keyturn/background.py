"""Tasks that run beside the requests, and their end.

Owns: ending them. Must not hold: what they do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

_PATIENCE = 1.0


async def end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks until every one has ended, however it ends.

    Why more than once: a driver may take a cancellation that comes together with one of its own time-outs for that, and
    swallow it. A task that catches such faults to go on would then go on for ever, and whoever waits for its end with it.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        done, pending = await asyncio.wait(pending, timeout=_PATIENCE)
        for task in done:
            if not task.cancelled():
                task.exception()
