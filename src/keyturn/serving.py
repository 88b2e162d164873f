"""Serve an ASGI application in one process that ends without cutting off a request.

Owns: listening sockets, signals, the drain of one process. Must not hold: the other processes (`workers.py`), what the
application does (`runtime.py`), options and their texts (`cli`).

How a process ends (SIGTERM, SIGINT, or SIGHUP when its terminal goes), in this order:
1. the kernel lets no new connection in: a filter on the listening socket drops SYN packets, so a client that comes now
   tries again a second later and finds the next process, or is refused. Where the system has no such filter this step
   is left out. The file of a Unix socket is taken away, and the next process may make its own;
2. connections that were established already, but not accepted, are accepted and served;
3. every answer says `Connection: close`, so that clients leave by themselves, and requests in flight are finished;
4. connections on which nothing happens are closed, then the application is closed.

Why the filter: closing a listening socket resets every connection in its queue, also one whose request has arrived.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import gc
import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import uvicorn

from keyturn.core.errors import KeyturnError

_logger = logging.getLogger(__name__)

ASGIApplication = Callable[..., Any]
Lifespan = Callable[[], AbstractAsyncContextManager[None]]
"""Starts what the application needs and closes it again."""

BACKLOG = 2048
ACCEPT_TIME = 0.1
"""Seconds in which what the kernel has queued is accepted after the door is closed, at least."""
QUEUE_TIME = 5.0
"""The same at most, while something is queued: a busy loop may accept one connection in each of its rounds."""
LEAVE_TIME = 0.5
"""Seconds in which clients with an idle connection may still use it before it is closed."""
DRAIN_TIME = 60.0
"""Seconds after which a request that does not finish is given up; longer than any request may last."""
KEEP_ALIVE_TIME = 65.0
"""Longer than the 60 s of common proxies, so that the proxy closes first and never meets a connection just closed."""
UNREAD_TIME = 20.0
"""Seconds for which a client may leave unread what it was sent: as many as it has to send a request."""
_LAST_PORT = 65535


class CannotListen(KeyturnError):
    """The address cannot be listened on: taken, not ours, or not permitted."""


class Listeners(NamedTuple):
    """Bound sockets of one worker."""

    web: socket.socket
    metrics: socket.socket | None = None


def bind(host: str, port: int) -> socket.socket:
    """Listen on an address; port 0 lets the system choose one.

    Raises:
        CannotListen: naming the address and the system's reason.
    """
    if not 0 <= port <= _LAST_PORT:
        # `getaddrinfo` would drop the higher bits: 65536 would be 0, which is any port.
        raise CannotListen(f"{host} port {port}: there is no such port")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, proto, _, address = found[0]
        listener = socket.socket(family, kind, proto)
    except OSError as error:
        raise CannotListen(f"{host}: {error.strerror or error}") from error
    except UnicodeError as error:  # a label that is empty or too long
        raise CannotListen(f"{host}: this is no name of a host") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sys.platform.startswith("linux"):
            # All connections inherit it. Why: one whose client reads nothing is closed by nobody else, once its buffers are full.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNREAD_TIME * 1000))
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise CannotListen(f"{host} port {port}: {error.strerror}") from error
    listener.setblocking(False)
    return listener


class _OnPath(socket.socket):
    """A listening Unix socket that knows its file."""

    path: Path
    file: os.stat_result | None = None

    def leave(self) -> None:
        """Take the file away, unless another server has put its own there."""
        with contextlib.suppress(OSError):
            if self.file and os.path.samestat(self.file, self.path.lstat()):
                self.path.unlink()

    def close(self) -> None:
        """Close, and leave no file behind, as after a start that failed."""
        self.leave()
        super().close()


def bind_path(path: str) -> socket.socket:
    """Listen on a Unix socket; the file of one on which nobody listens any more is replaced.

    Whoever may enter its directory may connect, as everybody of a machine may to a port.

    Raises:
        CannotListen: naming the path and the system's reason.
    """
    try:
        listener = _OnPath(socket.AF_UNIX, socket.SOCK_STREAM)
    except AttributeError as error:  # Windows
        raise CannotListen(f"{path}: this system has no Unix sockets") from error
    try:
        listener.path = Path(path).absolute()
        if listener.path.is_socket() and _is_deserted(path):
            listener.path.unlink()
        listener.bind(path)
        listener.file = listener.path.lstat()
        listener.path.chmod(0o666)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise CannotListen(f"{path}: {error.strerror or error}") from error
    listener.setblocking(False)
    return listener


def _is_deserted(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) == errno.ECONNREFUSED


def port_of(listener: socket.socket) -> int:
    """Return the TCP port of a bound socket."""
    port: int = listener.getsockname()[1]
    return port


def stop_signals() -> Sequence[signal.Signals]:
    """Return the signals that end a server: SIGHUP too, unless whoever started it has that ignored, as `nohup` does."""
    asked = [signal.SIGTERM, signal.SIGINT]
    if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        asked.append(signal.SIGHUP)
    return asked


# -- step 1: no new connection


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction)))


_SO_ATTACH_FILTER = 26
_TCP_FLAGS, _SYN = 13, 0x02
_DROP_SYN = (
    (0x30, 0, 0, _TCP_FLAGS),  # load the flags byte of the TCP header
    (0x45, 0, 1, _SYN),  # SYN set? else skip one
    (0x06, 0, 0, 0),  # drop the packet
    (0x06, 0, 0, 0xFFFFFFFF),  # let it pass: also the last step of a handshake that has begun
)


def turn_away(listener: socket.socket) -> bool:
    """Let no new connection reach a listening socket, without touching those that have; for all processes that share it.

    Returns:
        False when this system cannot do it.
    """
    if isinstance(listener, _OnPath):
        listener.leave()
        return True
    if not sys.platform.startswith("linux"):
        return False
    instructions = (_Instruction * len(_DROP_SYN))(*(_Instruction(*each) for each in _DROP_SYN))
    program = _Program(len(_DROP_SYN), instructions)
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, bytes(program))
    except OSError as error:
        _logger.info("no connection filter on this system: %s", error)
        return False
    return True


# -- one process


class DrainingServer(uvicorn.Server):
    """A uvicorn server that ends as the module says, and whose process then ends with status 0.

    Args:
        config: uvicorn's.
        listener: the socket to serve.
        lifeline: a pipe end for a worker, which then ignores signals and ends when its supervisor closes the other end
            or dies; None for a process on its own, which turns connections away by itself.
        on_ready: called once connections are accepted.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        listener: socket.socket,
        lifeline: int | None = None,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(config)
        self._listener = listener
        self._lifeline = lifeline
        self._on_ready = on_ready

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Take the stop signals while serving, and do not die of them afterwards."""
        handler = self.handle_exit if self._lifeline is None else signal.SIG_IGN
        previous = {number: signal.signal(number, handler) for number in stop_signals()}
        try:
            yield
        finally:
            for number, former in previous.items():
                signal.signal(number, former)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; a second SIGINT gives up what is in flight."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then accept; a worker follows its lifeline from here on."""
        await super().startup(sockets=[self._listener] if sockets is None else sockets)
        if self._lifeline is not None:
            asyncio.get_running_loop().add_reader(self._lifeline, self._let_go, self._lifeline)
        if self._on_ready is not None:
            self._on_ready()

    def _let_go(self, lifeline: int) -> None:
        asyncio.get_running_loop().remove_reader(lifeline)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, then end the application."""
        _logger.info("draining", extra={"connections": len(self.server_state.connections)})
        if self._lifeline is None:
            turn_away(self._listener)
        # The list is shared with every request since the last second; uvicorn closes after an answer that says so.
        self.server_state.default_headers.append((b"connection", b"close"))
        begun = time.monotonic()
        await asyncio.sleep(ACCEPT_TIME)
        while _has_queue(self._listener) and time.monotonic() - begun < QUEUE_TIME and not self.force_exit:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        for server in self.servers:
            server.close()
        # Else uvicorn waits there for connections too, also for those that a second SIGINT gives up (asyncio, Python 3.12).
        self.servers.clear()
        self._listener.close()
        deadline = time.monotonic() + LEAVE_TIME
        while self.server_state.connections and time.monotonic() < deadline and not self.force_exit:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await super().shutdown(sockets=None)
        _logger.info("drained", extra={"connections": len(self.server_state.connections)})


def _has_queue(listener: socket.socket) -> bool:
    # Not the default, which opens a file: a process that has none to spare must end as well.
    with getattr(selectors, "PollSelector", selectors.SelectSelector)() as selector:
        selector.register(listener, selectors.EVENT_READ)
        return bool(selector.select(0))


def serve_here(
    application: ASGIApplication,
    lifespan: Lifespan,
    listeners: Listeners,
    *,
    metrics: ASGIApplication | None = None,
    lifeline: int | None = None,
    on_ready: Callable[[], None] | None = None,
) -> None:
    """Serve in this process until a signal (or the end of the lifeline); return when everything is drained.

    Args:
        application: answers the requests; its own lifespan is not used.
        lifespan: runs around the server. What it raises is raised here: a start that fails has one place to be told.
        listeners: bound sockets; closed at the end.
        metrics: served on the second socket, for as long as the first is.
        on_ready: called once connections are accepted.
    """
    server = DrainingServer(_config(application), listeners.web, lifeline, on_ready)

    async def serve() -> None:
        async with lifespan(), _beside(metrics, listeners.metrics):
            _spare_the_collector()
            await server.serve()

    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(serve())


def _spare_the_collector() -> None:
    """Leave what has been loaded out of the search for unreachable cycles, and search less often.

    By default the collector looks after every 700 new objects (2000 since Python 3.13), which is every few requests, at everything
    that is new, and in time at all modules too: 6 % of the time of a busy server (measured). Requests leave next to nothing for it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    gc.enable()  # whoever loads many modules has it off meanwhile


def _config(application: ASGIApplication) -> uvicorn.Config:
    # Who is calling and under which scheme is decided by our own trusted-proxy setting, not by the server's.
    return uvicorn.Config(
        application,
        loop="auto",
        http=_protocol(),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=int(KEEP_ALIVE_TIME),
        timeout_graceful_shutdown=int(DRAIN_TIME),
    )


def _protocol() -> type[asyncio.Protocol] | str:
    try:
        from keyturn.arriving import BoundedProtocol, connections_limit
    except ImportError:  # PyPy has no httptools
        return "h11"
    BoundedProtocol.connections_limit = connections_limit()
    return BoundedProtocol


@contextlib.asynccontextmanager
async def _beside(application: ASGIApplication | None, listener: socket.socket | None) -> AsyncGenerator[None]:
    """Serve a second, small application beside the first one."""
    if application is None or listener is None:
        yield
        return
    server = _Beside(_config(application))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await task


class _Beside(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave the signals to the first server."""
        yield
