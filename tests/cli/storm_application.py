"""The application of the drain tests: every answer takes a moment and is a few packets long."""

from __future__ import annotations

import asyncio
from typing import Any

from keyturn.serving import Listeners
from keyturn.workers import Served

PART = b"x" * 20_000
PARTS = 5


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer slowly, in parts."""
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return
    length = str(len(PART) * PARTS).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    for part in range(PARTS):
        await asyncio.sleep(0.01)
        await send({"type": "http.response.body", "body": PART, "more_body": part < PARTS - 1})


def make(listeners: Listeners) -> Served:
    """Make what a worker serves."""
    del listeners
    return Served(application)
