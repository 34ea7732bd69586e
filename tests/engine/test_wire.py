"""The wire rules that need a whole dispatcher: what every attempt carries, on retries, redeliveries and test events."""

import base64
import hashlib
import hmac
import json
import re

import pytest
from aiohttp import web
from standardwebhooks.webhooks import Webhook as StandardWebhook
from svix.webhooks import Webhook as SvixWebhook

from dispatcher import publish
from dispatcher.engine.test_event import send_test
from dispatcher.states import AttemptError, DeliveryState, Profile
from dispatcher.version import VERSION
from tests.clock import FakeClock
from tests.outpost import Outpost
from tests.receiver import Received, Receiver

TOKENS = re.compile(r"v1,[A-Za-z0-9+/]{43}=( v1,[A-Za-z0-9+/]{43}=)*")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock.of_today()


async def _four_requests(outpost: Outpost, receiver: Receiver, clock: FakeClock, secret: str) -> list[Received]:
    """First attempt, retry, redelivery and test event, at an endpoint with everything that can be set."""
    endpoint = await outpost.endpoint(
        receiver.url("/hook"),
        secret=secret,
        retry_schedule=(5.0,),
        signature_header="X-Agent-Signature",
        signature_prefix="sha256=",
        headers={"X-Api-Key": "k3y"},
    )
    receiver.answers("/hook", 500, 500, 200)
    async with outpost.database.begin() as connection:
        await connection.run_sync(
            lambda sync: publish(
                sync,
                "job.done",
                {"text": "\u2028 ü 1"},
                job_id="job_1",
                traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01",
            )
        )
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
        clock.advance(5)
        await dispatcher.until_idle()
        await outpost.put_back(await outpost.delivery())
        await dispatcher.until_idle()
    tested = await send_test(outpost.deployment, endpoint.row)
    assert (tested.delivered, tested.status, tested.error) == (True, 200, None)
    return receiver.received()


async def test_first_attempts_retries_redeliveries_and_test_events_are_all_signed_and_labelled(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    secret = "a-plain-text-secret-of-theirs"
    requests = await _four_requests(outpost, receiver, clock, secret)
    assert len(requests) == 4
    for request in requests:
        headers = request.headers
        assert request.method == "POST"
        assert headers["content-type"] == "application/json"
        assert headers["user-agent"] == f"dispatcher/{VERSION}"
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,128}", headers["webhook-id"])
        assert re.fullmatch(r"\d{10}", headers["webhook-timestamp"])
        assert TOKENS.fullmatch(headers["webhook-signature"])
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + request.body
        token = base64.b64encode(hmac.new(secret.encode(), signed, hashlib.sha256).digest()).decode()
        assert headers["webhook-signature"] == f"v1,{token}"
        legacy = hmac.new(secret.encode(), request.body, hashlib.sha256).hexdigest()
        assert headers["x-agent-signature"] == f"sha256={legacy}"
        assert headers["x-api-key"] == "k3y"
        body = json.loads(request.body.decode())
        assert body["id"] == headers["webhook-id"]
    *attempts, test = requests
    assert [r.headers["x-delivery-attempt"] for r in attempts] == ["1", "2", "3"]
    assert [r.headers.get("x-delivery-replay") for r in attempts] == [None, None, "true"]
    assert {r.headers["traceparent"] for r in attempts} == {"00-" + "a" * 32 + "-" + "b" * 16 + "-01"}
    assert len({r.body for r in attempts}) == 1
    assert test.type == "webhook.test"
    assert "x-job-previous" not in test.headers


async def test_published_libraries_accept_them_all_and_refuse_a_changed_one(
    sqlite_outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    for request in await _four_requests(sqlite_outpost, receiver, clock, secret):
        for library in (StandardWebhook(secret), SvixWebhook(secret)):
            library.verify(request.body, dict(request.headers))
            with pytest.raises(Exception, match="signature"):
                library.verify(request.body + b" ", dict(request.headers))


async def test_an_event_has_one_id_at_all_its_endpoints_and_each_endpoint_its_own_secret(
    outpost: Outpost, receiver: Receiver
) -> None:
    one, other = await outpost.endpoint(receiver.url("/one")), await outpost.endpoint(receiver.url("/other"))
    await outpost.publish()
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
    ((first,), (second,)) = receiver.received("/one"), receiver.received("/other")
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert one.secret != other.secret
    assert first.headers["webhook-signature"] != second.headers["webhook-signature"]


async def test_a_signature_is_made_when_it_is_sent_not_when_it_was_claimed(
    sqlite_outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    outpost = sqlite_outpost
    endpoint = await outpost.endpoint(receiver.url("/hook"), max_in_flight=1)

    def slow(_: Received) -> web.Response:
        clock.advance(100)
        return web.Response()

    receiver.answers("/hook", slow)
    await outpost.publish("a", "b")
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
    first, second = (int(request.headers["webhook-timestamp"]) for request in receiver.received())
    assert second - first == 100
    for request in receiver.received():
        StandardWebhook(endpoint.secret).verify(request.body, dict(request.headers))


async def test_each_profile_has_its_body_with_the_producers_own_numbers(outpost: Outpost, receiver: Receiver) -> None:
    for profile in Profile:
        await outpost.endpoint(receiver.url(f"/{profile}"), profile=profile)
    await outpost.publish("job.done", job_id="job_1", data='{ "n": 1.50, "type": "mine" }')
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
    bodies = {request.path: request.body for request in receiver.received()}
    assert bodies["/raw"] == b'{"n":1.50,"type":"mine"}'
    assert bodies["/standard"].endswith(b'"job_id":"job_1","sequence":1,"data":{"n":1.50,"type":"mine"}}')
    flat = json.loads(bodies["/flat"])
    assert (flat["type"], flat["event"], flat["job_id"], flat["sequence"]) == ("mine", "job.done", "job_1", 1)


async def test_a_test_event_to_a_dead_receiver_says_so_and_leaves_no_trace(outpost: Outpost) -> None:
    endpoint = await outpost.endpoint("http://127.0.0.1:1024/")
    tested = await send_test(outpost.deployment, endpoint.row)
    assert (tested.delivered, tested.status, tested.error) == (False, None, AttemptError.CONNECTION_REFUSED)
    assert await outpost.count("deliveries") == 0
    assert (await outpost.endpoint_now(endpoint)).failures_in_row == 0


async def test_an_unordered_endpoint_gets_no_previous_number(sqlite_outpost: Outpost, receiver: Receiver) -> None:
    await sqlite_outpost.endpoint(receiver.url("/hook"), ordered=False)
    await sqlite_outpost.publish("a", job_id="job_1")
    async with sqlite_outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
    (request,) = receiver.received()
    assert "x-job-previous" not in request.headers
    assert json.loads(request.body)["sequence"] == 1
    assert (await sqlite_outpost.delivery()).state == DeliveryState.DELIVERED
