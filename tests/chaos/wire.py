"""A way between a server and its database that can be cut, held up, slowed down and led elsewhere.

Owns: the loop of the rig's own thread, and the TCP links through it. Must not hold: clients, claims.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")
CALL_TIMEOUT = 120.0
_CHUNK = 65536


class LoopThread:
    """An event loop in a thread of its own, so that blocking steps of a test do not stall clients and wires."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="chaos", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine there and wait for what it returns."""
        return self.begin(work).result(CALL_TIMEOUT)

    def begin(self, work: Coroutine[Any, Any, Result]) -> Future[Result]:
        """Run a coroutine there."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def call(self, function: Callable[[], None]) -> None:
        """Call a function there and wait until it has returned."""

        async def work() -> None:
            function()

        self.run(work())

    def close(self) -> None:
        """Cancel everything and end the thread."""
        self.run(_cancel_others())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(CALL_TIMEOUT)
        self.loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class Wire:
    """A TCP proxy on 127.0.0.1; its methods are called from the test's thread.

    Args:
        thread: where it runs.
        target: the port it leads to.
    """

    def __init__(self, thread: LoopThread, target: int) -> None:
        self._thread = thread
        self._target = target
        self._links: set[asyncio.StreamWriter] = set()
        self._flows: asyncio.Event
        self._refuses = False
        self._delay = 0.0
        self.port = thread.run(self._open())

    def cut(self) -> None:
        """Reset every link, and every new one as soon as it comes."""
        self._refuses = True
        self.reset()

    def reset(self) -> None:
        """Reset every link; new ones pass."""
        self._thread.call(self._reset)

    def hold(self) -> None:
        """Let nothing through any more, in either direction, without a word; new links too."""
        self._thread.call(self._flows_clear)

    def slow(self, delay: float) -> None:
        """Let everything through late by some seconds; each piece waits for the one before it."""
        self._delay = delay

    def lead_to(self, target: int) -> None:
        """Lead to another port from now on; the links to the old one are reset."""
        self._target = target
        self.reset()

    def lead_new_to(self, target: int) -> None:
        """Lead new links to another port from now on; the ones there are stay, as after a failover that closes none."""
        self._target = target

    def mend(self) -> None:
        """Let everything through again; what was held arrives now."""
        self._refuses, self._delay = False, 0.0
        self._thread.call(self._flows_set)

    async def _open(self) -> int:
        self._flows = asyncio.Event()
        self._flows.set()
        server = await asyncio.start_server(self._link, "127.0.0.1", 0)
        port: int = server.sockets[0].getsockname()[1]
        return port

    def _flows_clear(self) -> None:
        self._flows.clear()

    def _flows_set(self) -> None:
        self._flows.set()

    def _reset(self) -> None:
        for writer in list(self._links):
            _abort(writer)

    async def _link(self, near_reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        if self._refuses:
            _abort(near)
            return
        self._links.add(near)
        try:
            await self._flows.wait()
            far_reader, far = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            _abort(near)
            self._links.discard(near)
            return
        self._links.add(far)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(near_reader, far))
                both.create_task(self._pump(far_reader, near))
        except asyncio.CancelledError:
            # The end of the rig: asyncio would log a connection's task that ends as cancelled.
            return
        finally:
            for writer in (near, far):
                _abort(writer)
                self._links.discard(writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(_CHUNK):
                await self._flows.wait()
                if self._delay:
                    await asyncio.sleep(self._delay)
                writer.write(data)
                await writer.drain()
            await self._flows.wait()
            writer.close()
        except OSError:
            _abort(writer)


def _abort(writer: asyncio.StreamWriter) -> None:
    """Close a link with a RST: the other side is told at once that it is over."""
    link: socket.socket | None = writer.get_extra_info("socket")
    if link is not None and link.fileno() >= 0:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
