"""Groups of concurrent calls: who is done with whom, and that one caller's fate is nobody else's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from keyturn.core.errors import Unavailable
from keyturn.stores import group_commit
from keyturn.stores.group_commit import Gatherer, Group
from keyturn.testing import FrozenClock
from tests.stores.support import PATIENCE

pytestmark = pytest.mark.anyio


class Worker:
    """Answers each call with ten times what it brought, when it is let go on."""

    def __init__(self) -> None:
        self.groups: list[Sequence[int]] = []
        self.go_on = asyncio.Event()
        self.error: BaseException | None = None

    async def __call__(self, group: Group[int, int]) -> None:
        self.groups.append(group.items)
        await self.go_on.wait()
        if self.error is not None:
            raise self.error
        for index, item in enumerate(group.items):
            group.answer(index, item * 10)


async def turn() -> None:
    """Let the loop go round until nothing is left to start."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_calls_of_one_moment() -> None:
    """They are one group, in order of arrival, and each gets its own reply."""
    worker = Worker()
    worker.go_on.set()
    gatherer = Gatherer(worker)
    assert await asyncio.gather(*(gatherer.call(number) for number in range(5))) == [0, 10, 20, 30, 40]
    assert worker.groups == [[0, 1, 2, 3, 4]]


async def test_calls_during_a_group() -> None:
    """They gather into the next one, which starts when the first has ended."""
    worker = Worker()
    gatherer = Gatherer(worker)
    calls = [gatherer.call(1)]
    await turn()
    calls += [gatherer.call(2), gatherer.call(3)]
    await turn()
    assert worker.groups == [[1]]
    worker.go_on.set()
    assert await asyncio.gather(*calls) == [10, 20, 30]
    assert worker.groups == [[1], [2, 3]]


async def test_more_calls_than_a_group_takes() -> None:
    """A group is bounded; the rest is the next one."""
    worker = Worker()
    worker.go_on.set()
    gatherer = Gatherer(worker, size=2)
    assert await asyncio.gather(*(gatherer.call(number) for number in range(5))) == [0, 10, 20, 30, 40]
    assert worker.groups == [[0, 1], [2, 3], [4]]


async def test_second_group_beside_the_first() -> None:
    """It starts as soon as so many calls wait; one too many waits for its turn, however many calls it has."""
    worker = Worker()
    gatherer = Gatherer(worker, at_once=2, worth=2)
    calls = [gatherer.call(1)]
    await turn()
    calls.append(gatherer.call(2))
    await turn()
    assert worker.groups == [[1]]
    calls += [gatherer.call(number) for number in (3, 4)]
    await turn()
    assert worker.groups == [[1], [2, 3, 4]]
    calls += [gatherer.call(number) for number in (5, 6, 7)]
    await turn()
    assert worker.groups == [[1], [2, 3, 4]]
    worker.go_on.set()
    assert await asyncio.gather(*calls) == [10, 20, 30, 40, 50, 60, 70]
    assert worker.groups[2:] == [[5, 6, 7]]


async def test_groups_from_the_start() -> None:
    """Calls that come together are divided, into groups that are worth it."""
    worker = Worker()
    gatherer = Gatherer(worker, at_once=3, worth=3)
    calls = [gatherer.call(number) for number in range(10)]
    await turn()
    assert worker.groups == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]
    worker.go_on.set()
    assert await asyncio.gather(*calls) == [number * 10 for number in range(10)]
    worker.go_on.clear()
    worker.groups.clear()
    calls = [gatherer.call(number) for number in range(5)]
    await turn()
    assert worker.groups == [[0, 1, 2]]
    worker.go_on.set()
    assert await asyncio.gather(*calls) == [0, 10, 20, 30, 40]
    assert worker.groups == [[0, 1, 2], [3, 4]]
    await gatherer.drain()


async def test_groups_that_stay_together() -> None:
    """What comes together is one group, however many may be under way, and what comes next does not wait for it."""
    worker = Worker()
    gatherer = Gatherer(worker, size=4, at_once=3, worth=None)
    calls = [gatherer.call(number) for number in range(3)]
    await turn()
    calls.append(gatherer.call(3))
    await turn()
    assert worker.groups == [[0, 1, 2], [3]]
    calls += [gatherer.call(number) for number in range(4, 10)]
    await turn()
    assert worker.groups == [[0, 1, 2], [3], [4, 5, 6, 7]]
    worker.go_on.set()
    assert await asyncio.gather(*calls) == [number * 10 for number in range(10)]
    assert worker.groups[3:] == [[8, 9]]


