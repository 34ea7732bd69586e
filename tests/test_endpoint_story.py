"""An endpoint's life as stories, on both databases: its secret changes, it pauses, asks for time, and is gone."""

from datetime import timedelta
from email.utils import format_datetime

import pytest
from aiohttp import web
from standardwebhooks.webhooks import Webhook as StandardWebhook

from dispatcher import verify
from dispatcher.service import endpoint_changes, endpoints, secret_rotation
from dispatcher.service.models import RotateSecret
from dispatcher.states import DeliveryState, EndpointStatus, Reason
from tests.clock import FakeClock
from tests.outpost import Outpost
from tests.receiver import Receiver


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock.of_today()


async def test_during_a_rotation_both_secrets_sign_and_afterwards_only_the_new_one(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    old = await outpost.endpoint(receiver.url("/hook"), signature_header="X-Agent-Signature")
    body = RotateSecret.read({"overlap_s": 60})
    async with outpost.dispatcher() as dispatcher:
        await outpost.publish("before")
        await dispatcher.until_idle()
        new = await secret_rotation.rotate_secret(outpost.deployment, old.id, body, tenant=None)
        await outpost.publish("during")
        await dispatcher.until_idle()
        clock.advance(60)
        await outpost.publish("after")
        await dispatcher.until_idle()
    before, during, after = receiver.received()
    assert [len(r.headers["webhook-signature"].split(" ")) for r in (before, during, after)] == [1, 2, 1]
    for request, secret in ((before, old.secret), (during, old.secret), (during, new.secret), (after, new.secret)):
        StandardWebhook(secret).verify(request.body, dict(request.headers))
    for request, secret in ((before, old.secret), (during, old.secret), (after, new.secret)):
        verify(request.body, request.headers, secret, header="X-Agent-Signature")
    newest_first = during.headers["webhook-signature"].split(" ")[0]
    StandardWebhook(new.secret).verify(during.body, {**dict(during.headers), "webhook-signature": newest_first})


async def test_a_paused_endpoint_keeps_its_events_and_a_disabled_one_loses_them(
    outpost: Outpost, receiver: Receiver
) -> None:
    endpoint = await outpost.endpoint(receiver.url("/hook"))

    async def set_status(action: endpoint_changes.Action) -> None:
        await endpoint_changes.set_status(outpost.deployment, endpoint.id, action, tenant=None)

    async with outpost.dispatcher() as dispatcher:
        await set_status("pause")
        await outpost.publish("while.paused")
        await dispatcher.until_idle()
        assert not receiver.received()
        await set_status("resume")
        await dispatcher.until_idle()
        assert [request.type for request in receiver.received()] == ["while.paused"]
        await set_status("pause")
        await outpost.publish("kept", "kept")
        await dispatcher.until_idle()
        await set_status("disable")
        await outpost.publish("while.disabled")
        await dispatcher.until_idle()
        await set_status("enable")
        await outpost.publish("enabled.again")
        await dispatcher.until_idle()
    assert [request.type for request in receiver.received()] == ["while.paused", "enabled.again"]
    ended = [(row.state, row.reason) for row in await outpost.deliveries()]
    assert ended == [
        (DeliveryState.DELIVERED, None),
        (DeliveryState.CANCELLED, Reason.OPERATOR),
        (DeliveryState.CANCELLED, Reason.OPERATOR),
        (DeliveryState.DELIVERED, None),
    ]


async def test_an_endpoint_that_answers_410_is_disabled_and_what_waits_for_it_cancelled(
    outpost: Outpost, receiver: Receiver
) -> None:
    endpoint = await outpost.endpoint(receiver.url("/hook"), max_in_flight=1)
    receiver.answers("/hook", 410)
    await outpost.publish("a", "b", "c")
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
        await outpost.publish("later")
        await dispatcher.until_idle()
    assert len(receiver.received()) == 1
    known = await outpost.endpoint_now(endpoint)
    assert (known.status, known.disabled_reason) == (EndpointStatus.DISABLED, Reason.GONE)
    rows = await outpost.deliveries()
    assert [(row.state, row.reason) for row in rows] == [(DeliveryState.DEAD, Reason.GONE)] + [
        (DeliveryState.CANCELLED, Reason.GONE)
    ] * 2
    (letter,) = await outpost.letters()
    assert (letter.reason, letter.last_status) == (Reason.GONE, 410)
    shown = await endpoints.get(outpost.deployment, endpoint.id, tenant=None)
    assert shown.event_types == ["*"]


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_retry_after_leaves_the_whole_endpoint_alone_for_so_long(
    outpost: Outpost, receiver: Receiver, clock: FakeClock, form: str
) -> None:
    await outpost.endpoint(receiver.url("/hook"), retry_schedule=(5.0,), max_in_flight=1)
    value = "120" if form == "seconds" else format_datetime(clock.now() + timedelta(seconds=120), usegmt=True)
    receiver.answers("/hook", lambda _: web.Response(status=503, headers={"Retry-After": value}), 200)
    await outpost.publish("first", "second")
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
        assert [request.type for request in receiver.received()] == ["first"]
        for seconds, count in ((119, 1), (1, 3)):
            clock.advance(seconds)
            await dispatcher.until_idle()
            assert len(receiver.received()) == count
    assert sorted(request.type for request in receiver.received()) == ["first", "first", "second"]
