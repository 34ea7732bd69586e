"""A job's events for who catches up: in order, in parts, waited for, followed to the end."""

import asyncio
import json
from contextlib import aclosing
from datetime import timedelta
from typing import Any

import pytest

from dispatcher.errors import InvalidField, NotFound, TooManyReaders
from dispatcher.service import endpoints, jobs
from dispatcher.service.job_readers import on_tick
from dispatcher.service.models import CallbackCreate, JobEvents
from dispatcher.store import retention
from tests.clock import FakeClock
from tests.service.conftest import open_scene
from tests.service.following import PATIENCE_S, numbered, readers_of, settle, watched
from tests.service.scene import Scene

NOTHING = JobEvents(data=[], after=0, settled=False)


async def read(scene: Scene, job_id: str = "job_1", tenant: str = "default", **asked: Any) -> JobEvents:
    return await jobs.events_after(scene.deployment, job_id, tenant=tenant, **asked)


async def test_events_come_in_the_order_of_their_sequence_and_in_parts(scene: Scene) -> None:
    ids = [(await scene.publish("job.step", job_id="job_1", data=str(n))).id for n in range(7)]
    await scene.publish("job.step", job_id="job_2")
    await scene.fan_out()
    seen, after = [], 0
    while (part := await read(scene, after=after, limit=3)).data:
        assert len(part.data) <= 3
        assert part.after == part.data[-1].sequence
        seen += part.data
        after = part.after
    assert [(event.sequence, event.id) for event in seen] == list(enumerate(ids, start=1))
    assert (part.after, part.settled) == (7, False)


async def test_data_is_as_the_producer_wrote_it(scene: Scene) -> None:
    written = '{"n":1.000000000000000000001,"n":2}'
    await scene.publish(job_id="job_1", data=written)
    await scene.fan_out()
    assert written.encode() in (await read(scene)).json_bytes()


async def test_concurrent_producers_are_read_in_their_sequence_without_a_gap(scene: Scene) -> None:
    async def produce(name: str) -> None:
        for n in range(10):
            await scene.publish("job.step", job_id="job_1", data=json.dumps([name, n]))
            await scene.fan_out()

    await asyncio.gather(*(produce(name) for name in ("a", "b", "c")))
    await scene.fan_out()
    part = await read(scene, limit=200)
    assert [event.sequence for event in part.data] == list(range(1, 31))
    told = [json.loads(event.data) for event in part.data]
    for name in ("a", "b", "c"):
        assert [n for who, n in told if who == name] == list(range(10))


async def test_behind_the_end_there_is_nothing_and_the_answer_repeats_where_that_is(scene: Scene) -> None:
    await scene.publish("job.step", job_id="job_1")
    await scene.fan_out()
    for after in (1, 2, jobs.LARGEST_SEQUENCE):
        assert await read(scene, after=after) == JobEvents(data=[], after=after, settled=False)


async def test_settled_is_said_once_nothing_lies_behind(scene: Scene) -> None:
    for _ in range(3):
        await scene.publish(job_id="job_1")
    await scene.fan_out()
    await settle(scene.deployment.database)
    assert [(await read(scene, after=after, limit=1)).settled for after in (0, 1, 2, 3)] == [False, False, True, True]
    assert (await read(scene, limit=3)).settled


async def test_events_that_retention_dropped_are_skipped(scene: Scene) -> None:
    for _ in range(4):
        await scene.publish(job_id="job_1")
    await scene.fan_out()
    database = scene.deployment.database
    scene.clock.advance(60)
    for _ in range(2):
        await scene.publish(job_id="job_1")
    await scene.fan_out()
    async with database.begin() as connection:
        await retention.drop_events(connection, database, scene.clock.now() - timedelta(seconds=30), 0)
    part = await read(scene, limit=1)
    assert ([event.sequence for event in part.data], part.after) == ([5], 5)
    scene.clock.advance(60)
    async with database.begin() as connection:
        await retention.drop_events(connection, database, scene.clock.now(), 0)
    await settle(database)
    assert await read(scene) == JobEvents(data=[], after=0, settled=True)


