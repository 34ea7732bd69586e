"""Hand-written receivers of five shapes accept what comes: at once, after failures, and when it is redelivered."""

import shutil
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dispatcher.service import deliveries
from dispatcher.settings import load
from dispatcher.store.deployment import open_deployment
from tests.deployed import ADMIN_KEY, LOCAL, Deployed, deployed
from tests.front import Front, Passed
from tests.npm import node_modules
from tests.programs import Program, running, running_python

_HERE = Path(__file__).parent
_DATA = {"task": "tüv – 1.50 €", "status": "success", "cost": 1.50}


def _statuses(passed: Sequence[Passed]) -> list[tuple[int, bool, int]]:
    return [(one.attempt, one.replay, one.status) for one in passed]


def _assert_same(passed: Sequence[Passed]) -> None:
    assert len({(one.id, one.body) for one in passed}) == 1


async def _assert_every_attempt_is_accepted(
    deployment: Deployed, front: Front, receiver: Program, event: dict[str, Any], *, key: str = ADMIN_KEY
) -> None:
    """One event that the front fails first, one that it does not, then the first one again."""
    front.fails(500, 503)
    published = await deployment.post("/v1/events", event, key)
    passed = await front.wait_for(3)
    accepted = passed[2].status
    assert 200 <= accepted < 300, passed[2].said
    assert _statuses(passed) == [(1, False, 500), (2, False, 503), (3, False, accepted)]
    await receiver.says("processed")

    await deployment.redeliver(published["id"])
    passed = await front.wait_for(4)
    assert (passed[3].attempt, passed[3].replay) == (4, True)
    assert 200 <= passed[3].status < 300, passed[3].said
    _assert_same(passed)

    await deployment.post("/v1/events", {**event, "data": event["data"] | {"task_id": "second"}}, key)
    passed = await front.wait_for(5)
    assert _statuses(passed[4:]) == [(1, False, accepted)]
    assert len(await receiver.says("processed", 2)) == 2


async def _asked_by_a_stranger(receiver: Program, path: str, headers: dict[str, str]) -> int:
    """The answer to a body with a signature of somebody else's."""
    headers = {"content-type": "application/json"} | headers
    async with (
        aiohttp.ClientSession() as session,
        session.post(await receiver.url() + path, data=b'{"id":"evt_1"}', headers=headers) as answer,
    ):
        return answer.status


async def test_shape_1_takes_a_bare_hex_signature_and_fields_at_the_top_level(sqlite_url: str, front: Front) -> None:
    secret = "a secret of words"
    async with (
        deployed(sqlite_url) as deployment,
        running_python(_HERE / "shape_1.py", WEBHOOK_SECRET=secret) as receiver,
    ):
        front.leads_to(await receiver.url())
        await deployment.post(
            "/v1/endpoints",
            {
                "url": front.url("/webhook"),
                "secret": secret,
                "profile": "flat",
                "signature_header": "X-Webhook-Signature",
                "signature_prefix": "",
            },
        )
        await _assert_every_attempt_is_accepted(
            deployment, front, receiver, {"type": "job.completed", "data": _DATA, "job_id": "job_1"}
        )
        assert await _asked_by_a_stranger(receiver, "/webhook", {"X-Webhook-Signature": "0" * 64}) == 401


def _shape_2_in_express(**environment: str) -> AbstractAsyncContextManager[Program]:
    modules = node_modules()
    return running(shutil.which("node") or "node", _HERE / "shape_2.js", NODE_PATH=str(modules), **environment)


def _shape_2_in_python(**environment: str) -> AbstractAsyncContextManager[Program]:
    return running_python(_HERE / "shape_2.py", **environment)


@pytest.mark.parametrize("started", [_shape_2_in_express, _shape_2_in_python], ids=["express", "python"])
async def test_shape_2_registers_under_webhooks_and_pastes_the_secret_it_got(
    sqlite_url: str, front: Front, started: Any
) -> None:
    defaults = {"profile": "flat", "signature_header": "X-Hub-Signature-256", "signature_prefix": "sha256="}
    async with deployed(sqlite_url, endpoint_defaults=defaults, egress_addresses="127.0.0.1") as deployment:
        key = (await deployment.post("/v1/keys", {"tenant": "acme"}))["key"]
        registered = await deployment.post(
            "/v1/webhooks", {"url": front.url("/webhook"), "events": ["job.completed", "job.failed"]}, key
        )
        addresses = (await deployment.get("/v1/egress"))["addresses"]
        settings = {"WEBHOOK_SECRET": registered["secret"], "ALLOWED_ADDRESSES": ",".join(addresses)}
        async with started(**settings) as receiver:
            front.leads_to(await receiver.url())
            event = {"type": "job.completed", "data": _DATA, "job_id": "job_1"}
            await _assert_every_attempt_is_accepted(deployment, front, receiver, event, key=key)
            forged = {"X-Hub-Signature-256": "sha256=" + "0" * 64}
            assert await _asked_by_a_stranger(receiver, "/webhook", forged) == 401


