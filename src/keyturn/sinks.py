"""Tell the application what happened.

Owns: the delivery of events to sinks in this process. Must not hold: which events there are (`core/events.py`), or what
the database keeps of them (`stores/event_log.py`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from keyturn.background import answer_within, is_cancelled
from keyturn.core.events import Event
from keyturn.core.policy import REQUEST_LIMIT
from keyturn.ports import EventSink

_logger = logging.getLogger(__name__)


class BoundedSink:
    """A sink of the application, awaited for `patience` seconds and then cancelled, as one that fails.

    Why: a request that waits for one which hangs would never be answered, and the upkeep would wait with it.
    """

    patience = REQUEST_LIMIT / 2
    """Whoever asked still waits for the answer then."""

    def __init__(self, sink: EventSink) -> None:
        self._sink: Final = sink

    async def emit(self, event: Event) -> None:
        """Hand over an event. Raises: Unavailable: it was not taken in time."""
        await answer_within(self.patience, self._sink.emit(event), "event sink")


async def tell(sinks: Sequence[EventSink], *events: Event) -> None:
    """Hand each event to each sink, in order. A sink that raises is logged and changes no answer."""
    for event in events:
        for sink in sinks:
            try:
                await sink.emit(event)
            except (Exception, asyncio.CancelledError) as fault:
                if isinstance(fault, asyncio.CancelledError) and is_cancelled():
                    raise
                _logger.exception("event sink failed", extra={"event_type": event.type.value})
