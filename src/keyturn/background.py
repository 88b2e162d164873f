"""Tasks that run beside the requests, or longer than they, and their end.

Owns: keeping and ending them. Must not hold: what they do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Iterable
from typing import Any, TypeVar

from keyturn.core.errors import Unavailable

Result = TypeVar("Result")

_PATIENCE = 1.0


def to_its_end(work: Coroutine[Any, Any, Result], among: set[asyncio.Future[Any]]) -> asyncio.Future[Result]:
    """Begin work in a task that `among` holds till it is done; whoever awaits this may be cancelled, the work goes on."""
    task = asyncio.ensure_future(work)
    among.add(task)
    task.add_done_callback(among.discard)
    return asyncio.shield(task)


async def answer_within(seconds: float, asked: Awaitable[Result], dependency: str) -> Result:
    """Await what code of the application answers, but not for ever.

    Raises: Unavailable: it has not answered in time and is cancelled, or what it awaits was. Whatever else it raises is let through.
    """
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await asked
    except TimeoutError as fault:
        if not limit.expired():
            raise
        raise Unavailable(dependency) from fault
    except asyncio.CancelledError as fault:
        if is_cancelled():
            raise
        raise Unavailable(dependency) from fault


def is_cancelled() -> bool:
    """Say whether somebody has cancelled the task that runs; else a cancellation in it is of something that it awaits."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


async def end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks until every one has ended, however it ends.

    Why more than once: a driver whose own time-out comes at the same moment may swallow our cancellation. A task that
    catches faults and goes on would then never end, nor would whoever waits for it.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        done, pending = await asyncio.wait(pending, timeout=_PATIENCE)
        for task in done:
            if not task.cancelled():
                task.exception()
