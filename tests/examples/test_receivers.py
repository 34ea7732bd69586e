"""Each example receiver, run as its reader runs it, takes an event once and refuses what is not signed."""

import json
import shutil
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dispatcher.rules.secrets import Secret
from tests.deployed import deployed
from tests.front import Front
from tests.npm import node_modules
from tests.programs import Program, running, running_python

_RECEIVERS = Path(__file__).resolve().parent.parent.parent / "examples" / "receivers"


def _flask(**environment: str) -> AbstractAsyncContextManager[Program]:
    return running_python(_RECEIVERS / "flask_receiver.py", **environment)


def _fastapi(**environment: str) -> AbstractAsyncContextManager[Program]:
    return running_python(_RECEIVERS / "fastapi_receiver.py", **environment)


def _plain(**environment: str) -> AbstractAsyncContextManager[Program]:
    return running_python(_RECEIVERS / "plain_python.py", **environment)


def _express(**environment: str) -> AbstractAsyncContextManager[Program]:
    modules = node_modules()
    node = shutil.which("node") or "node"
    return running(node, _RECEIVERS / "express" / "server.js", NODE_PATH=str(modules), **environment)


_ALL = [_flask, _fastapi, _plain, _express]


@pytest.mark.parametrize("started", _ALL, ids=["flask", "fastapi", "plain", "express"])
async def test_an_example_receiver_takes_an_event_once_however_often_it_is_sent(
    sqlite_url: str, front: Front, started: Any
) -> None:
    secret = Secret.generate().text
    async with deployed(sqlite_url) as deployment, started(WEBHOOK_SECRET=secret) as receiver:
        front.leads_to(await receiver.url())
        await deployment.post("/v1/endpoints", {"url": front.url("/hooks"), "secret": secret})
        front.fails(500)
        data = {"n": 1.50, "text": "tüv – 日本"}
        event = await deployment.post("/v1/events", {"type": "job.completed", "data": data, "job_id": "job_1"})
        await front.wait_for(2)
        await deployment.redeliver(event["id"])
        passed = await front.wait_for(3)
        assert [(one.attempt, one.replay, one.status) for one in passed] == [
            (1, False, 500),
            (2, False, 204),
            (3, True, 204),
        ]
        await deployment.post("/v1/events", {"type": "report.ready", "data": None})
        assert (await front.wait_for(4))[3].status == 204
        said = await receiver.says("received", 2)
        assert [line.split()[1] for line in said] == ["job.completed", "report.ready"]
        assert event["id"] in said[0]


@pytest.mark.parametrize("started", _ALL, ids=["flask", "fastapi", "plain", "express"])
async def test_an_example_receiver_refuses_what_is_not_signed_with_its_secret(
    sqlite_url: str, front: Front, started: Any
) -> None:
    async with deployed(sqlite_url, retry_schedule="24h") as deployment:
        async with started(WEBHOOK_SECRET=Secret.generate().text) as receiver:
            front.leads_to(await receiver.url())
            await deployment.post("/v1/endpoints", {"url": front.url("/hooks")})
            await deployment.post("/v1/events", {"type": "job.completed", "data": 1})
            assert [one.status for one in await front.wait_for(1)] == [401]
            async with (
                aiohttp.ClientSession() as session,
                session.post(await receiver.url() + "/hooks", data=b'{"id":"evt_1","type":"a"}') as answer,
            ):
                assert answer.status == 401
        assert receiver.said("received") == []


async def test_the_fastapi_receiver_applies_nothing_that_is_older_than_what_it_has(
    sqlite_url: str, front: Front
) -> None:
    secret = Secret.generate().text
    async with deployed(sqlite_url, retry_schedule="0s") as deployment, _fastapi(WEBHOOK_SECRET=secret) as receiver:
        front.leads_to(await receiver.url())
        await deployment.post("/v1/endpoints", {"url": front.url("/hooks"), "secret": secret})
        front.fails(500, 500)
        first = await deployment.post("/v1/events", {"type": "job.started", "data": 1, "job_id": "job_1"})
        await front.wait_for(2)
        await deployment.post("/v1/events", {"type": "job.completed", "data": 2, "job_id": "job_1"})
        await receiver.says("received job.completed")
        await deployment.redeliver(first["id"])
        assert (await front.wait_for(4))[3].status == 204
    assert [line.split()[1] for line in receiver.said("received")] == ["job.completed"]
    assert receiver.said("missed something of job_1")


async def test_the_fastapi_receiver_reads_what_it_missed_and_applies_it_first(sqlite_url: str, front: Front) -> None:
    secret = Secret.generate().text
    async with deployed(sqlite_url, retry_schedule="0s") as deployment:
        key = (await deployment.post("/v1/keys", {"tenant": "default"}))["key"]
        async with _fastapi(WEBHOOK_SECRET=secret, EVENTS_BASE_URL=deployment.url, EVENTS_KEY=key) as receiver:
            front.leads_to(await receiver.url())
            await deployment.post("/v1/endpoints", {"url": front.url("/hooks"), "secret": secret})
            front.fails(500, 500)
            missed = await deployment.post("/v1/events", {"type": "job.started", "data": 1, "job_id": "job/1"})
            await front.wait_for(2)
            last = await deployment.post("/v1/events", {"type": "job.completed", "data": 2, "job_id": "job/1"})
            assert (await front.wait_for(3))[2].status == 204
            await deployment.redeliver(missed["id"])
            assert (await front.wait_for(4))[3].status == 204
    assert [line.split()[1:] for line in receiver.said("received")] == [
        ["job.started", missed["id"]],
        ["job.completed", last["id"]],
    ]


async def test_the_fastapi_receiver_takes_nothing_while_it_cannot_read_what_it_missed(
    sqlite_url: str, front: Front
) -> None:
    secret = Secret.generate().text
    async with (
        deployed(sqlite_url, retry_schedule="0s") as deployment,
        _fastapi(WEBHOOK_SECRET=secret, EVENTS_BASE_URL=deployment.url, EVENTS_KEY="no key") as receiver,
    ):
        front.leads_to(await receiver.url())
        await deployment.post("/v1/endpoints", {"url": front.url("/hooks"), "secret": secret})
        front.fails(500, 500)
        await deployment.post("/v1/events", {"type": "job.started", "data": 1, "job_id": "job_1"})
        await front.wait_for(2)
        await deployment.post("/v1/events", {"type": "job.completed", "data": 2, "job_id": "job_1"})
        assert (await front.wait_for(3))[2].status == 503
    assert receiver.said("received") == []


def test_the_express_example_starts_as_its_package_says() -> None:
    package = json.loads((_RECEIVERS / "express" / "package.json").read_text())
    assert package["scripts"]["start"] == "node server.js"
    assert set(package["dependencies"]) == {"express", "standardwebhooks"}
