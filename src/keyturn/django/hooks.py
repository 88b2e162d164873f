"""Where Django does what claims, sinks and users ask of its database by async queries.

Owns: the choice of that thread. Must not hold: what is asked.
"""

from __future__ import annotations

from contextvars import Context, copy_context
from typing import Final

from asgiref.sync import AsyncToSync, SyncToAsync, ThreadSensitiveContext

_OURS: Final = ThreadSensitiveContext()


def apart() -> Context:
    """Copy the caller's context, but have Django's async queries in it done on a thread of their own.

    Why: else it is the thread of the request, which may wait for the very answer that takes such a query: in a sync view and
    below a sync middleware under ASGI. And what outlives a request, as the upkeep does, finds its thread gone.
    """
    context = copy_context()
    context.run(_leave_request)
    return context


def _leave_request() -> None:
    AsyncToSync.executors.current = None
    SyncToAsync.thread_sensitive_context.set(_OURS)
