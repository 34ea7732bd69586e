"""`dispatcher serve`: a real process, from its first line to a clean stop."""

import asyncio
import json
import re
import signal
import ssl
from pathlib import Path

import aiohttp

from tests.cli.conftest import Process, Started
from tests.outpost import SECRET_KEY
from tests.receiver import Receiver
from tests.transport.certificates import Authority

LOCAL = {"allow_http": "true", "allow_networks": "127.0.0.0/8", "port": "0", "log_format": "json"}


async def address(process: Process) -> str:
    """Where it listens, from the line that says so."""
    found = re.search(r"https?://[^ ]+", await process.line("Serving on"))
    assert found
    return found[0]


async def test_it_serves_delivers_and_stops_cleanly_on_sigterm(
    started: Started, empty_sqlite_url: str, receiver: Receiver
) -> None:
    async with started("serve", database_url=empty_sqlite_url, **LOCAL) as process:
        base = await address(process)
        key = (await process.line("Admin key")).split()[-1]
        async with aiohttp.ClientSession(base, headers={"Authorization": f"Bearer {key}"}) as session:
            assert (await session.get("/readyz")).status == 200
            made = await session.post("/v1/endpoints", json={"url": receiver.url("/hook")})
            assert made.status == 201, await made.text()
            published = await session.post("/v1/events", json={"type": "job.completed", "data": {"n": 1}})
            assert published.status == 202
            event_id = (await published.json())["id"]
        (request,) = await receiver.wait_for(1, "/hook")
        assert request.headers["webhook-id"] == event_id
        # What it would leave there has everybody's signing keys.
        assert re.search(r"Max core file size +0 ", Path(f"/proc/{process.process.pid}/limits").read_text())
        await process.line('"delivery.attempted"')
        process.process.send_signal(signal.SIGTERM)
        assert await process.end() == 0
        secret = (await made.json())["secret"]
        assert not any(secret in line for line in process.lines)
        assert sum(key in line for line in process.lines) == 1


async def test_a_second_one_on_the_same_file_is_refused_with_the_holder_s_pid(
    started: Started, empty_sqlite_url: str
) -> None:
    async with started("serve", database_url=empty_sqlite_url, **LOCAL) as first:
        await address(first)
        for command in ("serve", "work"):
            async with started(command, database_url=empty_sqlite_url, **LOCAL) as second:
                assert await second.end() == 1
                assert f"pid {first.process.pid}" in await second.line("error:")
        first.process.send_signal(signal.SIGINT)
        assert await first.end() == 0
        await first.line("dispatcher.stopped")


async def test_a_port_that_is_taken_is_told_in_one_line(
    started: Started, empty_sqlite_url: str, receiver: Receiver
) -> None:
    port = receiver.url().split(":")[2].strip("/")
    async with started("serve", "--port", port, database_url=empty_sqlite_url, log_level="error") as process:
        assert await process.end() == 1
        assert port in await process.line("error: cannot listen on")
        assert not any("Traceback" in line for line in process.lines)


async def test_a_bulk_redelivery_is_followed_to_its_end(
    started: Started, empty_sqlite_url: str, receiver: Receiver
) -> None:
    receiver.answers("/hook", 500, 200)
    settings = {"database_url": empty_sqlite_url, **LOCAL}
    async with started("endpoints", "create", receiver.url("/hook"), "--retry-schedule", "", **settings) as made:
        assert await made.end() == 0
    async with started("serve", **settings) as serving:
        await address(serving)
        async with started("events", "publish", "job.completed", "--data", '{"n":1}', **settings) as published:
            assert await published.end() == 0
        await serving.line('"verdict":"dead"')
        run = ("dead-letters", "redeliver", "--all", "--yes", "--wait", "--json")
        async with started(*run, **settings) as followed:
            assert await followed.end() == 0
            (answer,) = [json.loads(line) for line in followed.lines]
        assert (answer["state"], answer["matched"], answer["done"], answer["skipped"]) == ("done", 1, 1, 0)
        first, second = await receiver.wait_for(2, "/hook")
        assert first.headers["webhook-id"] == second.headers["webhook-id"]
        assert first.body == second.body
        serving.process.send_signal(signal.SIGTERM)
        assert await serving.end() == 0


