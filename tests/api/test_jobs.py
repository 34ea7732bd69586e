"""A job's events over HTTP: pages, waits, streams and links."""

import asyncio
import base64
import json
import re
import shutil
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from dispatcher.api import event_stream
from dispatcher.engine.dispatcher import open_store
from dispatcher.rules import job_links
from dispatcher.service import jobs
from dispatcher.service.job_readers import JobReaders
from dispatcher.store.deployment import Deployment, open_deployment
from dispatcher.store.hot import HotStore
from tests.api.client import Answered, Api
from tests.api.conftest import running_api, settings_for
from tests.clock import FakeClock
from tests.receiver import Receiver
from tests.service.following import PATIENCE_S, settle, until, watched

STREAM = {"Accept": "text/event-stream"}


@dataclass(frozen=True, slots=True)
class Desk:
    """An API with its readers, and what a dispatcher in its process does to them."""

    api: Api
    readers: JobReaders
    store: HotStore
    clock: FakeClock

    async def publish(self, *types: str, job_id: str = "job_1", **fields: Any) -> None:
        """Publishes events and has them numbered."""
        for event_type in types or ("job.step",):
            body = {"type": event_type, "job_id": job_id, "data": {"n": 1}, **fields}
            assert (await self.api.post("/v1/events", body)).status == 202
        while (fanned := await self.store.fan_out(1000)).events:
            self.readers.numbered(fanned.jobs)

    async def settle(self, job_id: str = "job_1") -> None:
        await settle(self.api.deployment.database, job_id)
        self.readers.numbered([])

    async def link(self, job_id: str = "job_1", **fields: object) -> Any:
        made = await self.api.post(f"/v1/jobs/{job_id}/link", fields)
        assert made.status == 201, made.raw
        return made.json


@asynccontextmanager
async def open_desk(url: str, clock: FakeClock, **given: Any) -> AsyncIterator[Desk]:
    deployment: Deployment = open_deployment(settings_for(url).model_copy(update=given), clock)
    store = open_store(deployment.database, deployment.settings)
    readers = JobReaders(deployment)
    try:
        await store.enrol("test", 1e6)
        async with running_api(deployment, readers=readers) as api:
            yield Desk(api, readers, store, clock)
    finally:
        await store.close()
        await deployment.database.close()


@pytest.fixture
async def desk(database_url: str, clock: FakeClock) -> AsyncIterator[Desk]:
    async with open_desk(database_url, clock) as opened:
        yield opened


@pytest.fixture
async def sqlite_desk(sqlite_url: str, clock: FakeClock) -> AsyncIterator[Desk]:
    async with open_desk(sqlite_url, clock) as opened:
        yield opened


@dataclass(frozen=True, slots=True)
class Message:
    """One message, as an EventSource would hand it out."""

    name: str
    id: str
    data: Any


async def messages(response: aiohttp.ClientResponse, count: int | None = None) -> list[Message]:
    """The next messages of a stream, or all up to its end."""
    found: list[Message] = []
    fields: dict[str, str] = {}
    while count is None or len(found) < count:
        line = (await response.content.readline()).decode()
        if not line:
            break
        name, _, value = line.rstrip("\n").partition(": ")
        if line != "\n":
            fields[name] = f"{fields[name]}\n{value}" if name == "data" and name in fields else value
        elif "data" in fields:
            found.append(Message(fields.get("event", "message"), fields["id"], json.loads(fields["data"])))
            fields = {}
        else:
            fields = {}
    return found


@asynccontextmanager
async def stream(api: Api, path: str, **headers: str) -> AsyncIterator[aiohttp.ClientResponse]:
    sent = {**STREAM, **{name.replace("_", "-"): value for name, value in headers.items()}}
    if api.key:
        sent["Authorization"] = f"Bearer {api.key}"
    async with asyncio.timeout(PATIENCE_S), api.session.get(api.base + path, headers=sent) as response:
        yield response


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


