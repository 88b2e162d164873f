"""A bounded pool of threads for password hashing.

Owns how many hashes run and wait at once, and what happens beyond that. Must not know
users, throttles or what a password is for.

Why: a hash costs 22 ms of a core and 19 MiB on purpose. Unbounded, a login flood would
take the memory of the node and the time of `/refresh`; so the queue is short, what does
not fit is told to come back, and the threads yield to everything else. While some wait,
results are handed over a few at a time: a hash empties the processor's caches, and what
follows it then costs ten times as much, but only for the first of those that come together.

Networks take turns: `docs/decisions/0034-turns-at-the-password-queue.md`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from random import uniform
from typing import Any, Final, ParamSpec, TypeVar
from weakref import WeakSet

from keyturn.allotted import cores, memory
from keyturn.background import is_cancelled
from keyturn.core.device import network
from keyturn.core.errors import Unavailable
from keyturn.tokens.password import OWASP, PasswordHasher, Verified, why_not_checked
from keyturn.yielding import yield_to_others

_logger = logging.getLogger(__name__)

DEFAULT_QUEUE_LIMIT: Final = 64
"""Waiting hashes: about a second and a half on one core."""
TOGETHER: Final = 4
"""Results that are handed over at once, at most. More keep the event loop from refreshes (decision 0020), and the first waits for the last."""
HASH_MEMORY: Final = OWASP.memory_kib * 1024
PROCESS_MEMORY: Final = 100_000_000
"""Bytes of a process that serves, without its hashes."""
_DEPENDENCY: Final = "password_hashing"

_Job = tuple[Future[Any], Callable[[], Any]]
_P = ParamSpec("_P")
_T = TypeVar("_T")


async def pass_all(_password: str) -> None:
    """Let every password pass."""


class PasswordPool:
    """Hash and verify passwords off the event loop, a bounded number at a time.

    Whoever asks for one may say for which address. The networks that wait take turns, and one that has as many waiting as
    there are places left is told to come back. Without an address, as on a local socket, nobody can be told apart.

    Args:
        hasher: does the work.
        threads: how many run at once; as many as there are cores and memory for when None.
        queue_limit: how many may wait beyond those that run.
        retry_after: seconds that a refused caller is told to wait, at least; at most three times that.
        screen: raises when a password must not be chosen.

    Raises:
        ValueError: no thread, or a queue of a negative size.

    Spec: ASVS 5.0 15.4.4 (fair use of resources), 2.4.1.
    """

    def __init__(
        self,
        hasher: PasswordHasher,
        *,
        threads: int | None = None,
        queue_limit: int = DEFAULT_QUEUE_LIMIT,
        retry_after: float = 2.0,
        screen: Callable[[str], Awaitable[None]] = pass_all,
    ) -> None:
        count = threads if threads is not None else default_threads()
        if count < 1 or queue_limit < 0:
            raise ValueError("a pool has at least one thread and a queue of no negative size")
        self._hasher: Final = hasher
        self._threads: Final = count
        self._limit: Final = count + queue_limit
        self._retry_after: Final = retry_after
        self._screen: Final = screen
        self._lock = threading.Lock()
        self._taken = 0
        self._waiting: Final[dict[str, deque[_Job]]] = {}
        """What waits for a thread, by network, in the order of their turns."""
        self._done: list[Callable[[], None]] = []
        self._closed = False
        self._executor = self._new_executor()
        _alive.add(self)

    @property
    def taken(self) -> int:
        """How many hashes run or wait now."""
        return self._taken

    def reserve(self, address: str = "") -> None:
        """Raise `Unavailable` when there is no room, before anything is done for the caller."""
        with self._lock:
            self._refuse_when_full(network(address))

    async def hash(self, password: str, address: str = "") -> str:
        """Return the hash of a password.

        Raises:
            Unavailable: the queue is full, the pool is closed, or the system has no memory for a hash.
            PasswordRefused: the password is too long or no text.
        """
        return await self._run(address, self._hasher.hash, password)

    async def hash_chosen(self, password: str, address: str = "") -> str:
        """Return the hash of a password that passes the screen; it waits there in no slot of this pool.

        Raises: as `hash`, and what the screen raises.
        """
        await self._screen(password)
        return await self.hash(password, address)

    async def verify(self, stored: str | None, password: str, address: str = "") -> Verified:
        """Check a password; see `PasswordHasher.verify`.

        Raises:
            Unavailable: the queue is full, the pool is closed, or the system has no memory for a hash.
        """
        verified = await self._run(address, self._hasher.verify, stored, password)
        if stored and not verified.ok and (why := why_not_checked(stored)) is not None:
            _logger.error("nobody can sign in with a stored password hash: %s", why)
        return verified

    def open(self) -> None:
        """Take work again after `close`. A new pool is open."""
        with self._lock:
            if self._closed:
                self._executor, self._closed = self._new_executor(), False

    def close(self) -> None:
        """Refuse new work and what still waits, and return when the running hashes are done."""
        with self._lock:
            self._closed = True
            waiting = [future for jobs in self._waiting.values() for future, _ in jobs]
        for future in waiting:
            future.cancel()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def forget(self) -> None:
        """Let a process that was just forked wait for no thread of its parent, and for no place that one holds."""
        self._lock, self._executor = threading.Lock(), self._new_executor()
        self._taken, self._done = 0, []
        self._waiting.clear()

    def _new_executor(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._threads, thread_name_prefix="keyturn-password", initializer=yield_to_others)

    async def _run(self, address: str, work: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        whose, future = network(address), Future[_T]()
        job = future, partial(work, *args, **kwargs)
        with self._lock:
            self._refuse_when_full(whose)
            try:
                # A turn for whoever has waited longest by then.
                self._executor.submit(self._work)
            except RuntimeError as fault:  # the system has no thread for it now
                raise Unavailable(_DEPENDENCY, self._retry_after) from fault
            self._waiting.setdefault(whose, deque()).append(job)
            self._taken += 1
        answer: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        # The slot is freed when the work ends or is dropped from the queue, not when the
        # caller goes away: a cancelled request may still occupy a core.
        future.add_done_callback(partial(self._finish, answer, whose, job))
        try:
            return await answer
        except asyncio.CancelledError:
            future.cancel()
            if self._dropped_by_close(future):
                raise Unavailable(_DEPENDENCY, self._retry_after) from None
            raise

    def _refuse_when_full(self, whose: str) -> None:
        left = 0 if self._closed else self._limit - self._taken
        waiting = len(self._waiting.get(whose, ())) if whose and self._taken >= self._threads else 0
        if left < 1 or waiting >= left:
            # Those who are turned away together must not come back together.
            raise Unavailable(_DEPENDENCY, self._retry_after * uniform(1.0, 3.0))  # noqa: S311 - protects nothing

    def _dropped_by_close(self, future: Future[_T]) -> bool:
        return self._closed and future.cancelled() and not is_cancelled()

    def _work(self) -> None:
        """Do a job of the network whose turn it is, on a thread of the pool; its next turn comes after those of all others."""
        with self._lock:
            whose = next(iter(self._waiting), None)
            if whose is None:  # the job of this turn was dropped
                return
            jobs = self._waiting.pop(whose)
            future, work = jobs.popleft()
            if jobs:
                self._waiting[whose] = jobs
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = work()
        except MemoryError as fault:
            unavailable = Unavailable(_DEPENDENCY, self._retry_after)
            unavailable.__cause__ = fault
            future.set_exception(unavailable)
        except BaseException as error:  # noqa: BLE001 - the caller raises it
            future.set_exception(error)
        else:
            future.set_result(result)

    def _drop(self, whose: str, job: _Job) -> None:
        jobs = self._waiting.get(whose, ())
        if job in jobs:
            self._waiting[whose].remove(job)
            if not jobs:
                del self._waiting[whose]

    def _finish(self, answer: asyncio.Future[_T], whose: str, job: _Job, future: Future[_T]) -> None:
        with self._lock:
            self._taken -= 1
            if future.cancelled():
                self._drop(whose, job)
            self._done.append(partial(_hand_over, answer, future))
            # Others wait, so another hash ends soon, and no thread is idle meanwhile. What is dropped does not wait.
            if self._taken >= self._threads and len(self._done) < TOGETHER and not future.cancelled():
                return
            done, self._done = self._done, []
        for hand_over in done:
            hand_over()


_alive: Final[WeakSet[PasswordPool]] = WeakSet()


def _forget() -> None:
    for pool in tuple(_alive):
        pool.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def default_threads(processes: int = 1, *, most: int | None = None, limit: float | None = None) -> int:
    """Return how many hashes run at once: one for each core that we may use, and no more than half of the memory that is left has room for.

    Why: whoever signs in may come often enough to fill all threads, and a process that takes more memory than it may have is killed.

    Args:
        processes: how many of us share that memory, and a quota of cores.
        most: the cores; as many as we may use when None.
        limit: the bytes of all of them; as many as we may have when None.
    """
    most, limit = most or cores(processes), limit or memory()
    left = limit - memory_without_hashes(processes)
    return int(max(1, min(most, left / 2 / processes // HASH_MEMORY)))


def memory_without_hashes(processes: int) -> int:
    """Return the bytes of so many processes that serve, and of the supervisor that several have, while nobody signs in."""
    return (processes + (processes > 1)) * PROCESS_MEMORY


def _hand_over(answer: asyncio.Future[_T], future: Future[_T]) -> None:
    """Answer a caller from whatever thread the work ended in."""
    loop = answer.get_loop()
    if not loop.is_closed():
        loop.call_soon_threadsafe(_settle, answer, future)


def _settle(answer: asyncio.Future[_T], future: Future[_T]) -> None:
    if answer.done():
        return
    if future.cancelled():
        answer.cancel()
    elif (error := future.exception()) is not None:
        answer.set_exception(error)
    else:
        answer.set_result(future.result())
