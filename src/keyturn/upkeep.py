"""Rounds of upkeep: what a node does by itself, again and again.

Owns: when a round comes, and that no fault ends them. Must not hold: what there is to do (`runtime.py`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import uniform

from keyturn.core.errors import KeyturnError, Unavailable
from keyturn.wire import name_of

_logger = logging.getLogger(__name__)

UPKEEP_INTERVAL = 60.0
"""Seconds between two rounds on a node, give or take a third, so that nodes do not march in step."""

Job = Callable[[], Awaitable[object]]


async def _never() -> None:
    await asyncio.Event().wait()


async def keep_up(*jobs: Job, due: Job = _never) -> None:
    """Do jobs in turn, round after round, until cancelled. Args: due: returns when the next round must not wait for its time."""
    while True:
        interval = UPKEEP_INTERVAL * uniform(0.67, 1.33)  # noqa: S311 - spreads work, protects nothing
        with suppress(TimeoutError):
            async with asyncio.timeout(interval):
                await due()
        for job in jobs:
            try:
                await job()
            except Unavailable as fault:
                _logger.warning("upkeep waits", extra={"dependency": fault.dependency, "fault": name_of(fault)})
            except KeyturnError as fault:
                _logger.error("upkeep waits for the operator: %s", fault)
            except Exception:
                # Upkeep goes on whatever one of its jobs does: the next round may succeed.
                _logger.exception("upkeep failed")
