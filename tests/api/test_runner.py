"""What is no HTTP, or hardly, on a real socket: answered, and the server goes on."""

import asyncio
import json
from urllib.parse import urlsplit

import pytest

from tests.api.client import ADMIN_KEY, Api

GARBAGE = {
    "not HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "a bad version": b"GET /healthz HTTP/9.9.9\r\nHost: a\r\n\r\n",
    "a long URL": b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "a long header": b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-A: " + b"x" * 20_000 + b"\r\n\r\n",
    "a header with NUL": b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-A: b\x00c\r\n\r\n",
    "a space before the colon": b"GET /healthz HTTP/1.1\r\nHost : a\r\n\r\n",
    "a bad chunk": b"POST /v1/events HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + ADMIN_KEY.encode() + b"\r\n"
    b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "two lengths": b"POST /v1/events HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "length and chunks": b"POST /v1/events HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a negative length": b"POST /v1/events HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
}


#: What is more than is read, with the limit that the answer has to name.
TOO_MUCH = {
    "8190 bytes": b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "than 8190 bytes": b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-A: " + b"x" * 20_000 + b"\r\n\r\n",
    "100 headers": b"GET /healthz HTTP/1.1\r\n" + b"".join(b"X-%d: 1\r\n" % number for number in range(1000)) + b"\r\n",
}


async def exchange(api: Api, sent: bytes) -> bytes:
    address = urlsplit(api.base)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write(sent)
        await writer.drain()
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("name", GARBAGE)
async def test_what_is_no_http_is_a_400_problem_that_closes_the_connection(api: Api, name: str) -> None:
    answer = await exchange(api, GARBAGE[name])
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split(b" ")[1] == b"400", head
    assert b"application/problem+json" in head
    problem = json.loads(body)
    assert (problem["type"], problem["status"]) == ("/docs#problem-bad-request", 400)
    assert ADMIN_KEY.encode() not in body
    assert b"\r\nServer: dispatcher\r\n" in head
    assert (await api.get("/healthz")).status == 200


async def test_two_keys_are_one_too_many(api: Api) -> None:
    key = f"Authorization: Bearer {ADMIN_KEY}\r\n".encode()
    for keys, status in ((key, b"200"), (key + b"Authorization: Bearer other\r\n", b"401"), (key + key, b"401")):
        answer = await exchange(api, b"GET /v1/stats HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + keys + b"\r\n")
        assert answer.split(b" ")[1] == status
        assert (b"more than one Authorization header" in answer) is (status == b"401")


@pytest.mark.parametrize("limit", TOO_MUCH)
async def test_what_is_more_than_is_read_is_told_the_limit(api: Api, limit: str) -> None:
    _, _, body = (await exchange(api, TOO_MUCH[limit])).partition(b"\r\n\r\n")
    assert limit in json.loads(body)["detail"]


BROKEN_BODIES = {
    "ends in its middle": (b"Content-Length: 100", b'{"type": "a.b"'),
    "is not chunked": (b"Transfer-Encoding: chunked", b"zz\r\n"),
    "ends in a chunk": (b"Transfer-Encoding: chunked", b'e\r\n{"type"'),
}


@pytest.mark.parametrize("name", BROKEN_BODIES)
async def test_a_body_that_breaks_off_stores_nothing_and_is_no_fault_of_ours(
    api: Api, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    framing, body = BROKEN_BODIES[name]
    address = urlsplit(api.base)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(
        b"POST /v1/events HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer " + ADMIN_KEY.encode() + b"\r\n" + framing + b"\r\n\r\n"
    )
    assert b"100 Continue" in await reader.readuntil(b"\r\n\r\n")
    writer.write(body)
    writer.write_eof()
    assert b" 500 " not in await reader.read()
    writer.close()
    await writer.wait_closed()
    assert (await api.get("/v1/events")).json["data"] == []
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []
