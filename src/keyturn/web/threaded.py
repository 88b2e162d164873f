"""A node on an event loop of its own, for hosts whose requests come in threads or on loops that come and go.

Owns: the thread, its start after a fork, its end, and the way of a request there and back. Must not decide anything
about a request.

Why one loop for all threads of a process: connections, locks and groups of a node belong to one event loop, and the
refreshes of all threads share their round trips there (`stores/group_commit.py`). The Django and Flask adapters use it
under ASGI too: Django starts no lifespan, and its test client has a new loop for each request.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from contextvars import Context, copy_context
from typing import Any, Final, Protocol, TypeVar

from keyturn.core.errors import InvalidRequest, Refused, Unavailable
from keyturn.core.model import Principal, UserId
from keyturn.ports import Clock
from keyturn.web.application import WebApplication
from keyturn.web.endpoints import Route
from keyturn.web.hosting import Node
from keyturn.web.messages import ClientGone, Request, Response
from keyturn.wire import name_of

_logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")

CLOSE_TIME: Final = 5.0
"""Seconds that the end of the process waits for what is pending: a supervisor kills what takes much longer."""


class ThreadedNode:
    """Run a node on a thread of its own, from the first request of this process to its end.

    `/healthz` and `OPTIONS` are answered without the node, which they do not start: that the process lives, and which pages may
    call it, does not hang on a database.

    Why not from the beginning: gunicorn and uWSGI load the application and then fork. Threads do not survive a fork, and
    two processes on one database connection read each other's answers.

    Args:
        node: constructed and not started.

    Attributes:
        context: makes the context in which the node does what a caller asks: a copy of the caller's, unless a host changes it.
    """

    def __init__(self, node: Node) -> None:
        self.node: Final = node
        self.context: Callable[[], Context] = copy_context
        self._lock: Final = threading.Lock()
        self._process: int | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: Final = asyncio.Event()
        self._starting: asyncio.Task[None] | None = None
        """The attempt under way: all who come meanwhile wait for that one."""
        self._started = False

    @property
    def web(self) -> WebApplication:
        """What answers the requests."""
        return self.node.web

    @property
    def clock(self) -> Clock:
        """What access tokens are judged by."""
        return self.node.clock

    def start(self) -> None:
        """Start the node now instead of with the first request, in the process that will serve.

        Raises: as `Keyturn.start`; RuntimeError: it was started before this process was forked, or is closed, or would
            wait for itself: its own event loop asks.
        """
        self._wait_for(self._start())

    def authenticate(self, token: str) -> Principal:
        """Turn an access token into a principal; no I/O but for the first in a process.

        Raises: InvalidToken. As `start`, the first time.
        """
        if not self._is_running():
            self.start()
        return self.node.authenticate(token)

    async def authenticate_async(self, token: str) -> Principal:
        """Do as `authenticate` without blocking the event loop."""
        if not self._is_running():
            await asyncio.wrap_future(self._submit(self._start()))
        return self.node.authenticate(token)

    def respond(self, request: Request, methods: Mapping[str, Route] | None = None) -> Response:
        """Answer a request from any thread.

        Args:
            methods: those of a path that the host has routed; None: the path is looked up.

        Raises: as `start`, but a dependency at fault is answered with 503. `/healthz` waits for no start, and begins none.
        """
        return self._wait_for(self._respond(request, methods))

    async def respond_async(self, request: Request, methods: Mapping[str, Route] | None = None) -> Response:
        """Answer a request from any event loop; see `respond`.

        A host that gives a request up, because its client has gone, cancels this: `docs/decisions/0022-cancelled-requests.md`.
        """
        return await asyncio.wrap_future(self._submit(self._respond(request, methods)))

    def end_user_sessions(self, user_id: UserId) -> int:
        """End all sessions of a user from any thread, for an administrator or the application; return how many.

        Raises: as `start`.
        """
        return self._wait_for(self._end_user_sessions(user_id))

    def close(self) -> None:
        """Close the node and end the thread, for good; safe to call twice, and where it was never started."""
        atexit.unregister(self.close)
        with self._lock:
            thread, loop, self._loop = self._thread, self._loop, None
        if thread is None or loop is None or self._process != os.getpid():
            return
        loop.call_soon_threadsafe(self._stop.set)
        thread.join(CLOSE_TIME)

    # -- on the calling thread

    def _is_running(self) -> bool:
        return self._started and self._loop is not None and self._process == os.getpid()

    def _wait_for(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError(
                "Keyturn's own event loop, on which sinks, claims and users run, would wait for itself: there call what"
                " is a coroutine, such as `await node.auth.end_user_sessions(...)`"
            )
        return self._submit(work).result()

    def _submit(self, work: Coroutine[Any, Any, _Result]) -> Future[_Result]:
        try:
            return self.context().run(asyncio.run_coroutine_threadsafe, work, self._running_loop())
        except BaseException:
            work.close()
            raise

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._process is None:
            with self._lock:
                if self._process is None:
                    self._begin()
        if self._process != os.getpid():
            raise RuntimeError(
                f"Keyturn was started in process {self._process} before it forked this one: its connections would be"
                " shared. Answer no request before the fork, and call start() after it"
            )
        loop = self._loop
        if loop is None:
            raise RuntimeError("this node is closed")
        return loop

    def _begin(self) -> None:
        begun: Future[asyncio.AbstractEventLoop] = Future()
        # A daemon: whoever forgets to close it can still end the process.
        self._thread = threading.Thread(target=self._run, args=(begun,), name="keyturn", daemon=True)
        self._thread.start()
        self._loop = begun.result()
        self._process = os.getpid()
        atexit.register(self.close)

    # -- on the thread of the node

    def _run(self, begun: Future[asyncio.AbstractEventLoop]) -> None:
        async def live() -> None:
            begun.set_result(asyncio.get_running_loop())
            await self._stop.wait()
            try:
                await self.node.close()
            except Exception:
                _logger.exception("the node did not close")

        try:
            with asyncio.Runner() as runner:
                runner.get_loop()  # which may fail, and then there is no coroutine that nobody awaits
                runner.run(live())
        except Exception as fault:
            if not begun.done():
                begun.set_exception(fault)  # nobody may wait for a loop that there never will be
            elif not (self._stop.is_set() and isinstance(fault, RuntimeError)):
                raise
            # Else the node is closed, and Python 3.12 begins no thread at the end of a process, not even asyncio's that waits for others.

    async def _start(self) -> None:
        starting = self._starting
        if starting is None:
            starting = self._starting = asyncio.create_task(self._start_node())
            starting.add_done_callback(self._has_started)
        try:
            await asyncio.shield(starting)
        except Unavailable as fault:
            # Each waiter gets an error of its own: one that several requests raise gathers what each writes on it.
            raise Unavailable(fault.dependency) from fault

    async def _start_node(self) -> None:
        try:
            await self.node.start()
        except BaseException:
            # By the next try another file may stand in the place of the one that was opened.
            await self.node.close()
            raise

    def _has_started(self, starting: asyncio.Task[None]) -> None:
        self._starting = None
        self._started = not starting.cancelled() and starting.exception() is None

    async def _end_user_sessions(self, user_id: UserId) -> int:
        if not self._started:
            await self._start()
        return await self.node.web.services.auth.end_user_sessions(user_id)

    async def _respond(self, request: Request, methods: Mapping[str, Route] | None) -> Response:
        refused: Refused
        try:
            web = self.node.web
            found = web.methods_at(request) if methods is None else methods
            asks_nobody = request.method == "OPTIONS" or (found and any(route.asks_nobody for route in found.values()))
            if not self._started and not asks_nobody:
                await self._start()
            return await (web.respond(request) if found is None else web.respond_at(found, request))
        except Unavailable as fault:
            extra = {"dependency": fault.dependency, "fault": name_of(fault), "request_id": request.id}
            _logger.warning("the node cannot start", extra=extra)
            refused = fault
        except ClientGone:
            # The hosts of this module must have an answer, also where nobody is there to read it.
            refused = InvalidRequest("the request ends early")
        return self.node.web.refuse(refused, request)


class Threaded(Protocol):
    """What can be had on a thread of its own, as `keyturn.runtime.Keyturn` can."""

    @property
    def threaded(self) -> ThreadedNode: ...
