"""What goes over the wire, whichever endpoint it goes to: the rules R1 to R22 that no single module keeps alone."""

import json
import re

import pytest
from standardwebhooks.webhooks import Webhook as StandardWebhook
from standardwebhooks.webhooks import WebhookVerificationError
from svix.webhooks import Webhook as SvixWebhook

from dispatcher.engine.test_event import send_test
from dispatcher.rules.verifying import verify
from dispatcher.service import secret_rotation
from dispatcher.service.models import RotateSecret
from dispatcher.states import Profile
from tests.clock import FakeClock
from tests.outpost import Outpost
from tests.receiver import Received, Receiver

#: One or more `version,base64`, joined by exactly one space.
SIGNATURES = re.compile(r"v1,[A-Za-z0-9+/]{43}=(?: v1,[A-Za-z0-9+/]{43}=)*")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock.of_today()


def _check(request: Received, secret: str) -> None:
    for library in (StandardWebhook(secret), SvixWebhook(secret)):
        library.verify(request.body, dict(request.headers))


async def test_two_endpoints_get_the_same_id_each_signed_with_its_own_secret(
    outpost: Outpost, receiver: Receiver
) -> None:
    one, other = await outpost.endpoint(receiver.url("/one")), await outpost.endpoint(receiver.url("/other"))
    await outpost.publish("job.completed")
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
    (here,), (there,) = receiver.received("/one"), receiver.received("/other")
    assert here.headers["webhook-id"] == there.headers["webhook-id"]
    assert here.body == there.body
    _check(here, one.secret)
    _check(there, other.secret)
    with pytest.raises(WebhookVerificationError):
        StandardWebhook(other.secret).verify(here.body, dict(here.headers))


async def test_the_signature_header_is_one_token_and_a_legacy_one_stands_beside_it(
    sqlite_outpost: Outpost, receiver: Receiver
) -> None:
    endpoint = await sqlite_outpost.endpoint(
        receiver.url("/"), secret="s3cret-text", signature_header="X-Hub-Signature-256", signature_prefix="sha256="
    )
    await sqlite_outpost.publish("job.completed")
    async with sqlite_outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
    (request,) = receiver.received()
    assert (request.method, request.headers["content-type"]) == ("POST", "application/json")
    assert SIGNATURES.fullmatch(request.headers["webhook-signature"])
    assert " " not in request.headers["webhook-signature"]
    assert request.headers["webhook-timestamp"] == str(int(sqlite_outpost.clock.now().timestamp()))
    verify(request.body, request.headers, endpoint.secret)
    verify(request.body, request.headers, endpoint.secret, header="X-Hub-Signature-256")


async def test_tokens_of_a_rotation_are_joined_by_one_space(sqlite_outpost: Outpost, receiver: Receiver) -> None:
    endpoint = await sqlite_outpost.endpoint(receiver.url("/"))
    keep = RotateSecret.read({"secret": "the-next-one", "overlap_s": 60})
    await secret_rotation.rotate_secret(sqlite_outpost.deployment, endpoint.id, keep, tenant=None)
    await sqlite_outpost.publish("job.completed")
    async with sqlite_outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
    (request,) = receiver.received()
    assert SIGNATURES.fullmatch(request.headers["webhook-signature"])
    assert request.headers["webhook-signature"].count(" ") == 1


@pytest.mark.parametrize("profile", list(Profile))
async def test_a_test_event_is_signed_like_any_other(
    sqlite_outpost: Outpost, receiver: Receiver, profile: Profile
) -> None:
    endpoint = await sqlite_outpost.endpoint(receiver.url("/"), profile=profile)
    assert (await send_test(sqlite_outpost.deployment, endpoint.row)).delivered
    (request,) = receiver.received()
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,128}", request.headers["webhook-id"])
    assert isinstance(json.loads(request.body), dict)
    _check(request, endpoint.secret)


async def test_types_are_filtered_exactly_at_the_sender(outpost: Outpost, receiver: Receiver) -> None:
    await outpost.endpoint(receiver.url("/exact"), event_types=("job.done",))
    await outpost.endpoint(receiver.url("/below"), event_types=("job.*",))
    await outpost.endpoint(receiver.url("/twice"), event_types=("job.*", "*", "job.done"))
    types = ("job", "job.done", "job.done.late", "Job.done", "jobs.done")
    await outpost.publish(*types)
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()

    def sent(path: str) -> list[str]:
        return sorted(request.type for request in receiver.received(path))

    assert sent("/exact") == ["job.done"]
    assert sent("/below") == ["job.done", "job.done.late"]
    assert sent("/twice") == sorted(types)
