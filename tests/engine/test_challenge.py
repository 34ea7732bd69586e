"""Proof of control: where it is demanded, a receiver that has not repeated a challenge is sent nothing else."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web
from sqlalchemy import func, select, update

from dispatcher.engine.challenge import TYPE, challenge_all, repeats
from dispatcher.engine.test_event import send_at_once
from dispatcher.errors import Conflict
from dispatcher.ids import Kind, row_id
from dispatcher.rules.verifying import verify
from dispatcher.service import endpoints
from dispatcher.service.models import ActivateSecret, CallbackCreate, EndpointCreate, EndpointUpdate, RotateSecret
from dispatcher.states import AttemptError, DeliveryState, EndpointStatus, Reason
from dispatcher.store import verification
from dispatcher.store.deployment import Deployment
from dispatcher.store.endpoint_policies import EndpointPolicy
from tests.clock import FakeClock
from tests.outpost import PATIENCE_S, Outpost
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
    assert [request.type for request in receiver.requests] == [TYPE, TYPE, "job.step"]
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
    await endpoints.rotate_secret(deployment, made.id, RotateSecret(stage=True), tenant=None)
    with pytest.raises(Conflict, match="endpoints verify"):
        # It would be tried with a test event.
        await endpoints.activate_secret(deployment, made.id, ActivateSecret(), tenant=None)
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


@pytest.mark.parametrize("proved_before", [False, True])
async def test_what_its_tenant_has_paused_a_proof_does_not_enable(
    demanding: Outpost, receiver: Receiver, proved_before: bool
) -> None:
    for path in ("/hook", "/other"):
        receiver.answers(path, repeat)
    deployment = demanding.deployment
    made = await _registered(demanding, receiver.url("/hook"))
    if proved_before:
        assert (await endpoints.verify(deployment, made.id, tenant=None)).verified
    await endpoints.set_status(deployment, made.id, "pause", tenant=None)
    await endpoints.update(deployment, made.id, EndpointUpdate(url=receiver.url("/other")), tenant=None)
    assert await challenge_all(deployment, [row_id(Kind.ENDPOINT, made.id)])
    proved = await endpoints.get(deployment, made.id, tenant=None)
    assert (proved.status, proved.verified_at is not None) == (EndpointStatus.PAUSED, True)
    resumed = await endpoints.set_status(deployment, made.id, "resume", tenant=None)
    assert resumed.status == EndpointStatus.ENABLED
    # Paused for want of a proof alone, as one that was just registered.
    await endpoints.update(deployment, made.id, EndpointUpdate(url=receiver.url("/hook")), tenant=None)
    await endpoints.update(deployment, made.id, EndpointUpdate(url=receiver.url("/other")), tenant=None)
    assert (await endpoints.verify(deployment, made.id, tenant=None)).verified
    assert (await endpoints.get(deployment, made.id, tenant=None)).status == EndpointStatus.ENABLED


async def test_one_that_is_disabled_is_proved_and_then_enabled_by_who_disabled_it(
    demanding: Outpost, receiver: Receiver
) -> None:
    receiver.answers("/hook", repeat)
    deployment = demanding.deployment
    made = await _registered(demanding, receiver.url("/hook"))
    await endpoints.set_status(deployment, made.id, "disable", tenant=None)
    with pytest.raises(Conflict) as refused:
        await endpoints.set_status(deployment, made.id, "enable", tenant=None)
    assert "verify`) asks again; once it has answered the challenge, enable it" in str(refused.value)
    assert (await endpoints.verify(deployment, made.id, tenant=None)).verified
    assert (await endpoints.get(deployment, made.id, tenant=None)).status == EndpointStatus.DISABLED
    enabled = await endpoints.set_status(deployment, made.id, "enable", tenant=None)
    assert enabled.status == EndpointStatus.ENABLED


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


async def test_receivers_that_take_their_time_hold_few_connections(
    demanding: Outpost, receiver: Receiver, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.engine.challenging.CHALLENGED_AT_ONCE", 2)
    released = asyncio.Event()

    async def slow(request: Received) -> web.StreamResponse:
        await released.wait()
        return await repeat(request)

    made = []
    for n in range(3):
        receiver.answers(f"/{n}", slow)
        made.append(await _registered(demanding, receiver.url(f"/{n}")))
    async with demanding.dispatcher() as dispatcher:
        for _ in range(3):
            clock.advance(1.1)
            await dispatcher.run_duties()
        assert len(await receiver.wait_for(2)) == 2
        async with demanding.database.read() as connection:
            assert await connection.scalar(select(func.sum(demanding.tables.endpoints.c.challenges))) == 2
        released.set()
        async with asyncio.timeout(PATIENCE_S):
            while not (await endpoints.get(demanding.deployment, made[2].id, tenant=None)).verified_at:
                clock.advance(1.1)
                await dispatcher.run_duties()


async def test_a_challenge_that_fails_inside_stops_no_other(
    demanding: Outpost, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.answers("/good", repeat)
    bad, good = [
        row_id(Kind.ENDPOINT, (await _registered(demanding, receiver.url(path))).id) for path in ("/bad", "/good")
    ]

    async def fail_for_one(deployment: Deployment, policy: EndpointPolicy, *rest: Any) -> Any:
        if policy.endpoint_row == bad:
            raise OSError(24, "Too many open files")
        return await send_at_once(deployment, policy, *rest)

    monkeypatch.setattr("dispatcher.engine.challenge.send_at_once", fail_for_one)
    assert await challenge_all(demanding.deployment, [bad, good])


async def test_a_challenge_waits_no_longer_than_the_settings_say(demanding: Outpost, receiver: Receiver) -> None:
    asked_enough = asyncio.Event()

    async def late(request: Received) -> web.StreamResponse:
        await asked_enough.wait()
        return await repeat(request)

    receiver.answers("/hook", late)
    body = EndpointCreate(url=receiver.url("/hook"), timeout_s=300)
    made, _ = await endpoints.create(demanding.deployment, body, tenant="default")
    settings = demanding.settings.model_copy(update={"timeout": timedelta(seconds=0.2)})
    result = await endpoints.verify(replace(demanding.deployment, settings=settings), made.id, tenant=None)
    asked_enough.set()
    assert (result.verified, result.error) == (False, AttemptError.TIMEOUT)


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
        (r'{"challenge": "\ud800"}', False),
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
