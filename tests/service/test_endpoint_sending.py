"""What endpoints are sent on request: callbacks of a job, what they missed, and a test event."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import select

from dispatcher.engine.endpoint_book import EndpointBook
from dispatcher.errors import Conflict, InvalidField
from dispatcher.ids import Kind, row_id
from dispatcher.rules.verdict import Outcome
from dispatcher.rules.verifying import verify
from dispatcher.service import endpoints
from dispatcher.service.models import (
    CallbackCreate,
    Endpoint,
    EndpointUpdate,
    EndpointWithSecret,
    Recover,
)
from dispatcher.states import AttemptError
from tests.clock import FakeClock
from tests.receiver import Receiver
from tests.service.conftest import open_scene
from tests.service.scene import URL, Scene


async def update(scene: Scene, endpoint_id: str, **fields: object) -> Endpoint:
    return await endpoints.update(scene.deployment, endpoint_id, EndpointUpdate.read(fields), tenant=None)


async def test_a_callback_registered_again_is_the_same_endpoint_with_its_secret(scene: Scene) -> None:
    body = CallbackCreate.read({"url": URL})

    async def register(job_id: str, tenant: str = "acme") -> tuple[EndpointWithSecret, bool]:
        return await endpoints.create_callback(scene.deployment, job_id, body, tenant=tenant)

    first, anew = await register("job_1")
    again, anew_again = await register("job_1")
    assert (anew, anew_again) == (True, False)
    assert again == first
    assert first.job_id == "job_1"
    others = {(await register("job_2"))[0].id, (await register("job_1", "other"))[0].id}
    assert len(others | {first.id}) == 3


async def test_a_callback_gets_its_jobs_events_only(sqlite_scene: Scene) -> None:
    body = CallbackCreate.read({"url": URL})
    callback, _ = await endpoints.create_callback(sqlite_scene.deployment, "job_1", body, tenant="default")
    for job_id in ("job_1", "job_2", None):
        await sqlite_scene.publish(job_id=job_id)
    await sqlite_scene.fan_out()
    assert [(one.job_id, one.endpoint_id) for one in await sqlite_scene.deliveries()] == [("job_1", callback.id)]


async def test_a_deleted_callback_can_be_registered_anew_under_a_higher_version(scene: Scene) -> None:
    body = CallbackCreate.read({"url": URL})
    first, _ = await endpoints.create_callback(scene.deployment, "job_1", body, tenant="default")
    await endpoints.delete(scene.deployment, first.id, tenant=None)
    second, anew = await endpoints.create_callback(scene.deployment, "job_1", body, tenant="default")
    assert anew
    assert second.id == first.id
    assert second.secret != first.secret
    policy = await EndpointBook(scene.deployment).read(row_id(Kind.ENDPOINT, first.id))
    assert policy is not None
    assert policy.version == 3


@pytest.mark.parametrize("job_id", ["", "x" * 256, "a\x00b"])
async def test_a_callbacks_job_id_is_vetted(sqlite_scene: Scene, job_id: str) -> None:
    with pytest.raises(InvalidField, match="job_id"):
        await endpoints.create_callback(
            sqlite_scene.deployment, job_id, CallbackCreate.read({"url": URL}), tenant="default"
        )


async def test_recover_takes_what_matches_was_published_then_and_was_not_delivered(scene: Scene) -> None:
    endpoint = await scene.endpoint(event_types=["job.*", "under_score"])
    await scene.publish("job.early")
    scene.clock.advance(60)
    await scene.publish("job.delivered")
    await scene.fan_out()
    await scene.end(await scene.claim(), Outcome.DELIVERED)
    since = scene.clock.now()
    await endpoints.set_status(scene.deployment, endpoint.id, "disable", tenant=None)
    missed = [await scene.publish(event_type) for event_type in ("job.a", "under_score", "job.b.c")]
    for other in ("job", "other", "underXscore", "JOB.a"):
        await scene.publish(other)
    await scene.publish("job.a", tenant="other")
    await scene.fan_out()
    scene.clock.advance(60)
    await scene.publish("job.late")
    body = Recover(since=since, until=scene.clock.now(), rate_per_s=5)
    with pytest.raises(Conflict, match="enable it"):
        await endpoints.recover(scene.deployment, endpoint.id, body, tenant=None)
    await endpoints.set_status(scene.deployment, endpoint.id, "enable", tenant=None)
    run = await endpoints.recover(scene.deployment, endpoint.id, body, tenant=None)
    assert (run.matched, run.dry_run) == (3, False)
    tables = scene.deployment.database.tables
    async with scene.deployment.database.read() as connection:
        listed = await connection.execute(
            select(tables.events.c.id)
            .join(tables.redelivery_items, tables.redelivery_items.c.event_row == tables.events.c.row_id)
            .order_by(tables.events.c.row_id)
        )
        assert list(listed.scalars()) == [one.id for one in missed]


async def test_recover_leaves_what_still_waits_to_be_fanned_out(scene: Scene) -> None:
    endpoint = await scene.endpoint()
    await scene.publish()
    run = await endpoints.recover(
        scene.deployment, endpoint.id, Recover.read({"since": "2026-01-01T00:00:00Z"}), tenant=None
    )
    assert run.matched == 0


async def test_recover_wants_its_times_in_order(sqlite_scene: Scene) -> None:
    endpoint = await sqlite_scene.endpoint()
    body = Recover.read({"since": "2026-01-02T00:00:00Z", "until": "2026-01-01T00:00:00Z"})
    with pytest.raises(InvalidField, match="until"):
        await endpoints.recover(sqlite_scene.deployment, endpoint.id, body, tenant=None)


async def test_a_test_event_arrives_signed_and_its_answer_is_told(
    sqlite_url: str, clock: FakeClock, receiver: Receiver
) -> None:
    networks = {"allow_http": True, "allow_networks": "127.0.0.0/8"}
    receiver.answers("/refused", 500)
    # Receivers compare the signature's time with their clock.
    clock.jump((datetime.now(UTC) - clock.now()).total_seconds())
    async with open_scene(sqlite_url, clock, **networks) as scene:
        good = await scene.endpoint(url=receiver.url("/hook"))
        refused = await scene.endpoint(url=receiver.url("/refused"))
        told = await endpoints.send_test(scene.deployment, good.id, tenant="default")
        failed = await endpoints.send_test(scene.deployment, refused.id, tenant="default")
    assert (told.delivered, told.status, told.error) == (True, 200, None)
    assert (failed.delivered, failed.status, failed.error) == (False, 500, AttemptError.HTTP_STATUS)
    (received,) = receiver.received("/hook")
    verify(received.body, received.headers, good.secret)
    assert b'"type":"webhook.test"' in received.body
