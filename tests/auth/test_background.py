"""Tasks in the background come to an end, and do nothing before their time."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from keyturn.background import end
from keyturn.core.errors import KeyturnError, Unavailable
from keyturn.upkeep import keep_up

pytestmark = pytest.mark.anyio


async def test_end_of_a_task_that_swallows_a_cancellation() -> None:
    """A task that takes the first cancellation for a time-out and goes on is cancelled again, and waited for."""
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if swallowed:
                    raise
                swallowed += 1

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await end([task])
    assert task.cancelled()
    assert swallowed == 1


async def test_end_of_tasks_that_fail_or_are_done() -> None:
    """Whatever a task does at its end is its own affair, and nobody is told that it was never looked at."""
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

    async def failing() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("at the end")

    async def done() -> None:
        return

    tasks = [asyncio.create_task(failing()), asyncio.create_task(done())]
    await asyncio.sleep(0)
    await end(tasks)
    assert all(task.done() for task in tasks)
    del tasks
    assert complaints == []


async def test_end_of_nothing() -> None:
    """There is nothing to wait for."""
    await end([])


async def test_upkeep_that_is_not_due() -> None:
    """Between two rounds nothing is asked of anybody: a node that begins the next one at once does nothing else."""
    begun: list[None] = []

    async def job() -> None:
        begun.append(None)
        await asyncio.Event().wait()

    upkeep = asyncio.create_task(keep_up(job))
    await anyio.wait_all_tasks_blocked()
    await end([upkeep])
    assert not begun


@pytest.mark.parametrize(
    "fault", [Unavailable("database"), KeyturnError("an operator has to act"), ValueError("a bug")]
)
async def test_upkeep_whose_job_fails(fault: Exception) -> None:
    """The other jobs are done all the same, and the next round comes."""
    done = 0

    async def broken() -> None:
        raise fault

    async def count() -> None:
        nonlocal done
        done += 1

    async def due() -> None:
        if done == 2:
            await asyncio.Event().wait()

    upkeep = asyncio.create_task(keep_up(broken, count, due=due))
    await anyio.wait_all_tasks_blocked()
    await end([upkeep])
    assert done == 2
