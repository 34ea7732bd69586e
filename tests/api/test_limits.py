"""What a slow, greedy or lying client can take of the API, on real sockets: it has an end, and others are served."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import pytest

from dispatcher.api import runner
from dispatcher.store.deployment import Deployment
from tests.api.client import ADMIN_KEY, Api
from tests.api.conftest import running_api

#: How long a test waits for what must come.
PATIENCE_S = 60.0
#: A limit that a test waits out.
SHORT_S = 0.3

KEY = b"Authorization: Bearer " + ADMIN_KEY.encode() + b"\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
EVENTS = b"GET /v1/events HTTP/1.1\r\nHost: a\r\n" + KEY + b"\r\n"
PUBLISH = b"POST /v1/events HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n" + KEY


@asynccontextmanager
async def connection(api: Api) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    address = urlsplit(api.base)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield reader, writer
    finally:
        writer.transport.abort()


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The next answer on a connection: its status, and its head and body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    return int(head.split(b" ")[1]), head + await reader.readexactly(int(length.split(b":")[1]))


async def ended(reader: asyncio.StreamReader) -> bool:
    """Whether the connection ends without another byte."""
    try:
        return await reader.read(1) == b""
    except ConnectionError:
        return True


async def ended_under(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, piece: bytes) -> bool:
    """The same while a piece is sent again and again."""
    while True:
        writer.write(piece)
        with suppress(TimeoutError):
            async with asyncio.timeout(SHORT_S / 10):
                return await ended(reader)


async def test_a_head_that_trickles_is_cut_off_at_its_time(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "HEAD_S", SHORT_S)
    async with connection(api) as (reader, writer):
        writer.write(HEALTH)
        assert (await answer(reader))[0] == 200
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n")
        assert await ended_under(reader, writer, b"X-A: b\r\n")
    assert (await api.get("/healthz")).status == 200


async def test_a_head_that_comes_in_pieces_and_in_time_is_served_however_long_its_request_lasts(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "HEAD_S", SHORT_S)
    head = b"GET /v1/jobs/j/events?wait=1 HTTP/1.1\r\nHost: a\r\n" + KEY + b"\r\n"
    async with connection(api) as (reader, writer):
        for piece in (head[:20], head[20:50], head[50:]):
            writer.write(piece)
            await writer.drain()
        status, _ = await answer(reader)
    assert status == 404


async def test_a_head_without_end_is_cut_off_at_its_size(api: Api) -> None:
    async with connection(api) as (reader, writer):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n")
        # As few headers as may be, each as long as may be.
        with suppress(ConnectionError):
            for number in range(runner.MOST_HEADERS - 10):
                writer.write(b"X-%d: " % number + b"x" * 8000 + b"\r\n")
                await writer.drain()
        assert await ended(reader)


async def test_too_many_headers_are_a_400(api: Api) -> None:
    async with connection(api) as (reader, writer):
        headers = b"".join(b"X-%d: y\r\n" % number for number in range(runner.MOST_HEADERS + 1))
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + headers + b"\r\n")
        assert (await answer(reader))[0] == 400


async def test_a_silent_connection_is_closed(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "IDLE_S", SHORT_S)
    async with running_api(deployment) as api, connection(api) as (fresh, _):
        assert await ended(fresh)
        async with connection(api) as (used, writer):
            writer.write(HEALTH)
            assert (await answer(used))[0] == 200
            assert await ended(used)


async def test_slow_bodies_hold_no_database_connection_and_end_as_408(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.api.request_body.BODY_S", 1.5)
    async with running_api(deployment) as api:
        assert (await api.get("/v1/events")).status == 200
        opened = [connection(api) for _ in range(40)]
        slow = [await one.__aenter__() for one in opened]
        for reader, writer in slow:
            writer.write(PUBLISH + b"Expect: 100-continue\r\nContent-Length: 100\r\n\r\n")
            assert b"100 Continue" in await reader.readuntil(b"\r\n\r\n")
            writer.write(b'{"type"')
        # More than the pool has connections, and all of them wait for their bodies now.
        assert deployment.database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
        assert (await api.get("/v1/events")).json["data"] == []
        for reader, _ in slow:
            status, text = await answer(reader)
            assert (status, b"problem-too-slow" in text) == (408, True)
        for one in opened:
            await one.__aexit__(None, None, None)


async def test_a_client_that_takes_nothing_of_its_answers_is_let_go(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "STALLED_S", SHORT_S)
    async with connection(api) as (_, writer):
        try:
            # It never reads, until neither side's buffers take any more.
            while True:
                writer.write(b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n" * 50)
                await writer.drain()
        except ConnectionError:
            pass
    assert (await api.get("/healthz")).status == 200


async def test_a_client_that_takes_its_answers_slowly_gets_all_of_them(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "STALLED_S", 2 * SHORT_S)
    count = 60
    size = len((await api.get("/openapi.json")).raw)
    async with connection(api) as (reader, writer):
        writer.write(b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n" * count)
        for _ in range(count):
            status, text = await answer(reader)
            assert (status, len(text) > size) == (200, True)
            await asyncio.sleep(SHORT_S / 15)


async def test_pipelined_requests_are_answered_in_turn(api: Api) -> None:
    async with connection(api) as (reader, writer):
        writer.write((HEALTH + EVENTS) * 200)
        for _ in range(200):
            assert b'"status":"ok"' in (await answer(reader))[1]
            assert b'"data":[]' in (await answer(reader))[1]


async def test_what_lies_behind_a_body_by_its_length_is_no_part_of_it(api: Api) -> None:
    async with connection(api) as (reader, writer):
        body = b'{"type":"a.b"}'
        writer.write(PUBLISH + b"Content-Length: %d\r\n\r\n" % len(body) + body + b'{"type":"c.d"}\r\n\r\n')
        while (status := (await answer(reader))[0]) == 202:
            pass
        assert status == 400
        assert await ended(reader)
    assert "c.d" not in [event["type"] for event in (await api.get("/v1/events")).json["data"]]


async def test_connections_beyond_the_limit_are_answered_503_and_probes_are_served(deployment: Deployment) -> None:
    async with running_api(deployment, most_connections=2) as api:
        async with connection(api) as (first, first_writer), connection(api) as (second, second_writer):
            for reader, writer in ((first, first_writer), (second, second_writer)):
                writer.write(EVENTS)
                assert (await answer(reader))[0] == 200
            async with connection(api) as (reader, writer):
                writer.write(EVENTS)
                status, text = await answer(reader)
                assert (status, b"problem-too-many-connections" in text) == (503, True)
                assert b"Retry-After: 5" in text
                assert await reader.read() == b""
            async with connection(api) as (reader, writer):
                writer.write(HEALTH)
                assert (await answer(reader))[0] == 200
                assert await reader.read() == b""
            # Those that were there before are served on.
            first_writer.write(EVENTS)
            assert (await answer(first))[0] == 200
        async with connection(api) as (reader, writer), asyncio.timeout(PATIENCE_S):
            writer.write(EVENTS)
            assert (await answer(reader))[0] in (200, 503)


async def test_a_connection_beyond_the_limit_does_not_last(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "BEYOND_S", SHORT_S)
    async with running_api(deployment, most_connections=1) as api, connection(api) as (reader, writer):
        writer.write(EVENTS)
        assert (await answer(reader))[0] == 200
        async with connection(api) as (beyond, _):
            assert await ended(beyond)
        writer.write(EVENTS)
        assert (await answer(reader))[0] == 200
