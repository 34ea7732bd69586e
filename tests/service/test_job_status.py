"""Where a job's events stand: counted per endpoint, with the reason for what is not delivered."""

import pytest

from dispatcher.errors import NotFound
from dispatcher.rules.verdict import Outcome
from dispatcher.service import dead_letters, deliveries, endpoints, job_status
from dispatcher.service.models import CallbackCreate, JobEndpoint, JobStatus
from dispatcher.states import AttemptError, EndpointStatus, Reason
from tests.service.following import settle, statements
from tests.service.scene import URL, Scene


async def status_of(scene: Scene, job_id: str = "job_1", tenant: str = "default") -> JobStatus:
    return await job_status.status(scene.deployment, job_id, tenant=tenant)


def counts(endpoint: JobEndpoint) -> dict[str, int]:
    states = ("pending", "sending", "delivered", "dead", "superseded", "cancelled")
    return {state: getattr(endpoint, state) for state in states if getattr(endpoint, state)}


async def test_what_became_of_a_job_at_each_endpoint(scene: Scene) -> None:
    steps = await scene.endpoint(event_types=["job.step"])
    every = await scene.endpoint(ordered=False)
    for _ in range(3):
        await scene.publish("job.step", job_id="job_1")
    await scene.publish("job.completed", job_id="job_1")
    await scene.publish("job.step", job_id="job_2")
    await scene.fan_out()
    claimed = await scene.claim()
    first = [one for one in claimed if one.job_id == "job_1" and one.sequence == 1]
    await scene.end([one for one in first if one.lane is not None], Outcome.DELIVERED)
    unordered = [one for one in claimed if one.job_id == "job_1" and one.lane is None]
    await scene.end([one for one in unordered if one.sequence in (1, 2)], Outcome.DEAD)
    await scene.end([one for one in unordered if one.sequence == 3], Outcome.RETRY)
    await settle(scene.deployment.database)

    status = await status_of(scene)
    assert (status.job_id, status.tenant, status.last_sequence, status.not_fanned_out) == ("job_1", "default", 4, 0)
    assert (status.settled, status.settled_at, status.more_endpoints) == (True, scene.clock.now(), False)
    # What has the most that is not delivered comes first.
    assert [endpoint.endpoint_id for endpoint in status.endpoints] == [every.id, steps.id]
    unordered_at, ordered_at = status.endpoints
    assert counts(unordered_at) == {"pending": 1, "sending": 1, "dead": 2}
    assert unordered_at.reasons == {Reason.EXHAUSTED: 2}
    assert (unordered_at.url, unordered_at.status) == (URL.replace("abc", "***"), EndpointStatus.ENABLED)
    assert unordered_at.last_sequence == 4
    waiting = unordered_at.waiting
    assert waiting is not None
    assert (waiting.sequence, waiting.state, waiting.attempts, waiting.last_status) == (3, "pending", 1, 500)
    assert waiting.last_error is AttemptError.HTTP_STATUS
    assert waiting.due_at is not None
    letters = await dead_letters.list_page(scene.deployment, tenant=None)
    assert [letter.id for letter in unordered_at.dead_letters] == [letter.id for letter in letters.data]
    assert {(letter.reason, letter.last_status) for letter in unordered_at.dead_letters} == {("exhausted", 500)}
    assert {letter.sequence for letter in unordered_at.dead_letters} == {1, 2}

    assert counts(ordered_at) == {"pending": 2, "delivered": 1}
    assert (ordered_at.last_sequence, ordered_at.last_status, ordered_at.last_error) == (1, 200, None)
    assert ordered_at.waiting is not None
    assert ordered_at.waiting.sequence == 2
    assert not ordered_at.callback


async def test_a_delivery_in_flight_is_the_one_that_waits(scene: Scene) -> None:
    await scene.endpoint()
    for _ in range(2):
        await scene.publish("job.step", job_id="job_1")
    await scene.fan_out()
    await scene.claim()
    (endpoint,) = (await status_of(scene)).endpoints
    assert endpoint.waiting is not None
    assert (endpoint.waiting.sequence, endpoint.waiting.state) == (1, "sending")
    first = next(one for one in await scene.deliveries() if one.sequence == 1)
    assert endpoint.waiting.delivery_id == first.id


async def test_cancelled_deliveries_are_counted_by_their_reason(scene: Scene) -> None:
    endpoint = await scene.endpoint(ordered=False)
    for _ in range(3):
        await scene.publish("job.step", job_id="job_1")
    await scene.fan_out()
    (one, *_) = await scene.deliveries()
    await deliveries.cancel(scene.deployment, one.id, tenant=None)
    await endpoints.delete(scene.deployment, endpoint.id, tenant=None)
    (told,) = (await status_of(scene)).endpoints
    assert counts(told) == {"cancelled": 3}
    assert told.reasons == {Reason.OPERATOR: 1, Reason.ENDPOINT_DELETED: 2}
    assert (told.status, told.waiting) == (None, None)


async def test_a_dead_letter_that_was_redelivered_is_told_no_more(scene: Scene) -> None:
    await scene.endpoint()
    await scene.publish("job.step", job_id="job_1")
    await scene.die()
    (letter,) = (await status_of(scene)).endpoints[0].dead_letters
    assert letter.reason is Reason.EXHAUSTED
    (row,) = await scene.deliveries()
    await deliveries.redeliver(scene.deployment, row.id, tenant=None)
    (endpoint,) = (await status_of(scene)).endpoints
    assert (endpoint.dead, endpoint.pending, endpoint.dead_letters) == (0, 1, [])
    assert endpoint.waiting is not None


async def test_what_no_dispatcher_has_looked_at_is_counted(scene: Scene) -> None:
    await scene.publish("job.step", job_id="job_1")
    await scene.publish("job.step", job_id="job_1")
    await scene.publish("job.step", job_id="job_2")
    await scene.publish("job.step", job_id="job_1", tenant="acme")
    status = await status_of(scene)
    assert (status.not_fanned_out, status.last_sequence, status.endpoints) == (2, 0, [])


async def test_a_callback_is_shown_before_anything_came_to_it(scene: Scene) -> None:
    body = CallbackCreate.read({"url": "https://example.com/job_1"})
    made, _ = await endpoints.create_callback(scene.deployment, "job_1", body, tenant="default")
    (endpoint,) = (await status_of(scene)).endpoints
    assert (endpoint.endpoint_id, endpoint.callback, counts(endpoint)) == (made.id, True, {})


async def test_a_job_of_another_tenant_is_not_found(scene: Scene) -> None:
    await scene.publish("job.step", job_id="job_1", tenant="acme")
    await scene.fan_out()
    assert (await status_of(scene, tenant="acme")).last_sequence == 1
    for job_id, tenant in (("job_1", "rival"), ("job_2", "acme")):
        with pytest.raises(NotFound):
            await status_of(scene, job_id, tenant)


async def test_it_takes_a_handful_of_statements_however_many_events_there_are(sqlite_scene: Scene) -> None:
    scene = sqlite_scene
    await scene.endpoint()
    await scene.endpoint()
    for _ in range(30):
        await scene.publish("job.step", job_id="job_1")
    await scene.fan_out()
    await scene.end(await scene.claim(), Outcome.DEAD)
    with statements(scene.deployment.database, "SELECT") as executed:
        await status_of(scene)
    assert len(executed) <= 8
