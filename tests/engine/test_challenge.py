"""Proof of control: where it is demanded, a receiver that has not repeated a challenge is sent nothing else."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from sqlalchemy import update

from dispatcher.engine.challenge import TYPE, repeats
from dispatcher.errors import Conflict
from dispatcher.ids import Kind, public_id
from dispatcher.rules.verifying import verify
from dispatcher.service import endpoints
from dispatcher.service.models import CallbackCreate, EndpointCreate, EndpointUpdate
from dispatcher.states import DeliveryState, EndpointStatus, Reason
from dispatcher.store import verification
from tests.clock import FakeClock
from tests.outpost import Outpost
from tests.receiver import Received, Receiver

VERIFIED = "SELECT 1 FROM endpoints WHERE verified_at IS NOT NULL AND status = 'enabled'"


@pytest.fixture
async def demanding(database_url: str, clock: FakeClock) -> AsyncIterator[Outpost]:
    """A deployment that demands proof; the test runs on each database."""
    opened = Outpost(database_url, clock, verify_endpoints=True)
    yield opened
    await opened.close()


async def repeat(request: Received) -> web.StreamResponse:
    """A receiver that answers challenges, and takes everything else."""
    body = json.loads(request.body)
    challenge = body["data"].get("challenge")
    return web.json_response({"challenge": challenge} if challenge else {})


async def _registered(outpost: Outpost, url: str) -> Any:
    made, _ = await endpoints.create(outpost.deployment, EndpointCreate(url=url), tenant="default")
    return made


async def test_nothing_is_sent_before_the_challenge_is_repeated_and_everything_after_it(
    demanding: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    receiver.answers("/hook", 200)
    made = await _registered(demanding, receiver.url("/hook"))
    assert (made.status, made.verified_at) == (EndpointStatus.PAUSED, None)
    await demanding.publish("job.step")
    async with demanding.dispatcher() as dispatcher:
        await dispatcher.run_duties()
        await receiver.wait_for(1)
        await dispatcher.until_idle()
        assert (await demanding.delivery()).state == DeliveryState.PENDING
        # A 2xx alone proves nothing, so it is asked again.
        receiver.answers("/hook", repeat)
        clock.advance(verification.FIRST_S + 1)
        await dispatcher.run_duties()
        await demanding.sees(VERIFIED)
        await receiver.wait_for(3)
        await dispatcher.until_idle()
    assert (await demanding.delivery()).state == DeliveryState.DELIVERED
    asked, asked_again, sent = receiver.requests
    verify(asked.body, asked.headers, made.secret, now=float(asked.headers["webhook-timestamp"]))
    assert [json.loads(request.body)["type"] for request in receiver.requests] == [TYPE, TYPE, "job.step"]
    assert json.loads(asked.body)["data"]["challenge"] != json.loads(asked_again.body)["data"]["challenge"]
    shown = await endpoints.get(demanding.deployment, made.id, tenant=None)
    assert (shown.status, shown.verified_at is not None) == (EndpointStatus.ENABLED, True)
    assert sent.headers["webhook-id"]


async def test_no_call_gets_round_the_proof(demanding: Outpost, receiver: Receiver) -> None:
    receiver.answers("/hook", 204)
    deployment = demanding.deployment
    made = await _registered(demanding, receiver.url("/hook"))
    actions: tuple[endpoints.Action, ...] = ("resume", "enable")
    for action in actions:
        with pytest.raises(Conflict, match="endpoints verify"):
            await endpoints.set_status(deployment, made.id, action, tenant=None)
    with pytest.raises(Conflict, match="endpoints verify"):
        await endpoints.send_test(deployment, made.id, tenant=None)
    assert not receiver.requests
    result = await endpoints.verify(deployment, made.id, tenant=None)
    assert (result.verified, result.verified_at, result.status) == (False, None, 204)
    await endpoints.set_status(deployment, made.id, "disable", tenant=None)
    with pytest.raises(Conflict, match="endpoints verify"):
        await endpoints.set_status(deployment, made.id, "enable", tenant=None)


async def test_a_proof_on_demand_enables_and_another_url_needs_another(demanding: Outpost, receiver: Receiver) -> None:
    receiver.answers("/hook", repeat)
    deployment = demanding.deployment
    made = await _registered(demanding, receiver.url("/hook"))
    assert (await endpoints.verify(deployment, made.id, tenant=None)).verified
    enabled = await endpoints.get(deployment, made.id, tenant=None)
    assert (enabled.status, enabled.verified_at is not None) == (EndpointStatus.ENABLED, True)
    same = await endpoints.update(deployment, made.id, EndpointUpdate(url=receiver.url("/hook")), tenant=None)
    assert (same.status, same.verified_at) == (EndpointStatus.ENABLED, enabled.verified_at)
    # Who paused it has their reasons.
    await endpoints.set_status(deployment, made.id, "pause", tenant=None)
    assert (await endpoints.verify(deployment, made.id, tenant=None)).verified
    assert (await endpoints.get(deployment, made.id, tenant=None)).status == EndpointStatus.PAUSED
    await endpoints.set_status(deployment, made.id, "resume", tenant=None)
    moved = await endpoints.update(deployment, made.id, EndpointUpdate(url=receiver.url("/other")), tenant=None)
    assert (moved.status, moved.verified_at) == (EndpointStatus.PAUSED, None)


async def test_a_url_that_changed_during_its_challenge_has_proved_nothing(
    demanding: Outpost, receiver: Receiver
) -> None:
    deployment = demanding.deployment
    made = await _registered(demanding, receiver.url("/hook"))

    async def change_first(request: Received) -> web.StreamResponse:
        await endpoints.update(deployment, made.id, EndpointUpdate(url=receiver.url("/other")), tenant=None)
        return await repeat(request)

    receiver.answers("/hook", change_first)
    assert not (await endpoints.verify(deployment, made.id, tenant=None)).verified
    assert (await endpoints.get(deployment, made.id, tenant=None)).verified_at is None


async def test_a_callback_that_never_proves_it_is_disabled_and_what_waited_cancelled(
    demanding: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    receiver.answers("/hook", 404)
    made, _ = await endpoints.create_callback(
        demanding.deployment, "job_1", CallbackCreate(url=receiver.url("/hook")), tenant="default"
    )
    await demanding.publish("job.step", job_id="job_1")
    async with demanding.dispatcher() as dispatcher:
        await dispatcher.until_idle()
        rows = demanding.tables.endpoints
        async with demanding.database.begin() as connection:
            await connection.execute(update(rows).values(challenges=verification.CHALLENGES))
        clock.advance(verification.LONGEST_S + 1)
        await dispatcher.run_duties()
        await demanding.sees("SELECT 1 FROM endpoints WHERE disabled_reason = 'expired'")
        await demanding.sees("SELECT 1 FROM deliveries WHERE state = 'cancelled'")
    assert (await demanding.delivery()).reason == Reason.EXPIRED
    assert (await endpoints.get(demanding.deployment, made.id, tenant=None)).verified_at is None


async def test_one_destination_is_challenged_by_few_at_once_and_keeps_nobody_waiting(demanding: Outpost) -> None:
    for n in range(verification.AT_ONCE):
        await _registered(demanding, f"http://127.0.0.1:8000/{n}")
    late = await _registered(demanding, "http://127.0.0.1:8001/")
    async with demanding.database.begin() as connection:
        first = await verification.take_due(connection, demanding.database)
        again = await verification.take_due(connection, demanding.database)
    assert len(first.challenge) == verification.AT_ONE_DESTINATION + 1
    assert late.id in {public_id(Kind.ENDPOINT, row) for row in first.challenge}
    assert not set(first.challenge) & set(again.challenge)


async def test_who_asks_again_and_again_makes_us_send_no_more_than_strangers_may(
    demanding: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    made = [await _registered(demanding, receiver.url(f"/{n}")) for n in range(3)]
    allowed = int(demanding.settings.unverified_rate)

    async def ask() -> bool:
        try:
            await endpoints.verify(demanding.deployment, made[len(receiver.requests) % 3].id, tenant=None)
        except Conflict:
            return False
        return True

    assert [await ask() for _ in range(allowed + 3)] == [True] * allowed + [False] * 3
    clock.advance(0.25)
    assert [await ask() for _ in range(4)] == [True, True, False, False]
    assert len(receiver.requests) == allowed + 2


@pytest.mark.parametrize(
    ("answer", "good"),
    [
        ("s3cret", True),
        (" s3cret\n", True),
        ('{"challenge": "s3cret"}', True),
        ("", False),
        ("s3cret s3cret", False),
        ("other", False),
        ('"s3cret"', False),
        ('{"challenge": "other"}', False),
        ('{"challenge": "s3cret", "type": "webhook.verify"}', False),
        ('{"data": {"challenge": "s3cret"}}', False),
        ('{"challenge": ["s3cret"]}', False),
        ('{"challenge": s3cret}', False),
        ("{" * 1000, False),
        ("é", False),
    ],
)
def test_an_answer_repeats_the_challenge_alone_or_proves_nothing(answer: str, good: bool) -> None:
    assert repeats(answer, "s3cret") is good


async def test_where_nobody_demands_it_an_endpoint_is_sent_to_at_once(outpost: Outpost, receiver: Receiver) -> None:
    receiver.answers("/hook", repeat)
    made = await _registered(outpost, receiver.url("/hook"))
    assert (made.status, made.verified_at) == (EndpointStatus.ENABLED, None)
    await endpoints.set_status(outpost.deployment, made.id, "pause", tenant=None)
    # It may be asked all the same; that resumes nothing.
    assert (await endpoints.verify(outpost.deployment, made.id, tenant=None)).verified
    assert (await endpoints.get(outpost.deployment, made.id, tenant=None)).status == EndpointStatus.PAUSED
