"""A job's events over HTTP: pages and waits; tenants; the job's status."""

import asyncio

import pytest

from tests.api.client import Api
from tests.api.desk import STREAM, Desk, stream
from tests.service.following import PATIENCE_S, watched


async def test_pages_in_order(desk: Desk) -> None:
    await desk.publish("job.started", "job.step", "job.step")
    first = (await desk.api.get("/v1/jobs/job_1/events?limit=2")).json
    assert [(event["sequence"], event["type"]) for event in first["data"]] == [(1, "job.started"), (2, "job.step")]
    assert set(first["data"][0]) == {"id", "type", "sequence", "timestamp", "data"}
    rest = (await desk.api.get(f"/v1/jobs/job_1/events?after={first['after']}")).json
    assert ([event["sequence"] for event in rest["data"]], rest["after"], rest["settled"]) == ([3], 3, False)
    end = (await desk.api.get("/v1/jobs/job_1/events?after=3")).json
    assert end == {"data": [], "after": 3, "settled": False}


async def test_data_keeps_its_numbers_and_duplicate_keys(desk: Desk) -> None:
    written = b'{"n":1.000000000000000000001,"n":2,"big":123456789012345678901234567890}'
    body = b'{"type":"job.step","job_id":"job_1","data":' + written + b"}"
    assert (await desk.api.send("POST", "/v1/events", raw=body)).status == 202
    await desk.publish()
    assert written in (await desk.api.get("/v1/jobs/job_1/events")).raw
    async with stream(desk.api, "/v1/jobs/job_1/events") as following:
        await following.content.readuntil(b"\n\n")
        assert written in await following.content.readuntil(b"\n\n")


async def test_a_wait_is_answered_when_an_event_is_numbered(desk: Desk) -> None:
    await desk.publish()
    waiting = asyncio.create_task(desk.api.get("/v1/jobs/job_1/events?after=1&wait=30"))
    await watched(desk.readers, 1)
    await desk.publish("job.completed")
    async with asyncio.timeout(PATIENCE_S):
        answered = (await waiting).json
    assert [event["type"] for event in answered["data"]] == ["job.completed"]


async def test_a_wait_that_outlasts_its_key_is_told_nothing(desk: Desk) -> None:
    key = (await desk.api.post("/v1/keys", {"tenant": "acme", "expires_in_s": 600})).json["key"]
    await desk.publish(tenant="acme")
    path = "/v1/jobs/job_1/events?after=1&wait=30"
    waiting = asyncio.create_task(desk.api.under(key).get(path))
    await watched(desk.readers, 1)
    desk.clock.advance(600)
    await desk.publish("job.completed", tenant="acme")
    async with asyncio.timeout(PATIENCE_S):
        answered = await waiting
    assert (answered.status, answered.problem) == (401, "unauthenticated")


async def test_a_job_that_nobody_has_mentioned_is_a_404_after_the_wait(desk: Desk) -> None:
    for query in ("", "?wait=0.01", "?after=7"):
        answered = await desk.api.get(f"/v1/jobs/job_1/events{query}")
        assert (answered.status, answered.problem) == (404, "not-found")
    async with stream(desk.api, "/v1/jobs/job_1/events?wait=0.01") as following:
        assert following.status == 404


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("after=-1", "#/after"),
        ("after=x", "#/after"),
        (f"after={1 << 63}", "#/after"),
        ("wait=31", "#/wait"),
        ("wait=nan", "#/wait"),
        ("wait=-0.1", "#/wait"),
        ("limit=0", "#/limit"),
        ("limit=201", "#/limit"),
        ("named=perhaps", "#/named"),
        ("cursor=x", "#/cursor"),
    ],
)
async def test_bad_values_are_a_422_that_names_them(api: Api, query: str, pointer: str) -> None:
    answered = await api.get(f"/v1/jobs/job_1/events?{query}")
    assert (answered.status, answered.pointers) == (422, [pointer])


async def test_a_last_event_id_that_is_none_of_ours_is_a_422(api: Api) -> None:
    for sent in ("x", "-1", "1.5", str(1 << 63), "9" * 5000):
        headers = {**STREAM, "Last-Event-ID": sent}
        answered = await api.send("GET", "/v1/jobs/job_1/events", headers=headers)
        assert (answered.status, answered.json["errors"][0]["in"]) == (422, "header"), sent


# Tenants


async def test_a_job_is_its_tenant_s_own(sqlite_desk: Desk) -> None:
    desk = sqlite_desk
    acme, rival = [
        desk.api.under((await desk.api.post("/v1/keys", {"tenant": tenant})).json["key"])
        for tenant in ("acme", "rival")
    ]
    await desk.publish(tenant="acme")
    for path in ("/v1/jobs/job_1", "/v1/jobs/job_1/events"):
        assert (await acme.get(path)).status == 200
        assert (await desk.api.get(f"{path}?tenant=acme")).status == 200
        for other in (rival.get(path), desk.api.get(path), desk.api.get(f"{path}?tenant=rival")):
            answered = await other
            assert (answered.status, answered.problem) == (404, "not-found"), path
        assert (await rival.get(f"{path}?tenant=acme")).status == 403
    # Both may have a job of that name, and each sees its own.
    await desk.publish("job.other", tenant="rival")
    (event,) = (await rival.get("/v1/jobs/job_1/events")).json["data"]
    assert event["type"] == "job.other"
    token = (await rival.post("/v1/jobs/job_1/link")).json["token"]
    (event,) = (await desk.api.under(None).get(f"/v1/jobs/job_1/events?token={token}")).json["data"]
    assert event["type"] == "job.other"


# Status


async def test_the_status_says_what_became_of_a_job(desk: Desk) -> None:
    hook = (await desk.api.post("/v1/endpoints", {"url": "https://example.com/hook?secret=abc"})).json["id"]
    await desk.publish("job.started", "job.step")
    status = (await desk.api.get("/v1/jobs/job_1")).json
    assert {name: status[name] for name in ("job_id", "tenant", "last_sequence", "not_fanned_out", "settled")} == {
        "job_id": "job_1",
        "tenant": "default",
        "last_sequence": 2,
        "not_fanned_out": 0,
        "settled": False,
    }
    (endpoint,) = status["endpoints"]
    assert (endpoint["endpoint_id"], endpoint["pending"], endpoint["delivered"]) == (hook, 2, 0)
    assert endpoint["url"].endswith("?secret=***")
    assert endpoint["waiting"]["sequence"] == 1
    assert (await desk.api.get("/v1/jobs/job_2")).status == 404
