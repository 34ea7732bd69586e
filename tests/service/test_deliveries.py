"""Deliveries through the service: every attempt is shown, secrets are not, and each move is guarded by the state."""

from collections.abc import Awaitable

import pytest

from dispatcher.errors import Conflict, InvalidField, NotFound
from dispatcher.rules.verdict import Outcome
from dispatcher.service import dead_letters, deliveries, endpoints
from dispatcher.states import AttemptError, DeliveryState, Reason
from dispatcher.version import USER_AGENT
from tests.service.scene import Scene


async def test_a_delivery_shows_each_attempt_and_what_it_sent(scene: Scene) -> None:
    await scene.endpoint(headers={"X-Api-Key": "k3y"}, signature_header="X-Agent-Signature")
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    accepted = await scene.publish(job_id="job_1", traceparent=trace)
    await scene.fan_out()
    await scene.end(await scene.claim(), Outcome.DEAD)
    (listed,) = await scene.deliveries()
    assert (listed.state, listed.reason, listed.attempts) == (DeliveryState.DEAD, Reason.EXHAUSTED, 1)
    assert (listed.last_status, listed.last_error, listed.sequence) == (500, AttemptError.HTTP_STATUS, 1)
    shown = await deliveries.get(scene.deployment, listed.id, tenant="default")
    (attempt,) = shown.attempt_log
    assert shown.model_dump(exclude={"attempt_log"}) == listed.model_dump()
    assert attempt.model_dump(exclude={"id", "request_headers"}) == {
        "number": 1,
        "started_at": "2026-01-01T12:00:00Z",
        "duration_ms": 12.5,
        "status": 500,
        "error": "http_status",
        "response_excerpt": "no",
    }
    assert attempt.id.startswith("att_")
    assert attempt.request_headers == {
        "X-Api-Key": "***",
        "X-Agent-Signature": "***",
        "content-type": "application/json",
        "user-agent": USER_AGENT,
        "webhook-id": accepted.id,
        "webhook-timestamp": "1767268800",
        "webhook-signature": "***",
        "x-delivery-attempt": "1",
        "x-job-previous": "0",
        "traceparent": trace,
    }


async def test_a_redelivery_is_a_new_round_whose_attempt_numbers_go_on(scene: Scene) -> None:
    await scene.endpoint()
    await scene.publish()
    await scene.die()
    (dead,) = await scene.deliveries()
    again = await deliveries.redeliver(scene.deployment, dead.id, tenant="default")
    assert (again.id, again.state, again.reason, again.attempts) == (dead.id, DeliveryState.PENDING, None, 1)
    letters = await dead_letters.list_page(scene.deployment, tenant=None)
    assert [letter.redelivered_at for letter in letters.data] == [scene.clock.now()]
    await scene.end(await scene.claim(), Outcome.DELIVERED)
    shown = await deliveries.get(scene.deployment, dead.id, tenant=None)
    assert (shown.state, [attempt.number for attempt in shown.attempt_log]) == (DeliveryState.DELIVERED, [1, 2])
    assert len({attempt.id for attempt in shown.attempt_log}) == 2


async def test_nothing_is_redelivered_or_cancelled_while_it_is_sending(scene: Scene) -> None:
    await scene.endpoint()
    await scene.publish()
    await scene.fan_out()
    await scene.claim()
    (sending,) = await scene.deliveries()
    for call in (deliveries.redeliver, deliveries.cancel):
        with pytest.raises(Conflict, match=r"sending|being sent"):
            await call(scene.deployment, sending.id, tenant=None)
    assert [one.state for one in await scene.deliveries()] == [DeliveryState.SENDING]


async def test_a_retry_that_is_due_later_is_due_at_once_when_it_is_redelivered(scene: Scene) -> None:
    await scene.endpoint()
    await scene.publish()
    await scene.fan_out()
    await scene.end(await scene.claim(), Outcome.RETRY)
    (waiting,) = await scene.deliveries()
    assert waiting.due_at is not None
    assert await scene.claim() == []
    hurried = await deliveries.redeliver(scene.deployment, waiting.id, tenant=None)
    assert (hurried.state, hurried.due_at) == (DeliveryState.PENDING, None)
    assert [one.failures for one in await scene.claim()] == [0]


async def test_a_redelivery_to_a_disabled_endpoint_is_refused_with_the_way_on(scene: Scene) -> None:
    endpoint = await scene.endpoint()
    await scene.publish()
    await scene.die()
    (dead,) = await scene.deliveries()
    await endpoints.set_status(scene.deployment, endpoint.id, "disable", tenant=None)
    with pytest.raises(Conflict, match="enable it"):
        await deliveries.redeliver(scene.deployment, dead.id, tenant=None)
    await endpoints.set_status(scene.deployment, endpoint.id, "enable", tenant=None)
    await deliveries.redeliver(scene.deployment, dead.id, tenant=None)
    assert [one.state for one in await scene.deliveries()] == [DeliveryState.PENDING]


async def test_only_what_is_pending_is_cancelled(sqlite_scene: Scene) -> None:
    await sqlite_scene.endpoint()
    await sqlite_scene.publish()
    await sqlite_scene.fan_out()
    (pending,) = await sqlite_scene.deliveries()
    cancelled = await deliveries.cancel(sqlite_scene.deployment, pending.id, tenant="default")
    assert (cancelled.state, cancelled.reason) == (DeliveryState.CANCELLED, Reason.OPERATOR)
    with pytest.raises(Conflict, match="is cancelled; only what is pending"):
        await deliveries.cancel(sqlite_scene.deployment, pending.id, tenant="default")


async def test_lists_filter_by_state_endpoint_event_and_job(scene: Scene) -> None:
    first, second = await scene.endpoint(event_types=["a"]), await scene.endpoint(event_types=["b"])
    a = await scene.publish("a", job_id="job_1")
    await scene.die()
    await scene.publish("b", job_id="job_2")
    await scene.fan_out()
    (dead,) = await scene.deliveries(state="dead")
    (pending,) = await scene.deliveries(state="pending")
    assert (dead.endpoint_id, pending.endpoint_id) == (first.id, second.id)
    assert await scene.deliveries(endpoint_id=first.id) == [dead]
    assert await scene.deliveries(event_id=a.id) == [dead]
    assert await scene.deliveries(job_id="job_2") == [pending]
    assert await scene.deliveries(job_id="job_2", state="dead") == []
    with pytest.raises(InvalidField, match="endpoint_id"):
        await scene.deliveries(endpoint_id="dlv_0123456789abc")


async def test_another_tenants_delivery_is_not_found(scene: Scene) -> None:
    await scene.endpoint(tenant="acme")
    accepted = await scene.publish(tenant="acme", job_id="job_1")
    await scene.die()
    (theirs,) = await scene.deliveries()
    calls: tuple[Awaitable[object], ...] = (
        deliveries.get(scene.deployment, theirs.id, tenant="evil"),
        deliveries.redeliver(scene.deployment, theirs.id, tenant="evil"),
        deliveries.cancel(scene.deployment, theirs.id, tenant="evil"),
    )
    for call in calls:
        with pytest.raises(NotFound):
            await call
    assert (await deliveries.list_page(scene.deployment, tenant="evil")).data == []
    assert (await deliveries.list_page(scene.deployment, tenant="evil", event_id=accepted.id)).data == []
    assert (await deliveries.list_page(scene.deployment, tenant="evil", job_id="job_1")).data == []
    assert (await deliveries.list_page(scene.deployment, tenant="evil", endpoint_id=theirs.endpoint_id)).data == []
