"""A small connection pooler in front of PostgreSQL, so that tests need none installed.

Owns: sharing out backends as poolers do. Must not hold: claims. The real one is in `tests/chaos/test_poolers.py`.
"""

from __future__ import annotations

import asyncio
import struct
from asyncio import StreamReader, StreamWriter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.chaos.wire import LoopThread
from tests.services import PostgresServer

_TLS, _CANCEL = 80877103, 80877102
_PID = 424242
"""What every client is told in the handshake: made up, as poolers do."""
_GONE = (OSError, asyncio.IncompleteReadError)


class Backend:
    """A connection of the server, and which client has it."""

    def __init__(self, reader: StreamReader, writer: StreamWriter, greeting: bytes) -> None:
        self.reader = reader
        self.writer = writer
        self.greeting = greeting
        self.free = asyncio.Lock()
        self.holder: StreamWriter | None = None


class Pooler:
    """Without passwords and TLS.

    Args:
        thread: where it runs.
        server: where it leads.
        mode: `transaction`, where all clients share one backend, `transactions`, where each transaction has one of its own, or
            `session`, where each client has.
        limit: backends at most; in session mode the next client waits, after its handshake, until one leaves.
    """

    def __init__(self, thread: LoopThread, server: PostgresServer, mode: str, limit: int = 100) -> None:
        self._server = server
        self._shares = mode != "session"
        self._keeps = mode != "transactions"
        self._limit = asyncio.Semaphore(limit)
        self._shared: Backend | None = None
        self._greeting = b""
        self._pumps: set[asyncio.Task[None]] = set()
        self._port = thread.run(self._listen())

    def url(self, direct: str) -> str:
        """Return the URL that leads to the same database through this pooler."""
        return direct.replace(f":{self._server.port}/", f":{self._port}/")

    async def _listen(self) -> int:
        listener = await asyncio.start_server(self._client, "127.0.0.1", 0)
        port: int = listener.sockets[0].getsockname()[1]
        return port

    async def _client(self, reader: StreamReader, writer: StreamWriter) -> None:
        backend: Backend | None = None
        try:
            startup = await _startup(reader, writer)
            if startup is None:
                return
            if not self._greeting:
                backend = await self._backend(startup)
            writer.write(self._greeting)
            while (message := await _message(reader))[:1] != b"X":
                if backend is None or backend.holder is not writer:
                    backend = await self._backend(startup) if backend is None or self._shares else backend
                    await backend.free.acquire()
                    backend.holder = writer
                backend.writer.write(message)
        except (*_GONE, asyncio.CancelledError):
            return
        finally:
            writer.close()
            if backend is not None and (not self._shares or backend.holder is writer):
                backend.writer.close()
                self._shared = None
                self._limit.release()

    async def _backend(self, startup: bytes) -> Backend:
        if self._shares and self._shared is not None:
            return self._shared
        await self._limit.acquire()
        reader, writer = await asyncio.open_connection("127.0.0.1", self._server.port)
        writer.write(startup)
        greeting, message = b"", b""
        while message[:1] != b"Z":
            message = await _message(reader)
            made_up = struct.pack("!cIII", b"K", 12, _PID, 1)
            greeting += made_up if message[:1] == b"K" else message
        self._greeting = greeting
        backend = Backend(reader, writer, greeting)
        if self._shares and self._keeps:
            self._shared = backend
        pump = asyncio.create_task(self._pump(backend))
        self._pumps.add(pump)
        pump.add_done_callback(self._pumps.discard)
        return backend

    async def _pump(self, backend: Backend) -> None:
        with suppress(*_GONE):
            while message := await _message(backend.reader):
                # What comes while nobody has the backend is lost: a notification.
                if backend.holder is not None:
                    backend.holder.write(message)
                if self._shares and message[:1] == b"Z" and message[5:] == b"I":
                    backend.holder = None
                    backend.free.release()
                    if not self._keeps:
                        backend.writer.close()
                        self._limit.release()
        if backend.holder is not None:
            backend.holder.close()


async def _startup(reader: StreamReader, writer: StreamWriter) -> bytes | None:
    """Read what a client begins with, and refuse TLS; None for one that only cancels."""
    while True:
        head = await reader.readexactly(8)
        length, code = struct.unpack("!II", head)
        if code == _CANCEL:
            return None
        if code != _TLS:
            return head + await reader.readexactly(length - 8)
        writer.write(b"N")


async def _message(reader: StreamReader) -> bytes:
    head = await reader.readexactly(5)
    return head + await reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)


@contextmanager
def pooling(server: PostgresServer, mode: str, limit: int = 100) -> Iterator[Pooler]:
    """Run a pooler for the length of a block."""
    thread = LoopThread()
    try:
        yield Pooler(thread, server, mode, limit)
    finally:
        thread.close()