async def test_groups_of_one() -> None:
    """Gathering is off: every call is under way at once, by itself."""
    worker = Worker()
    gatherer = Gatherer(worker, size=1)
    calls = [gatherer.call(number) for number in range(3)]
    await turn()
    assert worker.groups == [[0], [1], [2]]
    worker.go_on.set()
    assert await asyncio.gather(*calls) == [0, 10, 20]


async def test_error() -> None:
    """Every caller of the group gets it as an object of its own, whole; the next group is not concerned."""
    worker = Worker()
    worker.error = Unavailable("database", 7.5)
    worker.go_on.set()
    gatherer = Gatherer(worker)
    errors = await asyncio.gather(*(gatherer.call(number) for number in range(3)), return_exceptions=True)
    assert len({id(error) for error in errors}) == 3
    for error in errors:
        assert isinstance(error, Unavailable)
        assert (error.dependency, error.retry_after) == ("database", 7.5)
        assert error is not worker.error
    worker.error = None
    assert await gatherer.call(4) == 40


async def test_error_that_cannot_be_copied() -> None:
    """It reaches every caller all the same, named."""

    class Odd(Exception):
        def __init__(self, *, must: int) -> None:
            super().__init__("odd")
            self.must = must

    worker = Worker()
    worker.error = Odd(must=1)
    worker.go_on.set()
    gatherer = Gatherer(worker)
    for error in await asyncio.gather(gatherer.call(1), gatherer.call(2), return_exceptions=True):
        assert isinstance(error, RuntimeError)
        assert "Odd: odd" in str(error)
        assert error.__cause__ is worker.error


async def test_caller_who_goes_away() -> None:
    """The work goes on, and everybody else gets their own reply."""
    worker = Worker()
    gatherer = Gatherer(worker)

    async def call(number: int) -> int:
        return await gatherer.call(number)

    tasks = [asyncio.create_task(call(number)) for number in range(3)]
    await turn()
    tasks[1].cancel()
    await turn()
    worker.go_on.set()
    first, second, third = await asyncio.gather(*tasks, return_exceptions=True)
    assert (first, third) == (0, 20)
    assert isinstance(second, asyncio.CancelledError)
    assert worker.groups == [[0, 1, 2]]


async def test_caller_who_goes_away_before_the_start() -> None:
    """What was called is done, also when nobody waits for it."""
    worker = Worker()
    worker.go_on.set()
    gatherer = Gatherer(worker)
    gatherer.call(1).cancel()
    await gatherer.drain()
    assert worker.groups == [[1]]


async def test_answers_before_the_end() -> None:
    """A call that is answered early need not wait for the rest, and does not fail with it."""
    started, go_on = asyncio.Event(), asyncio.Event()

    async def work(group: Group[int, int]) -> None:
        group.answer(0, 1)
        group.fail(1, LookupError("its own"))
        started.set()
        await go_on.wait()
        raise Unavailable("database")

    gatherer: Gatherer[int, int] = Gatherer(work)
    calls = [gatherer.call(number) for number in range(3)]
    await started.wait()
    assert await calls[0] == 1
    with pytest.raises(LookupError, match="its own"):
        await calls[1]
    assert not calls[2].done()
    go_on.set()
    with pytest.raises(Unavailable):
        await calls[2]


async def test_call_that_was_forgotten() -> None:
    """Work that ends without answering a call fails it; nobody hangs."""

    async def work(group: Group[int, int]) -> None:
        group.answer(0, 1)

    gatherer: Gatherer[int, int] = Gatherer(work)
    answered, forgotten = await asyncio.gather(gatherer.call(1), gatherer.call(2), return_exceptions=True)
    assert answered == 1
    assert isinstance(forgotten, RuntimeError)


async def test_group_that_is_cancelled() -> None:
    """Whoever cancels every task of a loop cancels a group too; nobody hangs who has asked it something."""
    worker = Worker()
    gatherer = Gatherer(worker)
    call = gatherer.call(1)
    await turn()
    for task in gatherer._running:
        task.cancel()
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(RuntimeError, match="cancelled"):
            await call


