"""Gather concurrent calls on one event loop into groups, each of which is one piece of work.

Owns: who waits for which group, and that one caller's fate never becomes another's. Must not hold: what a group does.

No artificial delay: the first call starts a group at the next turn of the loop; what arrives while that is under way
is the next group. So a lone call is as quick as without groups, and a busy node shares round trips and disk flushes.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from time import monotonic
from typing import Generic, TypeVar

from keyturn.core.errors import Unavailable
from keyturn.core.policy import REQUEST_LIMIT

Item = TypeVar("Item")
Reply = TypeVar("Reply")


class Group(Generic[Item, Reply]):
    """Calls that are done together. Each is answered once; those left over fail when the work does.

    Attributes:
        items: what each call brought, in order of arrival.
        step_aside: lets other groups begin as if this one were done. The next one then begins before those wake up whom this
            one answers later. For work that waits for somebody else, or only has answers left to give.
    """

    __slots__ = ("_futures", "items", "step_aside")

    def __init__(self, items: list[Item], futures: list[asyncio.Future[Reply]], step_aside: Callable[[], None]) -> None:
        self.items: Sequence[Item] = items
        self._futures = futures
        self.step_aside = step_aside

    def answer(self, index: int, reply: Reply) -> None:
        """Answer a call now; a caller who has gone away is passed over."""
        future = self._futures[index]
        if not future.done():
            future.set_result(reply)

    def fail(self, index: int, error: BaseException) -> None:
        """Let one call fail, with an error of its own.

        Why: an error object that several requests raise gathers the traceback and the context of each of them, and
        what one writes on it the next one answers with.
        """
        future = self._futures[index]
        if not future.done():
            future.set_exception(_own(error))

    def fail_rest(self, error: BaseException) -> None:
        """Let every call that has no answer yet fail, each with an error of its own."""
        for index in range(len(self._futures)):
            self.fail(index, error)


class Gatherer(Generic[Item, Reply]):
    """Turn calls into groups.

    Args:
        work: does a group; must answer every call of it before it returns. What it raises goes to those without answer.
        size: at most this many calls in a group; 1 switches gathering off: each call is then done by itself, at once.
        at_once: how many groups may be under way. The work must bear more than one, and does where it is safe across
            processes. Why: browsers that are answered together come back together, and with one group they all wait for
            its turn and its disk while the process has nothing to do.
        worth: so many calls must wait before a group starts beside another one: it has its price, whatever its size. What has
            come together is then divided among as many groups as there may be; with None it stays together, and
            whatever comes starts a group.
        patience: seconds that a call waits for its group; then it is `Unavailable`. Why: while a database hangs each group
            takes as long as a statement may, and whoever came later would wait for all of them, long after giving up.
    """

    __slots__ = (
        "_arrivals",
        "_aside",
        "_at_once",
        "_futures",
        "_items",
        "_loop",
        "_patience",
        "_running",
        "_scheduled",
        "_size",
        "_timer",
        "_work",
        "_worth",
    )

    def __init__(
        self,
        work: Callable[[Group[Item, Reply]], Awaitable[None]],
        *,
        size: int = 256,
        at_once: int = 1,
        worth: int | None = 8,
        patience: float = REQUEST_LIMIT,
    ) -> None:
        if size < 1:
            raise ValueError("a group has at least one call")
        self._work = work
        self._size = size
        self._at_once = at_once
        self._worth = worth
        self._patience = patience
        self._items: list[Item] = []
        self._arrivals: list[float] = []
        self._futures: list[asyncio.Future[Reply]] = []
        self._running: set[asyncio.Task[None]] = set()
        self._aside: set[asyncio.Task[None]] = set()
        self._scheduled = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        """Looks after those that wait while no group starts."""

    def call(self, item: Item) -> asyncio.Future[Reply]:
        """Join the next group; await what this returns. Cancelling that leaves the group, and the work, as it is."""
        loop = self._loop
        if loop is None or not (self._items or self._running):
            # Asked again only when nothing waits: to find the running loop takes a system call (`getpid`).
            loop = asyncio.get_running_loop()
            if loop is not self._loop:
                self._loop, self._timer = loop, None
        future: asyncio.Future[Reply] = loop.create_future()
        self._items.append(item)
        self._arrivals.append(monotonic())
        self._futures.append(future)
        if not self._scheduled and self._may_start():
            self._scheduled = True
            loop.call_soon(self._start)
        elif self._timer is None:
            self._timer = loop.call_later(self._patience, self._look)
        return future

    async def drain(self) -> None:
        """Wait until every call made so far has been done."""
        while (tasks := self._running | self._aside) or self._scheduled:
            await asyncio.wait(tasks) if tasks else await asyncio.sleep(0)

    def _may_start(self) -> bool:
        running = len(self._running)
        return not running or self._size == 1 or (running < self._at_once and len(self._items) >= (self._worth or 1))

    def _start(self) -> None:
        self._scheduled = False
        self._give_up()
        while self._items and self._may_start():
            self._take()

    def _look(self) -> None:
        self._timer = None
        self._give_up()
        if self._arrivals:
            wait = self._arrivals[0] + self._patience - monotonic()
            self._timer = asyncio.get_running_loop().call_later(wait, self._look)

    def _give_up(self) -> None:
        """Let those fail that have waited too long."""
        oldest = monotonic() - self._patience
        if not self._arrivals or self._arrivals[0] > oldest:
            return
        late = bisect_right(self._arrivals, oldest)
        for future in self._futures[:late]:
            if not future.done():
                future.set_exception(Unavailable("queue"))
        del self._items[:late], self._futures[:late], self._arrivals[:late]

    def _take(self) -> None:
        size = self._size
        if self._worth is not None and (free := self._at_once - len(self._running)) > 1:
            # What came together goes in as many groups as there may be.
            size = min(size, max(self._worth, -(-len(self._items) // free)))
        items, futures = self._items, self._futures
        if len(items) <= size:
            self._items, self._futures, self._arrivals = [], [], []
        else:
            items, self._items = items[:size], items[size:]
            futures, self._futures = futures[:size], futures[size:]
            del self._arrivals[:size]
        group = Group(items, futures, lambda: self._step_aside(task))
        task = asyncio.get_running_loop().create_task(self._do(group))
        self._running.add(task)
        task.add_done_callback(self._done)

    async def _do(self, group: Group[Item, Reply]) -> None:
        try:
            await self._work(group)
        except asyncio.CancelledError:
            # Only the end of the event loop cancels a group; its callers must not hang.
            group.fail_rest(RuntimeError("the group was cancelled"))
            raise
        except Exception as error:  # noqa: BLE001 - each caller raises it
            group.fail_rest(error)
        else:
            group.fail_rest(RuntimeError("the group ended without an answer for this call"))

    def _step_aside(self, task: asyncio.Task[None]) -> None:
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)
        self._done(task)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        # At once, not a turn of the loop later: what has gathered meanwhile is the next group.
        if self._items and not self._scheduled and self._may_start():
            self._start()


def _own(error: BaseException) -> BaseException:
    """Copy an error for one caller, with the first as its cause."""
    try:
        own = copy(error)
    except Exception:  # noqa: BLE001 - an error may refuse to be copied in any way
        own = RuntimeError(f"{type(error).__name__}: {error}")
    own.__cause__ = error
    return own
