"""What a dispatcher says of its parts: what hangs, what has ended, what fails again and again."""

import asyncio

import pytest

from dispatcher.engine import vitals
from dispatcher.engine.patience import patiently
from dispatcher.engine.vitals import FAILING_AFTER, HUNG_AFTER_S, SOON_S, Condition, Vitals
from dispatcher.errors import StoreUnavailable
from dispatcher.store.hot import FannedOut
from tests.clock import FakeClock
from tests.outpost import Outpost

PATIENCE_S = 30.0


async def test_a_part_that_hangs_in_one_try_is_told_until_the_try_ends(clock: FakeClock) -> None:
    watched = Vitals(clock, lease_s=1.0)
    begun, release = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        begun.set()
        await release.wait()

    task = asyncio.create_task(watched.keep("claim", lambda: patiently("claim", hang)))
    await begun.wait()
    clock.advance(HUNG_AFTER_S)
    assert watched.condition() == Condition()
    clock.advance(1)
    assert watched.condition() == Condition(hung=("claim hangs at the database for 121 s",))
    release.set()
    await task
    assert watched.condition() == Condition()


async def test_a_part_that_waits_for_a_database_that_is_away_does_not_hang(clock: FakeClock) -> None:
    watched = Vitals(clock, lease_s=1.0)
    tries: asyncio.Queue[None] = asyncio.Queue()

    async def fail() -> None:
        tries.put_nowait(None)
        clock.advance(HUNG_AFTER_S - 1)
        raise StoreUnavailable("it is away")

    task = asyncio.create_task(watched.keep("claim", lambda: patiently("claim", fail)))
    try:
        async with asyncio.timeout(PATIENCE_S):
            for _ in range(3):
                await tries.get()
                assert watched.condition() == Condition()
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_a_part_that_fails_again_and_again_is_told_until_it_gets_on(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vitals, "RESTART_AFTER_S", 0.0)
    watched = Vitals(clock, lease_s=1.0)
    failures = 0
    settled, release = asyncio.Event(), asyncio.Event()

    async def fail() -> None:
        nonlocal failures
        if failures == FAILING_AFTER:
            settled.set()
            await release.wait()
            return
        failures += 1
        assert watched.condition() == Condition()
        raise ValueError("a bad row")

    task = asyncio.create_task(watched.keep("fan out", fail))
    await settled.wait()
    assert watched.condition() == Condition(failing=("fan out has failed 5 times in a row; the log says why",))
    clock.advance(SOON_S)
    assert watched.condition() == Condition()
    release.set()
    await task


async def test_failures_that_are_far_apart_are_no_failing(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vitals, "RESTART_AFTER_S", 0.0)
    watched = Vitals(clock, lease_s=1.0)
    failures = 0

    async def fail() -> None:
        nonlocal failures
        if failures < 3 * FAILING_AFTER:
            failures += 1
            clock.advance(SOON_S)
            raise ValueError("a bad row")

    await watched.keep("fan out", fail)
    assert watched.condition() == Condition()


async def test_a_dispatcher_tells_of_a_part_that_fails_and_goes_on_with_the_others(
    sqlite_outpost: Outpost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vitals, "RESTART_AFTER_S", 0.0)
    failed: asyncio.Queue[None] = asyncio.Queue()

    async def fail(*_: object) -> FannedOut:
        failed.put_nowait(None)
        raise ValueError("a bad row")

    dispatcher = sqlite_outpost.dispatcher()
    assert dispatcher.condition() == Condition()
    monkeypatch.setattr("dispatcher.store.sqlite.store.SqliteStore.fan_out", fail)
    # Nor can they be fanned out one by one.
    monkeypatch.setattr("dispatcher.store.sqlite.store.SqliteStore.fan_out_one", fail)
    async with dispatcher, asyncio.timeout(PATIENCE_S):
        for _ in range(FAILING_AFTER + 1):
            await failed.get()
        condition = dispatcher.condition()
        assert not condition.hung
        (told,) = condition.failing
        assert told.startswith("fan out has failed")
    assert dispatcher.condition() == Condition()