async def test_call_that_waits_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the database hangs nobody waits for the groups before theirs: who has waited long enough is told so."""
    clock = FrozenClock()
    monkeypatch.setattr(group_commit, "monotonic", clock)
    worker = Worker()
    gatherer = Gatherer(worker, size=2, patience=10.0)
    calls = [gatherer.call(number) for number in range(7)]
    await turn()
    clock.advance(10.0)
    calls.append(gatherer.call(7))
    worker.go_on.set()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert outcomes[:2] == [0, 10]
    assert all(isinstance(each, Unavailable) and each.dependency == "queue" for each in outcomes[2:7])
    assert len({id(each) for each in outcomes[2:7]}) == 5
    assert outcomes[7] == 70
    assert worker.groups == [[0, 1], [7]]


async def test_calls_behind_a_group_that_does_not_end() -> None:
    """They are told so in time, each lot of them, though no group starts meanwhile that could look after them."""
    worker = Worker()
    gatherer = Gatherer(worker, patience=0.02)
    first = gatherer.call(1)
    await turn()
    async with asyncio.timeout(PATIENCE):
        for number in range(2):
            calls = [gatherer.call(number), gatherer.call(number)]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(each) for each in outcomes] == [Unavailable, Unavailable]
    assert not first.done()
    worker.go_on.set()
    assert await first == 10
    assert worker.groups == [[1]]


def test_calls_behind_a_group_in_another_loop() -> None:
    """They are told so as well, where a call has waited before in an event loop that has ended since."""
    worker = Worker()
    gatherer = Gatherer(worker, patience=PATIENCE)

    async def call_two() -> int:
        calls = [gatherer.call(1)]
        await turn()
        calls.append(gatherer.call(2))
        if gatherer._patience == PATIENCE:
            worker.go_on.set()
        async with asyncio.timeout(PATIENCE):
            return await calls[1]

    assert asyncio.run(call_two()) == 20
    gatherer._patience, worker.go_on = 0.02, asyncio.Event()
    with pytest.raises(Unavailable):
        asyncio.run(call_two())


async def test_group_that_steps_aside() -> None:
    """The next ones go on as if it were done; it still answers its calls, and is waited for at the end."""
    let_go = asyncio.Event()
    groups: list[Sequence[int]] = []

    async def work(group: Group[int, int]) -> None:
        groups.append(group.items)
        if 1 in group.items:
            group.step_aside()
            await let_go.wait()
        for index, item in enumerate(group.items):
            group.answer(index, item * 10)

    gatherer = Gatherer(work)
    first = gatherer.call(1)
    await turn()
    assert await asyncio.gather(*(gatherer.call(number) for number in (2, 3))) == [20, 30]
    assert await gatherer.call(4) == 40
    drained = asyncio.create_task(gatherer.drain())
    await turn()
    assert not first.done()
    assert not drained.done()
    let_go.set()
    await drained
    assert first.result() == 10
    assert groups == [[1], [2, 3], [4]]


async def test_group_that_steps_aside_to_answer() -> None:
    """The next one begins before anybody wakes up whom the first one answers."""
    happened: list[str] = []
    let_go = asyncio.Event()

    async def work(group: Group[int, int]) -> None:
        happened.append(f"work {group.items[0]}")
        if group.items[0] == 1:
            await let_go.wait()
        group.step_aside()
        for index, item in enumerate(group.items):
            group.answer(index, item)

    async def call(number: int) -> None:
        happened.append(f"answered {await gatherer.call(number)}")

    gatherer = Gatherer(work)
    async with asyncio.TaskGroup() as calls:
        calls.create_task(call(1))
        await turn()
        calls.create_task(call(2))
        await turn()
        let_go.set()
    assert happened == ["work 1", "work 2", "answered 1", "answered 2"]


async def test_drain() -> None:
    """It waits for what is under way and for what has gathered behind it."""
    worker = Worker()
    gatherer = Gatherer(worker)
    first = gatherer.call(1)
    await turn()
    second = gatherer.call(2)
    drained = asyncio.create_task(gatherer.drain())
    await turn()
    assert not drained.done()
    worker.go_on.set()
    await drained
    assert (first.result(), second.result()) == (10, 20)