async def test_a_stream_brings_what_is_there_and_what_comes_and_ends_settled(desk: Desk) -> None:
    await desk.publish("job.started", "job.step")
    async with stream(desk.api, "/v1/jobs/job_1/events") as following:
        assert (following.status, following.content_type) == (200, "text/event-stream")
        assert following.headers["Cache-Control"] == "no-store"
        assert (await following.content.readline()).startswith(b"retry: ")
        there = await messages(following, 2)
        assert [(one.name, one.id, one.data["type"]) for one in there] == [
            ("message", "1", "job.started"),
            ("message", "2", "job.step"),
        ]
        await watched(desk.readers, 1)
        await desk.publish("job.completed")
        last, settled = await messages(following)
        page = (await desk.api.get("/v1/jobs/job_1/events?after=2")).json
        assert (last.id, last.data) == ("3", page["data"][0])
        assert settled == Message("settled", "3", {"after": 3, "settled": True})
    assert not desk.readers.count


async def test_a_stream_goes_on_behind_its_last_event_id_and_then_is_told_to_stop(desk: Desk) -> None:
    await desk.publish("job.started", "job.step", "job.step")
    path = "/v1/jobs/job_1/events?after=0"
    async with stream(desk.api, path) as following:
        broken = await messages(following, 2)
    async with stream(desk.api, path, Last_Event_ID=broken[-1].id) as following:
        assert [one.id for one in await messages(following, 1)] == ["3"]
    async with stream(desk.api, "/v1/jobs/job_1/events?after=3", Last_Event_ID="0") as following:
        assert [one.id for one in await messages(following, 1)] == ["1"]
    await desk.settle()
    async with stream(desk.api, path, Last_Event_ID="2") as following:
        assert [(one.name, one.id) for one in await messages(following)] == [("message", "3"), ("settled", "3")]
    async with stream(desk.api, path, Last_Event_ID="3") as following:
        assert (following.status, await following.read()) == (204, b"")


async def test_named_messages_have_the_type_as_name(sqlite_desk: Desk) -> None:
    await sqlite_desk.publish("job.started")
    async with stream(sqlite_desk.api, "/v1/jobs/job_1/events?named=true") as following:
        assert [one.name for one in await messages(following, 1)] == ["job.started"]


async def test_json_over_several_lines_arrives_whole(sqlite_desk: Desk) -> None:
    desk = sqlite_desk
    events = desk.api.deployment.database.tables.events
    async with desk.api.deployment.database.begin() as connection:
        await connection.execute(
            events.insert().values(
                type="job.step", job_id="job_1", data='{\n"a":\r\n[1,\r2]\n}', timestamp=desk.clock.now()
            )
        )
    await desk.publish()
    async with stream(desk.api, "/v1/jobs/job_1/events") as following:
        first, _ = await messages(following, 2)
    assert first.data["data"] == {"a": [1, 2]}


async def test_a_silent_stream_says_that_it_lives(sqlite_desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "HEARTBEAT_S", 0.01)
    await sqlite_desk.publish()
    async with stream(sqlite_desk.api, "/v1/jobs/job_1/events?after=1") as following:
        assert (await following.content.readuntil(b"\n\n")).startswith(b"retry")
        for _ in range(3):
            assert await following.content.readuntil(b"\n\n") == b":\n\n"


async def test_head_of_a_stream_has_no_body_and_holds_nothing(sqlite_desk: Desk) -> None:
    await sqlite_desk.publish()
    answered = await sqlite_desk.api.send("HEAD", "/v1/jobs/job_1/events", headers=STREAM)
    assert (answered.status, answered.raw) == (200, b"")
    assert not sqlite_desk.readers.count