async def test_a_job_that_nobody_mentioned_is_not_found(scene: Scene) -> None:
    await scene.publish(job_id="job_1", tenant="acme")
    await scene.fan_out()
    with pytest.raises(NotFound, match="job_2"):
        await read(scene, "job_2")
    with pytest.raises(NotFound):
        await read(scene, "job_1", tenant="rival")
    assert len((await read(scene, "job_1", tenant="acme")).data) == 1


async def test_an_event_in_the_queue_or_a_callback_mentions_a_job(scene: Scene) -> None:
    await scene.publish(job_id="job_1")
    body = CallbackCreate.read({"url": "https://example.com/job_2"})
    await endpoints.create_callback(scene.deployment, "job_2", body, tenant="default")
    for job_id in ("job_1", "job_2"):
        assert await read(scene, job_id) == JobEvents(data=[], after=0, settled=False)


@pytest.mark.parametrize(
    ("field", "asked"),
    [
        ("after", {"after": -1}),
        ("after", {"after": jobs.LARGEST_SEQUENCE + 1}),
        ("limit", {"limit": 0}),
        ("limit", {"limit": 201}),
        ("wait", {"wait_s": 30.1}),
        ("wait", {"wait_s": -1}),
        ("wait", {"wait_s": float("nan")}),
    ],
)
async def test_values_that_mean_nothing_are_refused(sqlite_scene: Scene, field: str, asked: dict[str, Any]) -> None:
    with pytest.raises(InvalidField) as refused:
        await read(sqlite_scene, **asked)
    assert refused.value.field == field


async def test_a_wait_ends_as_soon_as_there_is_something_behind(scene: Scene) -> None:
    await scene.publish(job_id="job_1")
    await numbered(scene)
    async with readers_of(scene.deployment) as readers:
        waiting = asyncio.create_task(
            jobs.events_after(scene.deployment, "job_1", tenant="default", after=1, wait_s=30, readers=readers)
        )
        await watched(readers, 1)
        await scene.publish("job.step", job_id="job_2")
        await numbered(scene, readers)
        assert not waiting.done()
        await scene.publish("job.step", job_id="job_1")
        await numbered(scene, readers)
        async with asyncio.timeout(PATIENCE_S):
            part = await waiting
    assert [event.sequence for event in part.data] == [2]


async def test_a_wait_that_brings_nothing_ends_empty(scene: Scene) -> None:
    await scene.publish(job_id="job_1")
    await scene.fan_out()
    async with readers_of(scene.deployment) as readers:
        part = await jobs.events_after(
            scene.deployment, "job_1", tenant="default", after=1, wait_s=0.01, readers=readers
        )
        assert part == JobEvents(data=[], after=1, settled=False)
        with pytest.raises(NotFound):
            await jobs.events_after(scene.deployment, "job_2", tenant="default", wait_s=0.01, readers=readers)


@pytest.mark.parametrize(("until", "ends"), [(130.3, 130.0), (115.0, 115.0), (114.9, 114.5), (104.9, 104.9)])
def test_long_waits_end_together_a_little_early_and_short_ones_when_they_say(until: float, ends: float) -> None:
    assert on_tick(until, now=100.1) == pytest.approx(ends)


async def test_a_job_that_does_not_exist_yet_is_waited_for(scene: Scene) -> None:
    async with readers_of(scene.deployment) as readers:
        waiting = asyncio.create_task(
            jobs.events_after(scene.deployment, "job_1", tenant="acme", wait_s=30, readers=readers)
        )
        await watched(readers, 1)
        await scene.publish(job_id="job_1", tenant="rival")
        await scene.publish(job_id="job_1", tenant="acme", id="ours")
        await numbered(scene, readers)
        async with asyncio.timeout(PATIENCE_S):
            assert [event.id for event in (await waiting).data] == ["ours"]