async def test_shape_3_gets_its_token_its_exact_event_types_and_a_mandatory_prefix(
    sqlite_url: str, front: Front
) -> None:
    secret, token = "provider-secret-42", "t/k+n=="
    async with (
        deployed(sqlite_url) as deployment,
        running_python(_HERE / "shape_3.py", WEBHOOK_SECRET=secret, WEBHOOK_TOKEN=token) as receiver,
    ):
        front.leads_to(await receiver.url())
        path = "/webhooks/provider?token=t%2Fk%2Bn=="
        await deployment.post(
            "/v1/endpoints",
            {
                "url": front.url(path),
                "secret": secret,
                "event_types": ["job.completed", "job.failed"],
                "profile": "flat",
                "signature_header": "X-Provider-Signature",
                "signature_prefix": "sha256=",
            },
        )
        await deployment.post("/v1/events", {"type": "job.completed.late", "data": _DATA})
        await _assert_every_attempt_is_accepted(deployment, front, receiver, {"type": "job.failed", "data": _DATA})
        assert await _asked_by_a_stranger(receiver, path, {"X-Provider-Signature": "0" * 64}) == 401


async def test_shape_4_registers_under_subscriptions_with_a_short_secret_of_its_own(
    sqlite_url: str, front: Front
) -> None:
    secret = "my-agent-webhook-secret"
    assert len(secret) == 23
    defaults = {"profile": "flat", "signature_header": "X-Agent-Signature", "signature_prefix": ""}
    async with (
        deployed(sqlite_url, endpoint_defaults=defaults) as deployment,
        running_python(_HERE / "shape_4.py", WEBHOOK_SECRET=secret) as receiver,
    ):
        front.leads_to(await receiver.url())
        for event_type in ("task.completed", "task.failed"):
            subscription = {"event_type": event_type, "target_url": front.url("/agent"), "secret": secret}
            assert (await deployment.post("/v1/webhooks/subscriptions", subscription))["secret"] == secret
        event = {"type": "task.failed", "data": {"task_id": "task_1", "status": "failed"}, "job_id": "task_1"}
        await _assert_every_attempt_is_accepted(deployment, front, receiver, event)
        assert await receiver.says("processed task.failed task_1 failed")
        assert await _asked_by_a_stranger(receiver, "/agent", {}) == 400
        assert await _asked_by_a_stranger(receiver, "/agent", {"X-Agent-Signature": "0" * 64}) == 403


@pytest.mark.parametrize("prefix", ["", "sha256="], ids=["bare", "prefixed"])
async def test_shape_5_passes_a_webhook_url_with_its_job_and_follows_it(
    sqlite_url: str, front: Front, prefix: str
) -> None:
    secret = "agentx-webhook-secret"
    settings = LOCAL | {
        "database_url": sqlite_url,
        "endpoint_defaults": (
            f'{{"profile": "flat", "signature_header": "X-AgentX-Signature", "signature_prefix": "{prefix}"}}'
        ),
    }
    environment = {f"DISPATCHER_{name.upper()}": str(value) for name, value in settings.items()}
    async with (
        running_python(_HERE / "shape_5.py", WEBHOOK_SECRET=secret) as receiver,
        running_python(_HERE / "agentx_api.py", WEBHOOK_SECRET=secret, **environment) as agent_api,
        aiohttp.ClientSession() as session,
    ):
        front.leads_to(await receiver.url())
        front.fails(500, 408)
        request = {"task": "two papers", "webhook_url": front.url("/callbacks/agentx")}
        async with session.post(await agent_api.url() + "/jobs", json=request) as answer:
            assert answer.status == 202
            job = await answer.json()
        assert job.keys() == {"job_id", "status"}
        passed = await front.wait_for(5)
        assert _statuses(passed) == [
            (1, False, 500),
            (2, False, 408),
            (3, False, 200),
            (1, False, 200),
            (1, False, 200),
        ]
        assert await receiver.says("processed", 3) == [
            "processed JOB_PROGRESS searching 50",
            "processed JOB_PROGRESS writing 100",
            "processed JOB_COMPLETED completed {'papers': 2}",
        ]
        await _redelivered(sqlite_url, passed[4].id, front)
        assert _statuses(front.passed[5:]) == [(2, True, 200)]
        _assert_same(front.passed[4:])
        assert await _asked_by_a_stranger(receiver, "/callbacks/agentx", {"X-AgentX-Signature": "0" * 64}) == 401


async def _redelivered(database_url: str, event_id: str, front: Front) -> None:
    """Sends an event again by the database alone, while another process dispatches."""
    before = len(front.passed)
    deployment = open_deployment(load(database_url=database_url, **LOCAL))
    try:
        [delivery] = (await deliveries.list_page(deployment, tenant=None, event_id=event_id)).data
        await deliveries.redeliver(deployment, delivery.id, tenant=None)
        await front.wait_for(before + 1)
    finally:
        await deployment.database.close()