async def test_a_stream_whose_client_has_left_is_let_go(sqlite_desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dispatcher.service.job_readers.PRESENCE_S", 0.01)
    await sqlite_desk.publish()
    async with stream(sqlite_desk.api, "/v1/jobs/job_1/events") as following:
        await messages(following, 1)
        assert sqlite_desk.readers.count
        following.close()
    await until(lambda: not sqlite_desk.readers.count)


async def test_a_client_that_reads_nothing_holds_up_nothing_and_is_let_go(
    sqlite_desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("dispatcher.api.app.STALLED_S", 0.2)
    caplog.set_level("DEBUG")
    desk, sent = sqlite_desk, 60 * 200_000
    await desk.publish(*["job.step"] * 60, data="x" * 200_000)
    host, port = desk.api.base.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
    head = f"GET /v1/jobs/job_1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {desk.api.key}\r\n"
    writer.write(f"{head}Accept: text/event-stream\r\n\r\n".encode())
    async with asyncio.timeout(PATIENCE_S):
        await reader.readline()
    await until(lambda: desk.readers.count == 1)
    assert (await desk.api.get("/healthz")).status == 200
    await until(lambda: not desk.readers.count)
    assert "api.stream_ended" in caplog.text
    read = 0
    try:
        while chunk := await reader.read(1 << 20):
            read += len(chunk)
    except ConnectionResetError:
        pass
    assert read < sent / 2
    writer.close()


async def test_readers_beyond_the_limit_get_a_429_with_retry_after(sqlite_url: str, clock: FakeClock) -> None:
    async with open_desk(sqlite_url, clock, max_readers=1) as desk:
        await desk.publish()
        async with stream(desk.api, "/v1/jobs/job_1/events") as following:
            await messages(following, 1)
            await watched(desk.readers, 1)
            for headers, query in ((STREAM, ""), ({}, "?after=1&wait=30")):
                answered = await desk.api.send("GET", f"/v1/jobs/job_1/events{query}", headers=headers)
                assert (answered.status, answered.problem) == (429, "too-many-readers")
                assert int(answered.headers["Retry-After"]) > 0
            assert (await desk.api.get("/v1/jobs/job_1/events")).status == 200


async def test_streams_that_come_all_at_once_are_limited_too(sqlite_url: str, clock: FakeClock) -> None:
    async with open_desk(sqlite_url, clock, max_readers=2) as desk:
        await desk.publish()
        sent = {**STREAM, "Authorization": f"Bearer {desk.api.key}"}
        asked = (desk.api.session.get(f"{desk.api.base}/v1/jobs/job_1/events?after=1", headers=sent) for _ in range(20))
        answered = await asyncio.gather(*asked)
        try:
            assert sorted(response.status for response in answered) == [200] * 2 + [429] * 18
        finally:
            for response in answered:
                response.close()


async def test_a_stream_keeps_nothing_of_what_it_has_sent(sqlite_desk: Desk) -> None:
    desk = sqlite_desk
    await desk.publish(*["job.step"] * 3)

    async def may() -> None:
        return None

    deployment, readers = desk.api.deployment, desk.readers
    first = await jobs.events_after(deployment, "job_1", tenant="default")
    sent = [weakref.ref(event) for event in first.data]
    parts = jobs.follow(deployment, readers, "job_1", tenant="default", first=first, silence_s=3600.0)
    async with aclosing(event_stream.stream(parts, named=False, check=may)) as body:
        for _ in range(4):
            await anext(body)
        following = asyncio.create_task(anext(body))
        await watched(readers, 1)
        assert [event() for event in sent] == [None] * 3
        await desk.publish()
        assert (await following).startswith(b"id: 4\n")


async def test_a_client_that_reads_nothing_does_not_hold_up_a_shutdown(sqlite_desk: Desk) -> None:
    desk = sqlite_desk
    await desk.publish(*["job.step"] * 60, data="x" * 200_000)
    host, port = desk.api.base.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
    head = f"GET /v1/jobs/job_1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {desk.api.key}\r\n"
    writer.write(f"{head}Accept: text/event-stream\r\n\r\n".encode())
    async with asyncio.timeout(PATIENCE_S):
        await reader.readline()
        await until(lambda: desk.readers.count == 1)
        await desk.api.app.shutdown()
        await until(lambda: not desk.readers.count)
    writer.close()


async def test_a_shutdown_ends_streams_and_waits_at_once(desk: Desk) -> None:
    await desk.publish()
    waiting = asyncio.create_task(desk.api.get("/v1/jobs/job_1/events?after=1&wait=30"))
    async with stream(desk.api, "/v1/jobs/job_1/events") as following:
        await messages(following, 1)
        await watched(desk.readers, 2)
        await desk.api.app.shutdown()
        assert await messages(following) == []
        assert (await waiting).json == {"data": [], "after": 1, "settled": False}


async def test_a_stream_under_a_key_that_is_revoked_ends(sqlite_desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "HEARTBEAT_S", 0.01)
    desk = sqlite_desk
    key = (await desk.api.post("/v1/keys", {"tenant": "acme"})).json
    await desk.publish(tenant="acme")
    async with stream(desk.api.under(key["key"]), "/v1/jobs/job_1/events") as following:
        await messages(following, 1)
        assert (await desk.api.delete(f"/v1/keys/{key['id']}")).status == 204
        with pytest.raises(aiohttp.ClientPayloadError):
            await messages(following)


async def test_a_stream_whose_link_expires_while_events_come_ends_before_the_next(desk: Desk) -> None:
    link = await desk.link(expires_in_s=600)
    await desk.publish()
    async with stream(desk.api.under(None), link["path"]) as following:
        assert [message.id for message in await messages(following, 1)] == ["1"]
        desk.clock.advance(600)
        await desk.publish()
        with pytest.raises(aiohttp.ClientPayloadError):
            await messages(following, 1)


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


# Links


async def test_a_link_opens_its_job_and_nothing_else(desk: Desk) -> None:
    link = await desk.link()
    assert link["path"] == f"/v1/jobs/job_1/events?token={link['token']}"
    nobody, bearer = desk.api.under(None), desk.api.under(link["token"])
    # Made before the job was mentioned: who made it vouches for it.
    assert (await nobody.get(link["path"])).json == {"data": [], "after": 0, "settled": False}
    await desk.publish("job.started")
    for answered in (await nobody.get(link["path"]), await bearer.get("/v1/jobs/job_1/events")):
        assert (answered.status, len(answered.json["data"])) == (200, 1)
    await desk.publish("job.started", job_id="job_2")
    other = await nobody.get(f"/v1/jobs/job_2/events?token={link['token']}")
    assert (other.status, other.problem) == (404, "not-found")
    assert "another job" in other.json["detail"]
    for answered in (
        await bearer.get("/v1/events"),
        await bearer.get("/v1/deliveries"),
        # It shows where a tenant's endpoints are.
        await bearer.get("/v1/jobs/job_1"),
        await bearer.post("/v1/jobs/job_1/link"),
        await bearer.post("/v1/jobs/job_1/callbacks", {"url": "https://example.com/"}),
    ):
        assert (answered.status, answered.problem) == (401, "unauthenticated")
    refused = await nobody.get(f"/v1/events?token={link['token']}")
    assert refused.status == 401
    assert (await nobody.get(f"{link['path']}&tenant=acme")).status == 403


async def test_an_expired_link_says_when_it_expired(desk: Desk) -> None:
    link = await desk.link(expires_in_s=600)
    assert link["expires_at"] == "2026-01-01T12:10:00Z"
    nobody = desk.api.under(None)
    desk.clock.advance(599)
    assert (await nobody.get(link["path"])).status == 200
    desk.clock.advance(1)
    answered = await nobody.get(link["path"])
    assert (answered.status, answered.problem) == (401, "unauthenticated")
    assert "expired at 2026-01-01T12:10:00Z" in answered.json["detail"]


async def test_a_stream_ends_when_its_link_expires(sqlite_desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "HEARTBEAT_S", 0.01)
    link = await sqlite_desk.link(expires_in_s=600)
    async with stream(sqlite_desk.api.under(None), link["path"]) as following:
        assert following.status == 200
        sqlite_desk.clock.advance(600)
        with pytest.raises(aiohttp.ClientPayloadError):
            await messages(following)


@pytest.mark.parametrize(
    "change", [lambda token: token[:-1], lambda token: token + "A", lambda token: "job_", str.upper]
)
async def test_a_link_that_was_changed_is_refused(sqlite_desk: Desk, change: Callable[[str], str]) -> None:
    link = await sqlite_desk.link()
    answered = await sqlite_desk.api.under(None).get(f"/v1/jobs/job_1/events?token={change(link['token'])}")
    assert (answered.status, answered.problem) == (401, "unauthenticated")


@pytest.mark.parametrize("seconds", [0, 7 * 86400 + 1, -5, "600"])
async def test_a_link_holds_for_a_second_to_a_week(api: Api, seconds: object) -> None:
    answered = await api.post("/v1/jobs/job_1/link", {"expires_in_s": seconds})
    assert (answered.status, answered.pointers) == (422, ["#/expires_in_s"])


async def test_any_key_of_the_ring_verifies(sqlite_url: str, clock: FakeClock) -> None:
    old, new = b"o" * 32, b"n" * 32
    for ring, status in (([new, old], 200), ([new], 401)):
        keys = ",".join(base64.b64encode(key).decode() for key in ring)
        settings = settings_for(sqlite_url).model_copy()
        deployment = open_deployment(type(settings)(database_url=sqlite_url, secret_key=keys), clock)
        token = job_links.issue([old], "default", "job_1", clock.now() + timedelta(hours=1))
        try:
            async with running_api(deployment) as api:
                assert (await api.under(None).get(f"/v1/jobs/job_1/events?token={token}")).status == status
        finally:
            await deployment.database.close()


async def test_pages_of_any_origin_may_read_with_a_link_and_with_a_link_only(sqlite_desk: Desk) -> None:
    link = await sqlite_desk.link()
    nobody = sqlite_desk.api.under(None)

    async def allowed(answered: Answered) -> str | None:
        return answered.headers.get("Access-Control-Allow-Origin")

    assert await allowed(await nobody.get(link["path"])) == "*"
    assert await allowed(await nobody.get("/v1/jobs/job_1/events?token=job_no")) == "*"
    for path in ("/v1/jobs/job_1/events", f"/v1/events?token={link['token']}", "/healthz"):
        assert await allowed(await nobody.get(path)) is None
    assert await allowed(await sqlite_desk.api.get("/v1/jobs/job_1")) is None
    answered = await nobody.get(link["path"])
    assert (answered.headers["Cache-Control"], answered.headers["Referrer-Policy"]) == ("no-store", "no-referrer")
    assert "Access-Control-Allow-Credentials" not in answered.headers


async def test_a_token_is_not_logged_even_with_a_fault_of_ours(
    sqlite_desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("the inside of the service")

    link = await sqlite_desk.link()
    monkeypatch.setattr(jobs, "events_after", broken)
    caplog.set_level("DEBUG")
    answered = await sqlite_desk.api.under(None).get(link["path"])
    assert answered.status == 500
    assert "route=/v1/jobs/{job_id}/events" in caplog.text
    for logged in (caplog.text, answered.raw.decode()):
        assert link["token"] not in logged


# A real EventSource


async def test_a_browser_s_event_source_of_another_origin_follows_to_the_end_and_stops(
    sqlite_desk: Desk, receiver: Receiver
) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium on the PATH")
    desk = sqlite_desk
    await desk.publish("job.started", "job.completed")
    await desk.settle()
    link = await desk.link()
    page = f"""<!doctype html><title>waiting</title><script>
        const seen = [];
        const source = new EventSource("{desk.api.base}{link["path"]}");
        source.onmessage = (message) => seen.push(JSON.parse(message.data).type);
        source.addEventListener("settled", () => seen.push("settled"));
        // Not closed here: the server's 204 to the reconnection is what ends it.
        source.onerror = () => {{
          if (source.readyState === EventSource.CLOSED) document.title = seen.join(" ");
        }};
    </script>"""
    receiver.answers("/page", lambda received: web.Response(text=page, content_type="text/html"))
    process = await asyncio.create_subprocess_exec(
        chromium,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=20000",
        "--dump-dom",
        receiver.url("/page"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(50):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    title = re.search(r"<title>(.*?)</title>", said.decode())
    assert title
    assert title[1] == "job.started job.completed settled"