async def test_a_settled_job_is_not_waited_for(scene: Scene) -> None:
    await scene.publish(job_id="job_1")
    await scene.fan_out()
    await settle(scene.deployment.database)
    async with readers_of(scene.deployment) as readers, asyncio.timeout(PATIENCE_S):
        part = await jobs.events_after(scene.deployment, "job_1", tenant="default", after=1, wait_s=30, readers=readers)
    assert part == JobEvents(data=[], after=1, settled=True)


async def test_a_wait_ends_when_the_process_does_or_the_caller_is_gone(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.publish(job_id="job_1")
    await scene.fan_out()
    monkeypatch.setattr("dispatcher.service.job_readers.PRESENCE_S", 0.01)
    async with readers_of(scene.deployment) as readers, asyncio.timeout(PATIENCE_S):
        left: list[bool] = []
        waits = [
            asyncio.create_task(
                jobs.events_after(
                    scene.deployment, "job_1", tenant="default", after=1, wait_s=30, readers=readers, gone=gone
                )
            )
            for gone in (lambda: bool(left), lambda: False)
        ]
        await watched(readers, 2)
        left.append(True)
        assert (await waits[0]).data == []
        assert not waits[1].done()
        await readers.close()
        assert (await waits[1]).data == []


async def test_more_readers_than_the_process_takes_are_refused(sqlite_url: str, clock: FakeClock) -> None:
    async with open_scene(sqlite_url, clock, max_readers=1) as scene, readers_of(scene.deployment) as readers:
        await scene.publish(job_id="job_1")
        await scene.fan_out()

        async def ask(after: int, wait_s: float) -> JobEvents:
            return await jobs.events_after(
                scene.deployment, "job_1", tenant="default", after=after, wait_s=wait_s, readers=readers
            )

        first = asyncio.create_task(ask(1, 30))
        await watched(readers, 1)
        with pytest.raises(TooManyReaders):
            await ask(1, 30)
        # What need not wait is answered all the same.
        assert len((await ask(0, 30)).data) == 1
        assert (await ask(1, 0)).data == []
        await readers.close()
        await first


async def test_a_job_is_followed_to_its_end(scene: Scene) -> None:
    async with readers_of(scene.deployment) as readers:
        following = jobs.follow(scene.deployment, readers, "job_1", tenant="default", first=NOTHING, silence_s=30)
        async with aclosing(following), asyncio.timeout(PATIENCE_S):
            waiting = asyncio.ensure_future(anext(following))
            await watched(readers, 1)
            for n in range(jobs.STREAM_PAGE + 1):
                await scene.publish("job.step", job_id="job_1", data=str(n))
            await numbered(scene, readers)
            first, second = await waiting, await anext(following)
            assert [event.sequence for event in first.data] == list(range(1, jobs.STREAM_PAGE + 1))
            assert [event.sequence for event in second.data] == [jobs.STREAM_PAGE + 1]
            waiting = asyncio.ensure_future(anext(following))
            await watched(readers, 1)
            await settle(scene.deployment.database)
            readers.numbered([])
            assert await waiting == JobEvents(data=[], after=jobs.STREAM_PAGE + 1, settled=True)
            with pytest.raises(StopAsyncIteration):
                await anext(following)
        assert not readers.full


async def test_a_silent_job_s_follower_hears_so(sqlite_scene: Scene) -> None:
    async with readers_of(sqlite_scene.deployment) as readers:
        following = jobs.follow(
            sqlite_scene.deployment, readers, "job_1", tenant="default", first=NOTHING, silence_s=0.01
        )
        async with aclosing(following), asyncio.timeout(PATIENCE_S):
            assert [await anext(following) for _ in range(2)] == [NOTHING, NOTHING]
