"""Deadlines: a task's time runs out, and nobody else's cancellation is mistaken for that."""

import asyncio

import pytest

from dispatcher.transport.deadlines import Deadlines


async def _wait(deadlines: Deadlines, seconds: float, entered: asyncio.Event) -> str:
    task = deadlines.set(seconds)
    entered.set()
    try:
        await asyncio.get_running_loop().create_future()
    except asyncio.CancelledError:
        if deadlines.lift(task):
            return "too late"
        raise
    raise AssertionError("a future that nobody sets was set")


async def test_a_task_whose_deadline_passes_is_told_and_goes_on() -> None:
    assert await _wait(Deadlines(), 0.01, asyncio.Event()) == "too late"
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0


async def test_each_task_has_its_own_deadline() -> None:
    deadlines = Deadlines()
    soon = asyncio.create_task(_wait(deadlines, 0.01, asyncio.Event()))
    later = asyncio.create_task(_wait(deadlines, 3600, asyncio.Event()))
    assert await soon == "too late"
    assert not later.done()
    later.cancel()
    with pytest.raises(asyncio.CancelledError):
        await later


async def test_a_cancellation_by_somebody_else_stays_one() -> None:
    entered = asyncio.Event()
    task = asyncio.create_task(_wait(Deadlines(), 3600, entered))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_deadline_that_was_lifted_in_time_cancels_nobody() -> None:
    deadlines = Deadlines()
    task = deadlines.set(0.01)
    assert not deadlines.lift(task)
    # Another task's deadline, set later, passes under the same timer.
    assert await asyncio.create_task(_wait(deadlines, 0.02, asyncio.Event())) == "too late"
    assert task.cancelling() == 0
