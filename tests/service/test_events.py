"""Publishing through the service: once per key, all or none, data as written; and looking at what was published."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import func, select

from dispatcher.errors import Conflict, IdempotencyConflict, InvalidField, NotFound
from dispatcher.rules.verdict import Outcome
from dispatcher.service import events
from dispatcher.service.models import EventPublish
from dispatcher.service.sent_events import SentEvent
from dispatcher.states import DeliveryState
from tests.clock import FakeClock
from tests.service.conftest import open_scene
from tests.service.scene import Scene


def batch(*bodies: Mapping[str, object]) -> list[SentEvent]:
    return [EventPublish.read({"type": "a", "data": "1", **body}).sent() for body in bodies]


async def stored(scene: Scene) -> int:
    async with scene.deployment.database.read() as connection:
        return (
            await connection.execute(select(func.count()).select_from(scene.deployment.database.tables.events))
        ).scalar_one()


async def test_an_event_is_stored_as_it_was_given(scene: Scene) -> None:
    accepted = await scene.publish(
        "job.done",
        tenant="acme",
        data='{ "n": 1.000000000000000000001, "n": 2 }',
        job_id="job_1",
        id="mine_1",
        timestamp="2020-01-02T03:04:05.000006Z",
        traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    )
    assert accepted.model_dump() == {
        "id": "mine_1",
        "type": "job.done",
        "job_id": "job_1",
        "created_at": "2026-01-01T12:00:00Z",
        "warnings": [],
    }
    event = await events.get(scene.deployment, "mine_1", tenant="acme")
    assert (event.data, event.tenant, event.sequence) == ('{"n":1.000000000000000000001,"n":2}', "acme", None)
    assert event.timestamp == datetime(2020, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    await scene.fan_out()
    assert (await events.get(scene.deployment, "mine_1", tenant=None)).sequence == 1


async def test_an_event_happened_when_it_was_published_unless_it_says_otherwise(scene: Scene) -> None:
    accepted = await scene.publish()
    event = await events.get(scene.deployment, accepted.id, tenant=None)
    assert event.timestamp == event.created_at == scene.clock.now()


async def test_the_same_key_and_content_is_one_event(scene: Scene) -> None:
    given = {"job_id": "job_1", "idempotency_key": "k"}
    first = await scene.publish(data='{"a": 1, "b": [1.0]}', **given)
    scene.clock.advance(60)
    again = await scene.publish(data='{"b":[1],"a":1}', **given)
    other_tenant = await scene.publish(tenant="acme", data="2", **given)
    assert again == first
    assert other_tenant.id != first.id
    assert await stored(scene) == 2


@pytest.mark.parametrize("identity", [{"id": "mine"}, {"idempotency_key": "k"}])
@pytest.mark.parametrize(
    "other",
    [{"type": "other"}, {"job_id": "job_2"}, {"data": "[2]"}, {"timestamp": "2026-01-02T03:04:05Z"}],
)
async def test_the_same_identity_with_other_content_is_a_conflict(
    sqlite_scene: Scene, identity: dict[str, str], other: dict[str, str]
) -> None:
    body = {"type": "a", "data": "[1]", "job_id": "job_1", **identity}
    await events.publish(sqlite_scene.deployment, EventPublish.read(body).sent(), tenant="default")
    with pytest.raises(IdempotencyConflict, match=next(iter(identity))):
        await events.publish(sqlite_scene.deployment, EventPublish.read(body | other).sent(), tenant="default")
    assert await stored(sqlite_scene) == 1


async def test_callers_who_race_with_one_key_get_one_event(scene: Scene) -> None:
    answers = await asyncio.gather(*(scene.publish(idempotency_key="k") for _ in range(5)))
    assert len({answer.model_dump_json() for answer in answers}) == 1
    assert await stored(scene) == 1


async def test_a_batch_is_stored_in_its_order(scene: Scene) -> None:
    accepted = await events.publish_batch(
        scene.deployment, batch(*({"job_id": "job_1", "data": str(n)} for n in range(300))), tenant="default"
    )
    await scene.fan_out()
    listed = await events.list_page(scene.deployment, tenant="default", limit=200)
    assert [event.id for event in listed.data] == accepted.ids[:99:-1]
    assert [event.sequence for event in listed.data] == list(range(300, 100, -1))


async def test_a_batch_names_the_event_that_is_too_large_and_stores_none(sqlite_scene: Scene) -> None:
    large = {"data": '"' + "x" * 256 * 1024 + '"'}
    with pytest.raises(InvalidField) as raised:
        await events.publish_batch(sqlite_scene.deployment, batch({}, large), tenant="default")
    assert raised.value.field == "events/1/data"
    assert await stored(sqlite_scene) == 0


async def test_a_batch_with_a_conflict_stores_none_and_names_it(scene: Scene) -> None:
    await scene.publish(id="mine")
    with pytest.raises(IdempotencyConflict, match="events/1/id"):
        await events.publish_batch(scene.deployment, batch({}, {"id": "mine", "data": "2"}), tenant="default")
    with pytest.raises(IdempotencyConflict, match="events/2/id"):
        await events.publish_batch(
            scene.deployment, batch({"id": "x"}, {"id": "x"}, {"id": "x", "data": "2"}), tenant="default"
        )
    assert await stored(scene) == 1
    repeated = await events.publish_batch(scene.deployment, batch({"id": "x"}, {"id": "x"}), tenant="default")
    assert repeated.ids == ["x", "x"]
    assert await stored(scene) == 2


async def test_data_is_measured_as_compact_json_and_warned_about_when_large(sqlite_url: str, clock: FakeClock) -> None:
    async with open_scene(sqlite_url, clock, max_payload=30_000) as scene:
        spaced = await scene.publish(data="[" + " " * 30_000 + "1]")
        warned = await scene.publish(data='"' + "ü" * 10_000 + '"')
        with pytest.raises(InvalidField, match=r"data: is 30002 bytes .* limit is 30000"):
            await scene.publish(data='"' + "ü" * 15_000 + '"')
    assert spaced.warnings == []
    assert len(warned.warnings) == 1
    assert "20002 bytes" in warned.warnings[0]


async def test_an_event_shows_what_became_of_it(sqlite_scene: Scene) -> None:
    endpoint = await sqlite_scene.endpoint()
    accepted = await sqlite_scene.publish()
    await sqlite_scene.fan_out()
    await sqlite_scene.end(await sqlite_scene.claim(), Outcome.DELIVERED)
    event = await events.get(sqlite_scene.deployment, accepted.id, tenant="default")
    assert [(one.endpoint_id, one.state, one.last_status) for one in event.deliveries] == [
        (endpoint.id, DeliveryState.DELIVERED, 200)
    ]


async def test_another_tenants_event_is_not_found(scene: Scene) -> None:
    accepted = await scene.publish(tenant="acme", id="mine")
    with pytest.raises(NotFound):
        await events.get(scene.deployment, accepted.id, tenant="evil")
    assert (await events.list_page(scene.deployment, tenant="evil")).data == []
    assert (await events.list_page(scene.deployment, tenant="evil", job_id="job_1")).data == []


async def test_an_administrator_names_the_tenant_where_an_id_is_two_tenants(sqlite_scene: Scene) -> None:
    for tenant in ("a", "b"):
        await sqlite_scene.publish(tenant=tenant, id="mine")
    with pytest.raises(Conflict, match="tenant"):
        await events.get(sqlite_scene.deployment, "mine", tenant=None)
    assert (await events.get(sqlite_scene.deployment, "mine", tenant="b")).tenant == "b"


async def test_lists_filter_by_type_job_and_time(scene: Scene) -> None:
    first = await scene.publish("a", job_id="job_1")
    await scene.fan_out()
    scene.clock.advance(60)
    second = await scene.publish("b", job_id="job_1")
    third = await scene.publish("b", job_id="job_2")

    async def listed(**filters: Any) -> list[str]:
        page = await events.list_page(scene.deployment, tenant="default", **filters)
        return [event.id for event in page.data]

    assert await listed() == [third.id, second.id, first.id]
    assert await listed(type="b") == [third.id, second.id]
    assert await listed(job_id="job_1") == [second.id, first.id]
    assert await listed(job_id="job_1", type="a") == [first.id]
    assert await listed(since=scene.clock.now()) == [third.id, second.id]
    assert await listed(until=scene.clock.now()) == [first.id]


async def test_pages_stay_stable_while_events_arrive(scene: Scene) -> None:
    made = [(await scene.publish()).id for _ in range(4)]
    first = await events.list_page(scene.deployment, tenant="default", limit=2)
    await scene.publish()
    second = await events.list_page(scene.deployment, tenant="default", limit=2, cursor=first.next_cursor)
    assert [event.id for event in first.data + second.data] == made[::-1]
    assert second.next_cursor is None


@pytest.mark.parametrize("text", ["a\x00b", "x" * 256, "\ud800"])
async def test_what_no_row_can_hold_is_refused_as_a_filter(sqlite_scene: Scene, text: str) -> None:
    with pytest.raises(InvalidField, match="job_id"):
        await events.list_page(sqlite_scene.deployment, tenant=None, job_id=text)