async def test_an_admin_key_that_is_set_is_not_printed(started: Started, empty_sqlite_url: str) -> None:
    admin_key = "an-admin-key-that-is-set"
    async with started("serve", database_url=empty_sqlite_url, admin_key=admin_key, **LOCAL) as process:
        base = await address(process)
        async with aiohttp.ClientSession(base) as session:
            answered = await session.get("/v1/stats", headers={"Authorization": f"Bearer {admin_key}"})
            assert answered.status == 200
        process.process.send_signal(signal.SIGTERM)
        assert await process.end() == 0
        assert not any(admin_key in line for line in process.lines)


async def test_it_serves_https_with_files_that_are_read_again_on_sighup(
    started: Started, empty_sqlite_url: str, tmp_path: Path
) -> None:
    authority = Authority.make(tmp_path)
    authority.server("127.0.0.1")
    file = tmp_path / "server.pem"
    trusting = ssl.create_default_context(cafile=str(authority.trusted))
    async with started("serve", "--tls-cert", str(file), database_url=empty_sqlite_url, **LOCAL) as process:
        base = await address(process)
        assert base.startswith("https://")
        async with aiohttp.ClientSession(base, connector=aiohttp.TCPConnector(ssl=trusting)) as session:
            assert (await session.get("/readyz")).status == 200
        authority.server("127.0.0.1")
        process.process.send_signal(signal.SIGHUP)
        await process.line("tls.renewed")
        async with aiohttp.ClientSession(base, connector=aiohttp.TCPConnector(ssl=trusting)) as session:
            assert (await session.get("/readyz")).status == 200
        process.process.send_signal(signal.SIGTERM)
        assert await process.end() == 0


async def test_a_certificate_that_cannot_be_read_keeps_it_from_starting(
    started: Started, empty_sqlite_url: str
) -> None:
    for settings in ({"tls_cert": "/nowhere/fullchain.pem"}, {"tls_key": "/nowhere/key.pem"}):
        async with started("serve", database_url=empty_sqlite_url, **LOCAL, **settings) as process:
            assert await process.end() == 1
            assert "DISPATCHER_TLS_CERT" in await process.line("error:")
            assert not any("Traceback" in line for line in process.lines)


async def test_it_stops_at_once_with_readers_who_wait(started: Started, empty_sqlite_url: str) -> None:
    # Longer than a test's patience: a stop that waited for the readers would never end.
    settings = {"database_url": empty_sqlite_url, "admin_key": "a-key-that-is-set", "shutdown_grace": "1h", **LOCAL}
    async with started("serve", **settings) as process:
        base = await address(process)
        async with aiohttp.ClientSession(base, headers={"Authorization": "Bearer a-key-that-is-set"}) as session:
            published = await session.post("/v1/events", json={"type": "job.step", "job_id": "job_1", "data": 1})
            assert published.status == 202
            async with session.get(
                "/v1/jobs/job_1/events?wait=30", headers={"Accept": "text/event-stream"}
            ) as following:
                assert (await following.content.readline()).startswith(b"retry: ")
                assert await following.content.readline() == b"\n"
                assert (await following.content.readuntil(b"\n\n")).startswith(b"id: 1\n")
                # The dispatcher in this process wakes them: no floor is that fast on average.
                await session.post("/v1/events", json={"type": "job.step", "job_id": "job_1", "data": 2})
                assert (await following.content.readuntil(b"\n\n")).startswith(b"id: 2\n")
                process.process.send_signal(signal.SIGTERM)
                assert await following.content.read() == b""
        assert await process.end() == 0


async def test_a_reader_at_one_process_gets_what_any_process_numbers(started: Started, postgres_url: str) -> None:
    key = "a-key-that-is-set"
    settings = {"database_url": postgres_url, "admin_key": key, "secret_key": SECRET_KEY, **LOCAL}
    events = 30
    async with (
        started("serve", **settings) as reads,
        started("serve", **settings) as publishes,
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session,
    ):
        read_from, published_at = await address(reads), await address(publishes)
        stream = f"{read_from}/v1/jobs/job_1/events?wait=30"
        following = asyncio.create_task(session.get(stream, headers={"Accept": "text/event-stream"}))
        ids = []
        for number in range(events):
            body = {"type": "job.step", "job_id": "job_1", "data": number}
            async with session.post(f"{published_at}/v1/events", json=body) as published:
                ids.append((await published.json())["id"])
        seen: list[str] = []
        async with await following as answer:
            while len(seen) < events:
                line = await answer.content.readline()
                if line.startswith(b"data: "):
                    seen.append(json.loads(line.removeprefix(b"data: "))["id"])
        assert seen == ids
