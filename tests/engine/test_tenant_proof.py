"""Proof of control by tenant: an operator makes one stricter than the deployment, or lets one do without."""

import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from dispatcher.engine.challenge import TYPE
from dispatcher.errors import Conflict
from dispatcher.service import endpoints, quotas
from dispatcher.service.models import CallbackCreate, Endpoint, EndpointCreate, EndpointUpdate, TenantQuotaUpdate
from dispatcher.states import EndpointStatus
from tests.clock import FakeClock
from tests.outpost import Outpost
from tests.receiver import Received, Receiver

WAITS = (EndpointStatus.PAUSED, None, True)
GOES = (EndpointStatus.ENABLED, None, False)


@pytest.fixture
async def demanding(database_url: str, clock: FakeClock) -> AsyncIterator[Outpost]:
    """A deployment that demands proof; the test runs on each database."""
    opened = Outpost(database_url, clock, verify_endpoints=True)
    yield opened
    await opened.close()


async def repeat(request: Received) -> web.StreamResponse:
    """A receiver that answers challenges, and takes everything else."""
    challenge = json.loads(request.body)["data"].get("challenge")
    return web.json_response({"challenge": challenge} if challenge else {})


async def _rule(outpost: Outpost, verify_endpoints: bool | None, tenant: str = "acme") -> None:
    await quotas.update(outpost.deployment, tenant, TenantQuotaUpdate(verify_endpoints=verify_endpoints))


async def _registered(outpost: Outpost, url: str, tenant: str = "acme") -> Endpoint:
    made, _ = await endpoints.create(outpost.deployment, EndpointCreate(url=url), tenant=tenant)
    return made


async def _stands(outpost: Outpost) -> dict[str, tuple[object, object, bool]]:
    """Per path: status, proof, and whether it is challenged by itself."""
    return {
        row.url_shown.rsplit("/", 1)[1]: (row.status, row.verified_at, row.challenge_due_at is not None)
        for row in await outpost.rows("endpoints")
    }


async def test_a_tenant_may_have_to_prove_it_where_the_deployment_does_not_ask(
    outpost: Outpost, receiver: Receiver
) -> None:
    receiver.answers("/hook", repeat)
    await _rule(outpost, True)
    made = await _registered(outpost, receiver.url("/hook"))
    await _registered(outpost, receiver.url("/rival"), tenant="rival")
    assert await _stands(outpost) == {"hook": WAITS, "rival": GOES}
    await outpost.publish("job.step", tenant="acme")
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.run_duties()
        await receiver.wait_for(2)
        await dispatcher.until_idle()
    assert [json.loads(request.body)["type"] for request in receiver.requests] == [TYPE, "job.step"]
    proved = await endpoints.get(outpost.deployment, made.id, tenant=None)
    assert (proved.status, proved.verified_at is not None) == (EndpointStatus.ENABLED, True)
    moved = await endpoints.update(
        outpost.deployment, made.id, EndpointUpdate(url=receiver.url("/other")), tenant="acme"
    )
    assert (moved.status, moved.verified_at) == (EndpointStatus.PAUSED, None)


async def test_callbacks_of_jobs_go_by_their_tenants_rule(outpost: Outpost, receiver: Receiver) -> None:
    await _rule(outpost, True)
    for tenant in ("acme", "rival"):
        body = CallbackCreate(url=receiver.url(f"/{tenant}"))
        await endpoints.create_callback(outpost.deployment, "job_1", body, tenant=tenant)
    assert await _stands(outpost) == {"acme": WAITS, "rival": GOES}


async def test_a_tenant_may_do_without_where_the_deployment_asks(demanding: Outpost, receiver: Receiver) -> None:
    receiver.answers("/other", repeat)
    await _rule(demanding, False)
    trusted = await _registered(demanding, receiver.url("/hook"))
    await _registered(demanding, receiver.url("/rival"), tenant="rival")
    assert await _stands(demanding) == {"hook": GOES, "rival": WAITS}
    await endpoints.update(demanding.deployment, trusted.id, EndpointUpdate(url=receiver.url("/other")), tenant=None)
    assert await _stands(demanding) == {"other": GOES, "rival": WAITS}
    assert (await endpoints.send_test(demanding.deployment, trusted.id, tenant=None)).delivered
    await endpoints.set_status(demanding.deployment, trusted.id, "pause", tenant=None)
    # Nothing but its owner's wish had paused it.
    assert (await endpoints.verify(demanding.deployment, trusted.id, tenant=None)).verified
    assert (await endpoints.get(demanding.deployment, trusted.id, tenant=None)).status == EndpointStatus.PAUSED
    resumed = await endpoints.set_status(demanding.deployment, trusted.id, "resume", tenant=None)
    assert resumed.status == EndpointStatus.ENABLED


async def test_null_takes_a_tenant_back_to_the_deployments_rule(demanding: Outpost, receiver: Receiver) -> None:
    await _rule(demanding, False)
    await _rule(demanding, None)
    assert (await _registered(demanding, receiver.url("/hook"))).status == EndpointStatus.PAUSED
    shown = await quotas.show(demanding.deployment, "acme")
    assert (shown.verify_endpoints, shown.own) == (True, [])


async def test_endpoints_that_were_there_before_go_on_until_they_are_paused(
    outpost: Outpost, receiver: Receiver
) -> None:
    made = await _registered(outpost, receiver.url("/hook"))
    await _rule(outpost, True)
    await outpost.publish("job.step", tenant="acme")
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
    assert [json.loads(request.body)["type"] for request in receiver.requests] == ["job.step"]
    with pytest.raises(Conflict, match="endpoints verify"):
        await endpoints.send_test(outpost.deployment, made.id, tenant=None)
    await endpoints.set_status(outpost.deployment, made.id, "pause", tenant=None)
    with pytest.raises(Conflict, match="endpoints verify"):
        await endpoints.set_status(outpost.deployment, made.id, "resume", tenant=None)
    receiver.answers("/hook", repeat)
    assert (await endpoints.verify(outpost.deployment, made.id, tenant=None)).verified
    assert (await endpoints.get(outpost.deployment, made.id, tenant=None)).status == EndpointStatus.PAUSED
    resumed = await endpoints.set_status(outpost.deployment, made.id, "resume", tenant=None)
    assert resumed.status == EndpointStatus.ENABLED


async def test_what_waits_for_its_proof_goes_on_with_it_where_none_is_demanded_any_more(
    outpost: Outpost, receiver: Receiver
) -> None:
    receiver.answers("/hook", repeat)
    await _rule(outpost, True)
    made = await _registered(outpost, receiver.url("/hook"))
    await _rule(outpost, None)
    assert (await endpoints.verify(outpost.deployment, made.id, tenant=None)).verified
    assert (await endpoints.get(outpost.deployment, made.id, tenant=None)).status == EndpointStatus.ENABLED
