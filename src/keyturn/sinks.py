"""Tell the application what happened.

Owns: the delivery of events to sinks in this process. Must not hold: which events there are (`core/events.py`), or what
the database keeps of them (`stores/event_log.py`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from keyturn.background import is_cancelled
from keyturn.core.events import Event
from keyturn.ports import EventSink

_logger = logging.getLogger(__name__)


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
