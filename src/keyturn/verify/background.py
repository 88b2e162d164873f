"""What a Verifier does beside the requests: one fetch at a time, and following revocations.

Owns: the threads and who waits for them. Must not hold: what is fetched, when, or what it means.

Why threads and not tasks: a Verifier works the same in a WSGI worker, in an event loop and in both at once, and lives
longer than any loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from threading import Lock, Thread
from typing import Any, Final, NamedTuple
from weakref import WeakSet

from keyturn.core.errors import Unavailable
from keyturn.ports import Clock
from keyturn.stores.revocations import MemoryDenylist, open_denylist

_log = logging.getLogger(__name__)


class Pending(NamedTuple):
    """Something that is being done, and when whoever waits for it gives up."""

    future: Future[None]
    give_up_at: float

    def is_given_up(self) -> bool:
        """Say whether it takes longer than anybody waits."""
        return not self.future.done() and time.monotonic() >= self.give_up_at

    def wait(self) -> None:
        """Block until it is done, or given up."""
        with suppress(TimeoutError):
            self.future.result(max(0.0, self.give_up_at - time.monotonic()))

    async def wait_async(self) -> None:
        """Do as `wait` without blocking the event loop."""
        # `asyncio.wait` neither cancels what it waits for nor raises when it gives up.
        await asyncio.wait([asyncio.wrap_future(self.future)], timeout=max(0.0, self.give_up_at - time.monotonic()))


class Waits(Unavailable):
    """A judgement that can be made once something is done. Where nobody waits, it is a fault like any other."""

    def __init__(self, dependency: str, begin: Callable[[], Pending]) -> None:
        super().__init__(dependency)
        self.begin: Final = begin


class SingleFlight:
    """Run a job in a thread of its own, once for everybody who wants it at the same time.

    Args:
        job: what is done; it raises nothing.
        name: of the thread.
        dependency: what is at fault while there is no thread for it.
        patience: seconds that anybody waits for one run.
    """

    def __init__(self, job: Callable[[], None], *, name: str, dependency: str, patience: float) -> None:
        self._job: Final = job
        self._name: Final = name
        self._dependency: Final = dependency
        self._patience: Final = patience
        self.forget()
        _alive.add(self)

    def forget(self) -> None:
        """Start over, in a process that was forked: what another thread had begun or locked stayed behind."""
        self._lock = Lock()
        self._pending: Pending | None = None

    def begin(self) -> Pending:
        """Begin, or join who has begun.

        Raises: Unavailable: the system gives no thread now; the next call tries anew.
        """
        with self._lock:
            pending = self._pending
            if pending is None or pending.future.done():
                future: Future[None] = Future()
                # Nobody may join what has no thread: it would never end.
                _start(self._name, self._dependency, self._run, future)
                pending = self._pending = Pending(future, time.monotonic() + self._patience)
            return pending

    def _run(self, future: Future[None]) -> None:
        try:
            self._job()
        finally:
            future.set_result(None)


class FollowedDenylist:
    """The revocations of the server, followed from a thread that begins with the first token that is checked.

    Why it raises until the first load: before it, a revoked token would pass. After it an outage keeps what is known,
    see `MemoryDenylist`.

    Args:
        url: of the server's database or Redis, see `open_denylist`.
        patience: seconds that anybody waits for the first load.
        clock: what access tokens are checked by.

    Raises:
        ValueError: a URL of another kind. ImportError: its driver is not installed.
    """

    def __init__(self, url: str, *, patience: float, clock: Clock) -> None:
        self._url: Final = url
        self._patience: Final = patience
        self._clock: Final = clock
        self.forget()
        _alive.add(self)

    def forget(self) -> None:
        """Start over, in a process that was forked: threads stay behind."""
        self._denylist = open_denylist(self._url, clock=self._clock)
        # One value: of two, whoever reads them while this one is replaced would take an empty list for a loaded one.
        self._loaded: MemoryDenylist | None = None
        self._lock = Lock()
        self._pending: Pending | None = None
        self._stop: Callable[[], object] | None = None
        self._thread: Thread | None = None

    @property
    def is_loaded(self) -> bool:
        """Whether the first load is done."""
        return self._loaded is not None

    def __contains__(self, item: object, /) -> bool:
        """Say whether an id is on the list.

        Raises:
            Waits: nothing is loaded yet. Unavailable: and it did not come in time; it is tried on.
        """
        loaded = self._loaded
        if loaded is not None:
            return item in loaded
        pending = self._pending
        if pending is not None and time.monotonic() >= pending.give_up_at:
            raise Unavailable("revocations")
        raise Waits("revocations", self.begin)

    def begin(self) -> Pending:
        """Begin to follow, or join who waits for the first load.

        Raises: Unavailable: the system gives no thread or no file for it now; the next call tries anew.
        """
        with self._lock:
            pending = self._pending
            if pending is None:
                loaded: Future[None] = Future()
                loop = _new_loop()
                try:
                    self._thread = _start("keyturn revocations", "revocations", self._run, loop, loaded)
                except Unavailable:
                    loop.close()
                    raise
                self._stop = lambda: loop.call_soon_threadsafe(_cancel_all, loop)
                pending = self._pending = Pending(loaded, time.monotonic() + self._patience)
            return pending

    def close(self) -> None:
        """Stop following; the next token that is checked begins anew."""
        with self._lock:
            # Whoever closes at the same time finds nothing left to stop.
            thread, stop, self._stop = self._thread, self._stop, None
        if thread is not None and stop is not None:
            stop()
            thread.join()
            self.forget()

    def _run(self, loop: asyncio.AbstractEventLoop, loaded: Future[None]) -> None:
        try:
            with suppress(asyncio.CancelledError):
                loop.run_until_complete(self._follow(loaded))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()

    async def _follow(self, loaded: Future[None]) -> None:
        try:
            while self._loaded is None:
                try:
                    await self._denylist.start()
                    self._loaded = self._denylist
                except Unavailable:
                    _log.warning("no revocations could be loaded yet")
            loaded.set_result(None)
            await asyncio.Event().wait()
        finally:
            await self._denylist.close()


_alive: Final[WeakSet[SingleFlight | FollowedDenylist]] = WeakSet()


def _forget() -> None:
    """See to it that a forked worker waits for no thread of its parent."""
    for each in _alive:
        each.forget()


# Once, and not for each of them: what is registered stays for as long as the process.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.new_event_loop()
    except OSError as fault:  # it needs three files of its own
        _log.warning("no event loop for the revocations: %s", fault)
        raise Unavailable("revocations") from fault


def _start(name: str, dependency: str, target: Callable[..., None], *args: Any) -> Thread:
    """Start a thread. Raises: Unavailable: the system gives none now, as at a container's limit of processes."""
    thread = Thread(target=target, args=args, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as fault:
        _log.warning("no thread for %s: %s", name, fault)
        raise Unavailable(dependency) from fault
    return thread
