"""Readers are woken, not polled: one statement for all, in this process and from others."""

import asyncio
from typing import Any

import pytest

from dispatcher import metrics
from dispatcher.service import job_readers, jobs
from dispatcher.service.job_readers import JobReaders
from dispatcher.service.models import JobEvents
from dispatcher.store import migrate
from dispatcher.store.deployment import open_deployment
from dispatcher.store.job_events import announce_readers
from tests.clock import FakeClock
from tests.outpost import Outpost
from tests.service.conftest import open_scene, settings_for
from tests.service.following import PATIENCE_S, numbered, readers_of, settle, statements, until, watched
from tests.service.scene import Scene


@pytest.fixture
def without_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only hints wake: without one a test fails."""
    monkeypatch.setattr(job_readers, "FLOOR_S", 3600.0)


def wait_for(scene: Scene, readers: JobReaders, job_id: str, after: int) -> asyncio.Task[JobEvents]:
    return asyncio.create_task(
        jobs.events_after(scene.deployment, job_id, tenant="default", after=after, wait_s=30, readers=readers)
    )


async def test_a_thousand_readers_are_asked_about_in_one_statement(sqlite_scene: Scene, without_floor: None) -> None:
    scene, count = sqlite_scene, 1000
    for n in range(count):
        await scene.publish("job.step", job_id=f"job_{n}")
    await numbered(scene)
    async with readers_of(scene.deployment) as readers, asyncio.timeout(PATIENCE_S * 2):
        waits = [wait_for(scene, readers, f"job_{n}", 1) for n in range(count)]
        await watched(readers, count)
        for n in range(0, count, 100):
            await scene.publish("job.step", job_id=f"job_{n}")
        await numbered(scene)
        with statements(scene.deployment.database, "json_each") as asked:
            # As the floor does, or a notification that says no more than that something was numbered.
            readers.numbered([])
            moved = await asyncio.gather(*waits[::100])
        assert len(asked) == 1
        assert [len(part.data) for part in moved] == [1] * 10
        assert readers.waiting == count - 10
        await readers.close()
        await asyncio.gather(*waits)


async def test_hints_about_other_jobs_cost_no_statement(sqlite_scene: Scene, without_floor: None) -> None:
    scene = sqlite_scene
    await scene.publish(job_id="job_1")
    await numbered(scene)
    async with readers_of(scene.deployment) as readers, asyncio.timeout(PATIENCE_S):
        waiting = wait_for(scene, readers, "job_1", 1)
        await watched(readers, 1)
        with statements(scene.deployment.database, "SELECT") as executed:
            for n in range(50):
                readers.numbered([1000 + n])
            assert executed == []
        await scene.publish(job_id="job_1")
        await numbered(scene, readers)
        assert len((await waiting).data) == 1


async def test_without_any_hint_the_floor_finds_what_was_numbered(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_readers, "FLOOR_S", 0.05)
    await scene.publish(job_id="job_1")
    await numbered(scene)
    async with readers_of(scene.deployment) as readers, asyncio.timeout(PATIENCE_S):
        waits = [wait_for(scene, readers, job_id, 0 if job_id == "new" else 1) for job_id in ("job_1", "new")]
        await watched(readers, 2)
        await scene.publish(job_id="new")
        await numbered(scene)
        assert len((await waits[1]).data) == 1
        assert not waits[0].done()
        await settle(scene.deployment.database)
        assert (await waits[0]).settled


async def test_what_was_numbered_elsewhere_before_it_was_told_to_notify_is_found(
    postgres_url: str, clock: FakeClock, without_floor: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hear_nothing(*_: object) -> None:
        await asyncio.Event().wait()

    async with open_scene(postgres_url, clock) as scene:
        await scene.publish(job_id="job_1")
        await numbered(scene)

        async def announce_too_late(*arguments: Any) -> None:
            await watched(readers, 1)
            await scene.publish(job_id="job_1")
            await numbered(scene)
            await announce_readers(*arguments)

        monkeypatch.setattr(job_readers, "listen_for_numbered", hear_nothing)
        monkeypatch.setattr(job_readers, "announce_readers", announce_too_late)
        async with readers_of(scene.deployment) as readers, asyncio.timeout(PATIENCE_S):
            assert len((await wait_for(scene, readers, "job_1", 1)).data) == 1


async def test_a_fan_out_of_another_process_wakes_the_readers_of_this_one(
    postgres_url: str, clock: FakeClock, without_floor: None
) -> None:
    other = open_deployment(settings_for(postgres_url), clock)
    try:
        async with open_scene(postgres_url, clock) as scene, readers_of(other) as readers, asyncio.timeout(PATIENCE_S):
            await scene.publish(job_id="job_1")
            await numbered(scene)
            for n in range(1, 4):
                waiting = asyncio.create_task(
                    jobs.events_after(other, "job_1", tenant="default", after=n, wait_s=30, readers=readers)
                )
                await watched(readers, 1)
                if n == 1:
                    await _listens(readers)
                await scene.publish(job_id="job_1")
                await numbered(scene)
                assert [event.sequence for event in (await waiting).data] == [n + 1]
    finally:
        await other.database.close()


async def _listens(readers: JobReaders) -> None:
    """Returns when the process has said that it has readers, and hears notifications."""
    heard = asyncio.Event()
    look = readers._look

    async def looked() -> None:
        await look()
        heard.set()

    readers._look = looked  # type: ignore[method-assign]
    await heard.wait()


async def test_a_fan_out_notifies_only_while_somebody_reads(postgres_outpost: Outpost) -> None:
    told: list[str] = []

    async def notifications() -> int:
        async with postgres_outpost.store() as store:
            await postgres_outpost.publish("job.step", job_id="job_1")
            fanned = await store.fan_out(10)
            assert len(fanned.jobs) == 1
        return len(told)

    async with postgres_outpost.database.engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        channel = postgres_outpost.tables.readers_channel
        await driver.add_listener(channel, lambda *args: told.append(args[3]))
        await notifications()
        await driver.execute("SELECT 1")
        assert told == []
        async with readers_of(postgres_outpost.deployment) as readers, asyncio.timeout(PATIENCE_S):
            with readers.watch("default", "job_1", 0):
                await _listens(readers)
                await notifications()
                while not told:
                    await driver.execute("SELECT 1")
        jobs_rows = await postgres_outpost.rows("jobs")
        assert told == [str(jobs_rows[0].row_id)]
        # More jobs than a notification carries: any job, then.
        await driver.execute("ALTER TABLE jobs ALTER row_id RESTART WITH 1000000000000000000")
        for n in range(500):
            await postgres_outpost.publish("job.step", job_id=f"many_{n}")
        async with postgres_outpost.store() as store:
            assert len((await store.fan_out(500)).jobs) == 500
        async with asyncio.timeout(PATIENCE_S):
            while len(told) == 1:
                await driver.execute("SELECT 1")
        assert told[1:] == [""]
        # A connection that listens must not go back to the pool.
        await connection.invalidate()


async def test_the_gauge_counts_who_follows(sqlite_scene: Scene) -> None:
    before = metrics.job_readers._value.get()
    async with readers_of(sqlite_scene.deployment) as readers:
        with readers.watch("default", "job_1", 0), readers.watch("default", "job_1", 0):
            assert metrics.job_readers._value.get() == before + 2
    assert metrics.job_readers._value.get() == before


async def test_who_polls_again_is_not_read_again_until_something_moved(
    sqlite_scene: Scene, without_floor: None
) -> None:
    scene = sqlite_scene
    await scene.publish(job_id="job_1")
    await numbered(scene)

    async def poll(after: int) -> JobEvents:
        return await jobs.events_after(
            scene.deployment, "job_1", tenant="default", after=after, wait_s=0.01, readers=readers
        )

    async with readers_of(scene.deployment) as readers, asyncio.timeout(PATIENCE_S):
        assert (await poll(1)).data == []
        with statements(scene.deployment.database, "FROM jobs") as executed:
            assert [await poll(1) for _ in range(3)] == [JobEvents(data=[], after=1, settled=False)] * 3
        assert executed == []
        assert len((await poll(0)).data) == 1
        assert (await poll(1)).data == []
        await scene.publish(job_id="job_1")
        # Between two polls, when nobody waits.
        await numbered(scene, readers)
        assert [event.sequence for event in (await poll(1)).data] == [2]
        assert (await poll(2)).data == []


async def test_a_job_that_nobody_reads_any_more_is_forgotten(
    sqlite_scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_readers, "REMEMBER_S", 0.01)
    await sqlite_scene.publish(job_id="job_1")
    await numbered(sqlite_scene)
    async with readers_of(sqlite_scene.deployment) as readers:
        await jobs.events_after(
            sqlite_scene.deployment, "job_1", tenant="default", after=1, wait_s=0.01, readers=readers
        )
        assert readers.count == 0
        await until(lambda: not readers._watches and not readers._named and not readers._remembered)


async def test_readers_are_woken_under_a_prefix_and_in_a_schema(
    empty_postgres_url: str, clock: FakeClock, without_floor: None
) -> None:
    given = {"schema": "Hooks", "table_prefix": "a_prefix_of_twenty_nine_chars"}
    other = open_deployment(settings_for(empty_postgres_url, **given), clock)
    try:
        await migrate.upgrade(other.database)
        async with open_scene(empty_postgres_url, clock, **given) as scene, readers_of(other) as readers:
            waiting = asyncio.create_task(
                jobs.events_after(other, "job_1", tenant="default", wait_s=30, readers=readers)
            )
            async with asyncio.timeout(PATIENCE_S):
                await watched(readers, 1)
                await _listens(readers)
                await scene.publish(job_id="job_1")
                await numbered(scene)
                assert [event.sequence for event in (await waiting).data] == [1]
    finally:
        await other.database.close()
