"""The application of the drain tests: every answer takes a moment and is a few packets long."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from keyturn.workers import Served

PART = b"x" * 20_000
PARTS = 5


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer slowly, in parts; what is asked for on hold, when its client has left; what is asked for busily, by keeping everything else waiting.

    Asked to fail, end the process as an exception that nobody catches does.
    """
    assert gc.isenabled()  # which a worker has off while it loads
    if scope["path"] == "/busy":
        time.sleep(0.01)  # noqa: ASYNC251 - as a busy machine keeps the loop from its work
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})
        return
    if scope["path"] == "/fail":
        os._exit(1)
    if scope["path"] == "/hold":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": PART, "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    length = str(len(PART) * PARTS).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    for part in range(PARTS):
        await asyncio.sleep(0.01)
        await send({"type": "http.response.body", "body": PART, "more_body": part < PARTS - 1})


@asynccontextmanager
async def lifespan() -> AsyncIterator[None]:
    """Start and close nothing."""
    yield


def make() -> Served:
    """Make what a worker serves."""
    return Served(application, lifespan)
