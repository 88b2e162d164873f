"""Answers as they leave: one that is whole goes in one piece.

Owns: the short way of an answer past the messages of ASGI. Must not hold: what an answer says.

Why: of an answer in two messages uvicorn looks at the name and the value of each header with a pattern, and gives the kernel
head and body apart. Of all that a refresh takes that was a twentieth (`bench/README.md`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from keyturn.wire import Header

_CLOSE: Final = (b"connection", b"close")
"""What a server that drains adds to every answer (`serving.py`); uvicorn then ends the connection."""


def send_whole(send: object, status: int, headers: Sequence[Header], body: bytes) -> bool:
    """Send an answer whose last header is its length; False: nothing is sent, and it has to go as messages.

    So go the few on which uvicorn has more to decide: the last one of a connection, one to a client who has gone or reads too
    slowly, and one that it refuses, since its length is wrong or a header holds a line break (CWE-113).

    Args: send: the function for messages that uvicorn has given with the request.
    """
    cycle = getattr(send, "__self__", None)
    if (
        not isinstance(cycle, RequestResponseCycle)
        or cycle.response_started
        or cycle.disconnected
        or not cycle.keep_alive
        or cycle.access_log
        or cycle.flow.write_paused
        or _CLOSE in cycle.default_headers
        or headers[-1] != (b"content-length", b"%d" % len(body))
    ):
        return False
    fields = [*map(b": ".join, cycle.default_headers), *map(b": ".join, headers)]
    head = b"\r\n".join((STATUS_LINE[status].rstrip(), *fields, b"", b""))
    lines = len(fields) + 2
    if head.count(b"\n") != lines or head.count(b"\r") != lines:
        return False
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    cycle.transport.write(head + body)
    cycle.message_event.set()
    cycle.on_response()
    return True
