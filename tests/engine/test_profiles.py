"""Profiles of other standards over the wire: content types, headers, the same bytes whatever the settings become."""

import pytest
from a2a.types import StreamResponse, TaskState
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from google.protobuf.json_format import Parse

from dispatcher import publish, verify
from dispatcher.engine.test_event import send_test
from dispatcher.states import Profile
from tests.clock import FakeClock
from tests.outpost import Outpost
from tests.receiver import Received, Receiver

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock.of_today()


async def _publish(outpost: Outpost) -> None:
    async with outpost.database.begin() as connection:
        await connection.run_sync(
            lambda sync: publish(sync, "job.completed", {"n": 1.5}, job_id="Jöb 1", traceparent=TRACE)
        )


def _attributes(request: Received) -> dict[str, str]:
    return {name.lower(): value for name, value in request.headers.items() if name.lower().startswith("ce-")}


@pytest.mark.parametrize("profile", ["cloudevents", "cloudevents-binary"])
async def test_a_cloud_event_is_the_same_on_every_attempt_though_the_source_changes(
    outpost: Outpost, receiver: Receiver, clock: FakeClock, profile: str
) -> None:
    endpoint = await outpost.endpoint(receiver.url("/"), profile=Profile(profile), retry_schedule=(5.0,))
    receiver.answers("/", 500, 200)
    await _publish(outpost)
    async with outpost.dispatcher(source="/before") as dispatcher:
        await dispatcher.until_idle()
    clock.advance(5)
    async with outpost.dispatcher(source="/after") as dispatcher:
        await dispatcher.until_idle()
        await outpost.put_back(await outpost.delivery())
        await dispatcher.until_idle()
    requests = receiver.received()
    assert len(requests) == 3
    for request in requests:
        verify(request.body, request.headers, endpoint.secret)
        event = from_http_event(HTTPMessage(dict(request.headers), request.body))
        assert (event.get_source(), event.get_subject(), event.get_data()) == ("/before", "Jöb 1", {"n": 1.5})
        assert event.get_id() == request.headers["webhook-id"]
        assert event.get_extension("traceparent") == request.headers["traceparent"] == TRACE
    assert len({request.body for request in requests}) == 1
    assert _attributes(requests[0]) == _attributes(requests[1]) == _attributes(requests[2])
    assert (_attributes(requests[0]) == {}) == (profile == "cloudevents")


@pytest.mark.parametrize(
    ("profile", "content_type"),
    [
        ("standard", "application/json"),
        ("a2a-1.0", "application/a2a+json"),
        ("cloudevents", "application/cloudevents+json"),
        ("cloudevents-binary", "application/json"),
    ],
)
async def test_each_body_has_its_content_type_also_as_a_test_event(
    sqlite_outpost: Outpost, receiver: Receiver, profile: str, content_type: str
) -> None:
    endpoint = await sqlite_outpost.endpoint(receiver.url("/"), profile=Profile(profile))
    await _publish(sqlite_outpost)
    async with sqlite_outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
    assert (await send_test(sqlite_outpost.deployment, endpoint.row)).delivered
    assert [request.headers["content-type"] for request in receiver.received()] == [content_type] * 2


async def test_an_a2a_receiver_gets_its_token_its_authorization_and_a_stream_response(
    outpost: Outpost, receiver: Receiver
) -> None:
    endpoint = await outpost.endpoint(
        receiver.url("/"),
        profile=Profile.A2A_1_0,
        headers={"Authorization": "Bearer s3cret", "X-A2A-Notification-Token": "t0ken"},
    )
    await _publish(outpost)
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
    [request] = receiver.received()
    verify(request.body, request.headers, endpoint.secret)
    assert request.headers["authorization"] == "Bearer s3cret"
    assert request.headers["x-a2a-notification-token"] == "t0ken"
    update = Parse(request.body, StreamResponse()).status_update
    assert (update.task_id, update.status.state) == ("Jöb 1", TaskState.TASK_STATE_COMPLETED)
