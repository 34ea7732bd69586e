"""A job's events as a stream: what it brings, how it ends, what it may cost, and a browser that follows it."""

import asyncio
import re
import shutil
import weakref
from contextlib import aclosing

import aiohttp
import pytest
from aiohttp import web

from dispatcher.api import event_stream
from dispatcher.service import jobs, keys
from tests.api.desk import STREAM, Desk, Message, messages, open_desk, stream
from tests.clock import FakeClock
from tests.receiver import Receiver
from tests.service.following import PATIENCE_S, until, watched


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
        # The answer came after so much time; here it passes only when it is told to.
        desk.clock.advance(keys.BELIEVED_S)
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
